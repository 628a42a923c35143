"""Predicted shifts: closed forms by hand, planted truth, new groups by command, refusals."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

import scfm
from scfm.datasets.synthetic import synthetic_cells
from scfm.head.perturbation.shift import energy
from scfm.head.perturbation.shift_fit import fit_shift, group_means, unseen_shift
from scfm.metrics.shift import energy_distance, shift_scores
from support import SMALL, command

WITHOUT_MODEL = tuple(part for part in SMALL if not part.startswith(("model.", "data.tokens")))


def perturbed(n_cells=480, seed=1):
    """Four patients, each treated and not; the drug raises 10 genes and lowers 10 to a common level."""
    cells = synthetic_cells(
        n_cells=n_cells, n_genes=100, n_types=2, n_batches=4, n_donors=4, depth=1500, batch_strength=0.6, seed=seed
    )
    treated = np.random.default_rng(seed).random(n_cells) < 0.5
    counts = cells.X.toarray()
    counts[np.ix_(treated, np.arange(10))] += 30
    counts[np.ix_(treated, np.arange(10, 20))] = 0
    cells.X = csr_matrix(counts)
    cells.obs["condition"] = pd.Categorical(np.where(treated, "drug", "ctrl"))
    cells.obs["lone"] = pd.Categorical(["ctrl"] * n_cells)
    return cells


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("shift")
    cells = perturbed()
    new = (cells.obs["donor"] == "donor 4").to_numpy()
    known = cells[~new].copy()
    known.obs["donor"] = known.obs["donor"].cat.remove_unused_categories()
    known.write_h5ad(folder / "cells.h5ad")
    cells[new].copy().write_h5ad(folder / "new.h5ad")
    command("prepare", f"input={folder / 'cells.h5ad'}", f"output={folder / 'store'}", "workers=1",
            "obs=[condition,donor,lone]", "group=donor", "keep_counts=true")  # fmt: skip
    command("train", f"store={folder / 'store'}", f"output={folder / 'pre'}", *SMALL, "model.positions=256",
            "data.max_length=32", "trainer.max_steps=2")  # fmt: skip
    return folder


def finetune(made, output, *options):
    return command(
        "finetune", "head=perturbation/shift", f"init_from={made / 'pre/checkpoints/last.ckpt'}",
        f"store={made / 'store'}", f"output={output}", "adapt=frozen", "trainer.max_steps=2", "validate_every=2",
        "data.tokens_per_batch=4096", "data.val=0.3", "data.test=0", "head.label=condition",
        "head.control=ctrl", "head.group=donor", "report=false", *WITHOUT_MODEL, *options,
    )  # fmt: skip


def test_a_patient_that_was_never_treated_by_command_and_api(made, tmp_path):
    finetune(made, tmp_path / "run")
    best = tmp_path / "run/checkpoints/best.ckpt"
    cells = ad.read_h5ad(made / "new.h5ad")
    controls = cells[cells.obs["condition"] == "ctrl"].copy()
    controls.write_h5ad(tmp_path / "controls.h5ad")
    command("embed", f"init_from={best}", f"input={tmp_path / 'controls.h5ad'}", f"output={tmp_path / 'out.h5ad'}",
            "trainer.accelerator=cpu", "trainer.enable_progress_bar=false")  # fmt: skip
    about = ad.read_h5ad(tmp_path / "out.h5ad").uns["scfm"]["X_scfm"]["head"]
    assert list(about["groups"]) == ["donor 4"] and list(about["conditions"]) == ["drug"]
    place = [list(cells.var["gene_id"]).index(gene) for gene in about["genes"]]
    counts = cells.X.toarray()
    logs = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    drug = (cells.obs["condition"] == "drug").to_numpy()
    measured = (logs[drug].mean(0) - logs[~drug].mean(0))[place]
    assert shift_scores(about["change"][0], measured)["pearson"] > 0.9
    scfm.load(best).annotate(cells)
    along = cells.obs["scfm_shift_drug"]
    assert along[drug].mean() == pytest.approx(1, abs=0.35) and abs(along[~drug].mean()) < 0.1


def test_the_metrics_of_a_held_out_patient_and_of_genes_never_perturbed(made, tmp_path):
    import json

    gene = ad.read_h5ad(made / "cells.h5ad").var_names[3]
    finetune(made, tmp_path / "run", f"head.unseen=[{gene},drug+{gene}]")
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["val/pearson"] > 0.8 and metrics["val/mse"] < 2 * metrics["val/mse_mean_shift"]
    cells = ad.read_h5ad(made / "new.h5ad")
    scfm.load(tmp_path / "run/checkpoints/best.ckpt").embed(cells)
    assert {"scfm_shift_drug", f"scfm_shift_{gene}", f"scfm_shift_drug+{gene}"} <= set(cells.obs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("head.control=placebo",), "head.control='placebo' is not in 'condition'; it has ctrl, drug"),
        (("head.label=lone",), "has the control alone"),
        (("head.group=site",), "head.group='site'"),
        (("data.group=null",), "keep them whole with data.group=donor"),
        (("head.min_cells=1",), "head.min_cells=1"),
        (("head.min_cells=5000",), "no group has enough control cells"),
        (("head.unseen=[NOTAGENE]",), "no gene of the vocabulary"),
    ],
)
def test_refusals(made, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        finetune(made, tmp_path / "run", *options)


def test_the_shift_and_lambda_by_hand():
    control = np.array([[0.0, 1.0], [2.0, 1.0], [1.0, 4.0]])
    end = np.array([3.0, 2.0])  # treated cells of all groups end at one place: a full return
    change = np.full((3, 2, 2), np.nan)
    change[:, 1] = end - control
    from scfm.head.perturbation.shift_fit import Means

    found = fit_shift(Means(control, change))
    assert found.back == pytest.approx(1.0)
    np.testing.assert_allclose(found.predict(np.array([7.0, -1.0]))[1], end - [7.0, -1.0])
    assert np.isnan(found.shift[0]).all()
    same = change.copy()
    same[:, 1] = [1.0, -1.0]  # the same change everywhere: no return
    assert fit_shift(Means(control, same)).back == pytest.approx(0.0, abs=1e-9)
    one = fit_shift(Means(control[:1], change[:1]))
    assert one.back == 0 and np.allclose(one.shift[1], change[0, 1])
    with pytest.raises(ValueError, match="no group has enough"):
        fit_shift(Means(control, np.full((3, 2, 2), np.nan)))


def test_means_need_enough_cells():
    x = np.arange(12.0).reshape(6, 2)
    means = group_means(x, np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 0, 1]), 0, 2, 2, 2)
    np.testing.assert_allclose(means.change[0, 1], x[2:4].mean(0) - x[:2].mean(0))
    assert np.isnan(means.control[1]).all() and np.isnan(means.change[1]).all() and np.isnan(means.change[0, 0]).all()


def test_codes_help_where_shifts_follow_them_and_the_mean_stays_where_not():
    rng = np.random.default_rng(0)
    codes, map_ = rng.normal(size=(30, 4)), rng.normal(size=(4, 50))
    new = rng.normal(size=4)
    found = unseen_shift(codes, codes @ map_ + 2, new)
    assert np.corrcoef(found, new @ map_ + 2)[0, 1] > 0.95
    noise = rng.normal(size=(30, 50))
    left = unseen_shift(codes, noise, new)
    assert np.abs(left - noise.mean(0)).max() < 0.7 * np.abs(found).max()
    np.testing.assert_allclose(unseen_shift(codes[:2], noise[:2], new), noise[:2].mean(0))


def test_energy_distance_by_hand_and_in_torch():
    x, y = np.array([[0.0], [1.0]]), np.array([[3.0], [5.0]])
    expected = 2 * np.mean([3, 5, 2, 4]) - 1 - 2
    assert energy_distance(x, y) == pytest.approx(expected)
    assert float(energy(torch.tensor(x), torch.tensor(y))) == pytest.approx(expected)
    rng = np.random.default_rng(0)
    assert abs(energy_distance(rng.normal(size=(300, 3)), rng.normal(size=(300, 3)))) < 0.1


def test_scores_by_hand():
    measured = np.array([2.0, -1.0, 0.5, 0.0])
    found = shift_scores(measured * 0.5, measured, common=np.ones(4), n_top=2)
    assert found["pearson"] == pytest.approx(1) and found["pearson_top"] == pytest.approx(1)
    assert found["mse"] == pytest.approx((measured**2).mean() / 4) and found["direction_top20"] == 1
    assert shift_scores(np.zeros(4), measured)["pearson"] == 0
