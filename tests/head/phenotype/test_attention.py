"""The head from the commands a user types to cells of donors that nothing was fitted on."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scfm
from support import SMALL, command

FAST = ("trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
WITHOUT_MODEL = tuple(part for part in SMALL if not part.startswith(("model.", "data.tokens")))


def finetune(donors, output, *options):
    return command(
        "finetune", "head=phenotype/attention", f"init_from={donors.checkpoint}", f"store={donors.store}",
        f"output={output}", "adapt=frozen", "trainer.max_steps=2", "validate_every=2", "data.max_length=64",
        "data.tokens_per_batch=2048", "data.val=0.2", "data.test=0.2", "head.gene_components=16", *WITHOUT_MODEL,
        *options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(donors, tmp_path_factory):
    output = tmp_path_factory.mktemp("phenotype") / "run"
    finetune(donors, output, "head.label=response", "head.batch_key=batch")
    return output


def test_donors_that_nothing_was_fitted_on_are_named_and_their_cells_found(run, donors, tmp_path):
    command("embed", f"init_from={run / 'checkpoints/best.ckpt'}", f"input={donors.folder / 'new.h5ad'}",
            f"output={tmp_path / 'out.h5ad'}", *FAST)  # fmt: skip
    found = ad.read_h5ad(tmp_path / "out.h5ad")
    table = pd.DataFrame(found.uns["scfm"]["X_scfm"]["head"]["samples"])
    assert len(table) == 4 and not table["trained_on"].any()
    assert table["n_cells"].sum() == found.n_obs
    called = np.where(table["probability_yes"] > 0.5, "yes", "no")
    assert (called == table["truth"]).all()
    means = found.obs.groupby("donor", observed=True)["scfm_attention"].mean()
    np.testing.assert_allclose(means, 1, rtol=1e-4)
    own = (found.obs["response"] == "yes") & (found.obs["cell_type"] == "type 1")
    assert found.obs["scfm_phenotype_score"][own].mean() > found.obs["scfm_phenotype_score"][~own].mean() + 0.5


def test_the_api_says_the_same_and_a_saved_copy_too(run, donors, tmp_path):
    cells = ad.read_h5ad(donors.folder / "new.h5ad")
    model = scfm.load(run / "checkpoints/best.ckpt")
    model.annotate(cells)
    again = cells.copy()
    scfm.load(model.save(tmp_path / "copy.ckpt")).annotate(again)
    np.testing.assert_allclose(again.obs["scfm_attention"], cells.obs["scfm_attention"])
    first = cells.obs["donor"] == cells.obs["donor"].iloc[0]
    alone = cells[first].copy()
    model.annotate(alone)  # other samples of a file do not matter
    np.testing.assert_allclose(alone.obs["scfm_attention"], cells.obs["scfm_attention"][first], rtol=1e-4)


def test_a_file_without_the_column_is_one_sample(run, donors, caplog):
    cells = ad.read_h5ad(donors.folder / "new.h5ad")
    del cells.obs["donor"]
    scfm.load(run / "checkpoints/best.ckpt").annotate(cells)
    assert "read as one sample" in caplog.text
    assert cells.obs["scfm_attention"].mean() == pytest.approx(1, rel=1e-4)
    assert list(cells.uns["scfm"]["X_scfm"]["head"]["samples"]["sample"]) == ["all cells"]


def test_the_report_shows_the_samples(run):
    page = (run / "report.html").read_text()
    assert "Samples" in page and "probability yes" in page and (run / "attention.png").is_file()


@pytest.mark.parametrize(
    ("options", "metric"),
    [
        (("head.label=dose", "head.kind=value", "head.within=cell_type"), "spearman"),
        (("head.label=response", "head.kind=ordinal", "head.inducing=4"), "spearman"),
        (("head.label=dose", "head.kind=survival", "head.event=seen"), "concordance"),
        (("head.label=response", "head.branches=true", "head.instances=4", "head.pool=attention"), "auc"),
    ],
)
def test_other_kinds_train_load_and_predict(donors, tmp_path, options, metric):
    import json

    finetune(donors, tmp_path / "run", *options, "report=false", "adapt=full")
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert f"test/{metric}" in metrics
    cells = ad.read_h5ad(donors.folder / "new.h5ad")
    scfm.load(tmp_path / "run/checkpoints/best.ckpt").annotate(cells)
    assert np.isfinite(cells.obs["scfm_attention"]).all()
    assert np.isfinite(cells.obs["scfm_phenotype_score"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("head.label=response", "data.group=null"), "keep donors whole with data.group=donor"),
        (("head.label=lane", "head.batch_key=response"), "the label follows 'response'"),
        (("head.label=cell_type",), "the label is not constant in"),
        (("head.label=response", "head.min_cells=32"), "donor.s. with enough cells"),
        (("head.label=response", "head.min_cells=1"), "bags of at least 2 cells"),
        (("head.label=response", "head.width=65"), "widths up to 64"),
        (("head.label=response", "head.kind=survival"), "head.event"),
        (("head.label=response", "head.kind=rank"), "head.kind"),
        (("head.label=response", "head.sample=patient"), "head.sample='patient'"),
        (("head.label=response", "head.within=types"), "head.within='types'"),
        (("head.label=dose",), "head.label='dose' is not a categorical"),
    ],
)
def test_refusals(donors, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        finetune(donors, tmp_path / "run", *options)
