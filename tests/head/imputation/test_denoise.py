"""head=imputation/denoise: its loss by hand, what it must not do to data, refusals, a new donor by command and API."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import scfm
from scfm.datasets.synthetic import synthetic_cells
from scfm.head.imputation.denoise import Denoise
from scfm.metrics.denoising import explained_deviance, false_positive_share, marker_leak, mean_correlation
from support import SMALL, command

TRAIN = tuple(part for part in SMALL if "positions" not in part and "tokens_per_batch" not in part)
WITHOUT_MODEL = tuple(part for part in TRAIN if not part.startswith("model."))


def made(spec, **options):
    return Denoise(spec, **{"genes_out": 40, "gene_components": 8, "hidden": 8, **options})


@pytest.fixture
def head(cells, tiny, spec):
    found = made(spec)
    found.prepare(cells.survey(tiny))
    return found.eval()


def test_loss_is_the_negative_binomial_of_the_hidden_molecules(head, tiny, cells):
    batch = cells.batch(range(12), seed=3, counts=True)
    part, hidden = head.thin(batch)
    with torch.no_grad():
        found = head(tiny, batch)
        shares = head.shares(head.state(tiny, part)).double().numpy()
        theta = head.log_dispersion.exp().double().numpy()
    x = hidden.double().numpy()
    mean = x.sum(axis=1, keepdims=True) * shares
    oracle = -stats.nbinom.logpmf(x, theta, theta / (theta + mean)).mean()
    assert found["loss"].item() == pytest.approx(oracle, rel=1e-3)
    assert found["d2"].item() == pytest.approx(explained_deviance(x, shares, head.means.double().numpy()), rel=1e-4)


def test_read_and_hidden_molecules_add_up_and_the_cell_decides_how_many(head, cells):
    batch = cells.batch(range(60), seed=3, counts=True)
    part, hidden = head.thin(batch)
    whole = head.gene_counts(batch)
    torch.testing.assert_close(head.gene_counts(part) + hidden, whole)
    assert (hidden >= 0).all()
    share = (hidden.sum(1) / whole.sum(1)).numpy()
    assert 0.02 < share.min() < share.max() < 0.62
    assert share.std() > 0.05
    again, other = head.thin(batch)[1], head.thin(cells.batch(range(60), seed=4, counts=True))[1]
    assert torch.equal(hidden, again)
    assert not torch.equal(hidden, other)


def test_shares_sum_to_1_and_expected_counts_to_the_total_of_the_cell(head, tiny, cells):
    batch = cells.batch(range(20), counts=True)
    denoised = head.predict(tiny, batch)["denoised"]
    torch.testing.assert_close(denoised.sum(1), head.gene_counts(batch).sum(1))
    assert (denoised >= 0).all()


def test_molecules_that_were_not_read_are_predicted_and_training_goes_on(tiny, cells, spec):
    head = made(spec)
    head.prepare(cells.survey(tiny))
    assert head.told.float().mean() > 0.3
    assert head.explained > 0.1
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    fixed = cells.batch(range(60), seed=1000, counts=True)
    before = head.eval()(tiny, fixed)
    head.train()
    for step in range(30):
        drawn = np.random.default_rng(step).permutation(len(cells))[:48]
        loss = head(tiny, cells.batch(drawn, seed=step, counts=True))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert head.eval()(tiny, fixed)["loss"] < before["loss"]


def test_what_is_predicted_of_a_cell_does_not_depend_on_others_and_survives_saving(head, tiny, cells, spec):
    fresh = made(spec)
    fresh.load_state_dict(head.state_dict(), strict=True)
    fresh.eval()
    with torch.inference_mode():
        many = head.predict(tiny, cells.batch(range(20), counts=True))["denoised"]
        alone = fresh.predict(tiny, cells.batch([7, 90], counts=True))["denoised"]
    torch.testing.assert_close(many[7], alone[0], atol=1e-4, rtol=1e-4)


def test_genes_that_are_not_told_keep_their_mean_share_in_every_cell_after_training(head, tiny, cells):
    with torch.no_grad():
        head.told[:5] = False
        head.told[5:] = True
        torch.nn.init.normal_(head.deep[-1].weight)
        batch = cells.batch(range(30), counts=True)
        denoised = head.predict(tiny, batch)["denoised"]
        shares = denoised / denoised.sum(1, keepdim=True)
    torch.testing.assert_close(shares[:, :5], head.means[:5].expand(30, 5), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"genes_out": 1}, "head.genes_out=1; expected at least 2"),
        ({"gene_components": 0}, "head.gene_components=0; expected a number above 0"),
        ({"thinning": [0.0, 0.5]}, "head.thinning"),
        ({"thinning": [0.5, 0.1]}, "head.thinning"),
        ({"thinning": [0.5]}, "head.thinning"),
        ({"thinning": [0.1, 1.0]}, "head.thinning"),
        ({"errors": -1.0}, "head.errors=-1.0; expected a weight, 0 or more"),
        ({"hidden": -1}, "head.hidden=-1"),
        ({"dropout": 1.0}, "head.dropout=1.0"),
        ({"max_tokens": 2}, "head.max_tokens=2"),
    ],
)
def test_numbers_out_of_their_range_are_refused(options, message, spec):
    with pytest.raises(ValueError, match=message):
        made(spec, **options)


def test_too_few_cells_decimals_and_cells_without_counts_are_refused(tiny, cells, spec):
    from dataclasses import replace

    few = np.arange(len(cells)) < 19
    with pytest.raises(ValueError, match="19 training cells.*at least 20"):
        made(spec).prepare(cells.survey(tiny, train=few))
    decimals = replace(cells.survey(tiny), counts=lambda rows: cells.token_counts(rows) * 1.1)
    with pytest.raises(ValueError, match="no whole numbers.*without counts=decimals_ok"):
        made(spec).prepare(decimals)
    with pytest.raises(ValueError, match="keeps ranks only: prepare it again with keep_counts=true"):
        made(spec).predict(tiny, cells.batch(range(3)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Cells of four donors, three of them learned from; twenty genes are independent of all else. A fine-tuned head."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("denoise")
    cells = synthetic_cells(n_cells=480, n_genes=120, n_types=3, seed=1)
    cells.obs["donor"] = [f"d{i % 4}" for i in range(480)]
    rng = np.random.default_rng(0)
    counts = np.asarray(cells.X.todense())
    depth = counts.sum(axis=1, keepdims=True)
    counts[:, :20] = rng.poisson(depth * rng.uniform(0.002, 0.02, size=20))
    cells.X = counts.astype(np.float32)
    new = cells.obs["donor"] == "d3"
    cells[~new].copy().write_h5ad(folder / "cells.h5ad")
    cells[new].copy().write_h5ad(folder / "new.h5ad")
    command("prepare", f"input={folder / 'cells.h5ad'}", f"output={folder / 'store'}", "obs=[donor]", "workers=1",
            "keep_counts=true")  # fmt: skip
    steps = ("trainer.max_steps=6", "data.max_length=130", "data.tokens_per_batch=4096")
    command("train", f"output={folder / 'pre'}", f"store={folder / 'store'}", *TRAIN, *steps)
    command("finetune", "head=imputation/denoise", f"init_from={folder / 'pre/checkpoints/last.ckpt'}",
            f"store={folder / 'store'}", f"output={folder / 'run'}", "head.genes_out=100", "head.gene_components=16",
            "adapt=frozen", "validate_every=3", "data.val=0.1", "data.test=0.1", "calibration=0", "data.group=null",
            *WITHOUT_MODEL, *steps)  # fmt: skip
    source, target = folder / "new.h5ad", folder / "out.h5ad"
    command("embed", f"init_from={folder / 'run/checkpoints/best.ckpt'}", f"input={source}", f"output={target}",
            "trainer.accelerator=cpu", "trainer.enable_progress_bar=false")  # fmt: skip
    return folder


def columns(cells, genes):
    """Columns of the genes, whose tokens are symbols or Ensembl ids."""
    places = [cells.var_names.get_indexer(genes), pd.Index(cells.var["gene_id"]).get_indexer(genes)]
    found = np.maximum(*places)
    assert (found >= 0).all()
    return found


def test_a_new_donor_by_command_and_in_python(runs):
    source, found = ad.read_h5ad(runs / "new.h5ad"), ad.read_h5ad(runs / "out.h5ad")
    about = found.uns["scfm"]["X_scfm"]["head"]
    genes = columns(source, about["genes"])
    assert found.obsm["scfm_denoised"].shape == (120, len(genes)) == (120, 100)
    assert "invalid" in about["note"]
    np.testing.assert_array_equal(found.X, source.X)
    np.testing.assert_allclose(
        found.obsm["scfm_denoised"].sum(axis=1), np.ravel(source[:, genes].X.sum(axis=1)), rtol=1e-3
    )
    model = scfm.load(runs / "run/checkpoints/best.ckpt", device="cpu")
    model.embed(source)
    np.testing.assert_allclose(source.obsm["scfm_denoised"], found.obsm["scfm_denoised"], rtol=1e-3, atol=1e-4)


def test_a_new_donor_is_predicted_without_harm(runs):
    """Better than gene means, random halves alike, no raised correlation, no markers of other types."""
    source, found = ad.read_h5ad(runs / "new.h5ad"), ad.read_h5ad(runs / "out.h5ad")
    about = found.uns["scfm"]["X_scfm"]["head"]
    genes = columns(source, about["genes"])
    counts, denoised = np.asarray(source[:, genes].X), found.obsm["scfm_denoised"]
    assert about["d2_before_training"] > 0.05
    types = source.obs["cell_type"].astype("category").cat.codes.to_numpy()
    one = np.flatnonzero(types == 0)
    shares = denoised / denoised.sum(axis=1, keepdims=True)
    halves = [np.random.default_rng(seed).permutation(len(one)) < len(one) // 2 for seed in range(20)]
    assert np.mean([false_positive_share(shares[one], half) for half in halves]) < 0.08
    alone = genes < 20
    raw = counts / counts.sum(axis=1, keepdims=True)
    assert alone.sum() > 10
    assert mean_correlation(shares[:, alone]) <= mean_correlation(raw[:, alone]) + 0.05
    assert abs(marker_leak(counts, denoised, types)) < 0.1


def test_a_store_without_counts_is_refused(runs, tmp_path):
    start = f"init_from={runs / 'pre/checkpoints/last.ckpt'}"
    command("prepare", f"input={runs / 'cells.h5ad'}", f"output={tmp_path / 'ranks'}", start, "workers=1")
    with pytest.raises(ValueError, match="keeps ranks only, no counts: prepare it again with keep_counts=true"):
        command("finetune", "head=imputation/denoise", f"store={tmp_path / 'ranks'}", start,
                f"output={tmp_path / 'run'}", *WITHOUT_MODEL)  # fmt: skip
