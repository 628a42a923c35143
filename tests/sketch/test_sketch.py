"""Sketches of files: leverage against linear algebra, rare states kept, refusals."""

from contextlib import contextmanager

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scfm.sketch import scores as scores_module
from scfm.sketch.features import Embedded, Features, choose_genes
from scfm.sketch.scores import density_scores, leverage_scores
from scfm.sketch.sketch import SketchOptions, draw_sketch
from support import command


class Matrix(Features):
    """A matrix in memory, in blocks of 37 rows."""

    def __init__(self, values):
        self.values, (self.n_cells, self.width) = values, values.shape

    def blocks(self, advance=lambda n: None):
        for low in range(0, self.n_cells, 37):
            yield low, self.values[low : low + 37]


@contextmanager
def silent(title):
    yield lambda n: None


def made_file(path, n=600, rare=12, seed=0):
    """Three types, one of them rare, in two batches; an embedding beside."""
    rng = np.random.default_rng(seed)
    kind = np.where(np.arange(n) < rare, 2, rng.integers(0, 2, n))
    rate = rng.gamma(1.0, 1.0, (3, 80))[kind]
    rate[kind == 2, :6] += 12
    cells = ad.AnnData(csr_matrix(rng.poisson(rate).astype(np.float32)))
    cells.obs_names = [f"c{i}" for i in range(n)]
    cells.obs["type"] = pd.Categorical(np.array(["a", "b", "rare"])[kind])
    cells.obs["batch"] = pd.Categorical(np.where(rng.random(n) < 0.2, "small", "large"))
    cells.obsm["X_scfm"] = np.eye(3)[kind] * 4 + rng.normal(0, 1, (n, 3))
    cells.write_h5ad(path)
    return cells


@pytest.mark.parametrize("rank", [6, 3])
def test_leverage_is_that_of_the_orthogonal_factor(rank):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, rank)) @ rng.normal(size=(rank, 6))
    u, s, _ = np.linalg.svd(values, full_matrices=False)
    exact = (u[:, s > 1e-8] ** 2).sum(1)
    found = leverage_scores(Matrix(values), 0, silent)
    np.testing.assert_allclose(found, exact, atol=1e-6)
    assert found.sum() == pytest.approx(rank)


def test_the_sketched_leverage_comes_near_the_exact_one(monkeypatch):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3000, 40)) * rng.gamma(0.5, 2, (3000, 1))
    exact = (np.linalg.qr(values)[0] ** 2).sum(1)
    monkeypatch.setattr(scores_module, "EXACT", 10)
    found = leverage_scores(Matrix(values), 0, silent)
    assert np.corrcoef(found, exact)[0, 1] > 0.95
    assert found.sum() == pytest.approx(exact.sum(), rel=0.1)


def test_sparse_regions_have_larger_density_scores():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=(400, 4)), 20 + 5 * rng.normal(size=(30, 4))])
    found = density_scores(Matrix(values), 0, silent)
    assert found[400:].min() > np.median(found[:400])


def test_genes_that_vary_beyond_their_mean_are_chosen():
    rng = np.random.default_rng(0)
    logs = rng.poisson(np.linspace(0.5, 3, 50), (400, 50)).astype(float)
    logs[:, 7] *= rng.integers(0, 2, 400) * 3
    assert 7 in choose_genes(logs.mean(0), (logs**2).mean(0), 5)
    with pytest.raises(ValueError, match="no gene varies"):
        choose_genes(np.ones(3), np.ones(3), 2)


@pytest.mark.parametrize(
    "options", [{}, {"method": "density"}, {"key": "X_scfm"}, {"method": "density", "key": "X_scfm"}]
)
def test_rare_states_are_kept_and_weights_undo_it(tmp_path, options):
    cells = made_file(tmp_path / "cells.h5ad")
    rare = (cells.obs["type"] == "rare").to_numpy()
    shares = []
    for seed in range(8):
        chosen = draw_sketch(tmp_path / "cells.h5ad", SketchOptions(n=60, seed=seed, **options))
        assert len(chosen) == 60 and chosen["row"].is_unique
        assert (cells.obs_names[chosen["row"]] == chosen["cell"]).all()
        own = rare[chosen["row"]]
        shares.append((own.sum(), (own * chosen["weight"]).sum()))
    plain, weighted = np.mean(shares, axis=0)
    assert plain > (1.2 if options.get("method") == "density" else 1.5) * 60 * 12 / 600
    assert weighted == pytest.approx(12, rel=0.6)


def test_the_block_size_does_not_matter_and_memory_equals_file(tmp_path):
    made_file(tmp_path / "cells.h5ad")
    one, two = (
        draw_sketch(tmp_path / "cells.h5ad", SketchOptions(n=40, by="batch", block_size=size)) for size in (64, 600)
    )
    pd.testing.assert_frame_equal(one, two)
    three = draw_sketch(ad.read_h5ad(tmp_path / "cells.h5ad"), SketchOptions(n=40, by="batch"))
    pd.testing.assert_frame_equal(one, three)
    assert one["group"].value_counts().to_dict() == {"small": 20, "large": 20}


def test_by_command_a_table_and_a_file(tmp_path):
    cells = made_file(tmp_path / "cells.h5ad")
    for name in ("out.csv", "out.h5ad"):
        command("sketch", f"input={tmp_path / 'cells.h5ad'}", f"output={tmp_path / name}", "n=50", "by=batch")
    table, found = pd.read_csv(tmp_path / "out.csv"), ad.read_h5ad(tmp_path / "out.h5ad")
    assert table["row"].tolist() == found.obs["scfm_row"].tolist()
    np.testing.assert_allclose(found.obs["scfm_weight"], table["weight"])
    np.testing.assert_array_equal(found.X.toarray(), cells.X[table["row"]].toarray())
    assert (found.obs["type"] == cells.obs["type"].iloc[table["row"]].to_numpy()).all()
    assert ad.read_h5ad(tmp_path / "cells.h5ad").obs.columns.tolist() == ["type", "batch"]
    with pytest.raises(FileExistsError):
        command("sketch", f"input={tmp_path / 'cells.h5ad'}", f"output={tmp_path / 'out.csv'}", "n=50")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("n=700",), "n=700, but .* has 600 cells"),
        (("n=0",), "n=0; expected a whole number"),
        (("n=10", "method=random"), "method='random'"),
        (("n=10", "by=donor"), "no column 'donor'"),
        (("n=1", "by=batch"), "2 groups, but n=1"),
        (("n=10", "key=X_pca"), "no matrix 'X_pca'; it has X_scfm"),
        (("n=10", "output=x.txt"), "expected .csv"),
        (("n=10", "block_size=0"), "block_size=0"),
    ],
)
def test_refusals(tmp_path, options, message):
    made_file(tmp_path / "cells.h5ad")
    with pytest.raises(ValueError, match=message):
        command("sketch", f"input={tmp_path / 'cells.h5ad'}", f"output={tmp_path / 'out.csv'}", *options)


def test_an_embedding_with_nan_is_refused(tmp_path):
    cells = made_file(tmp_path / "cells.h5ad")
    cells.obsm["X_scfm"][5, 0] = np.nan
    cells.write_h5ad(tmp_path / "nan.h5ad")
    with pytest.raises(ValueError, match="cell 5 has no finite"):
        draw_sketch(tmp_path / "nan.h5ad", SketchOptions(n=10, key="X_scfm"))
    (tmp_path / "cells.txt").write_text("no cells")
    with pytest.raises(ValueError, match="cells.txt is no .h5ad; key='X_scfm' names an embedding in obsm"):
        Embedded(tmp_path / "cells.txt", "X_scfm", 10)
    with pytest.raises(ValueError, match="reads obsm of a file"):
        draw_sketch(cells, SketchOptions(n=10, key="X_scfm"))
