"""Decimals that are counts, and logarithms, which are none."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scfm.cells.file import open_cells


def corrected(counts, seed=0):
    result = counts.astype(np.float64).copy()
    result.data = np.round(result.data * np.random.default_rng(seed).uniform(0.8, 1, result.nnz), 4)
    return result


def normalized(counts, total=1e4):
    result = csr_matrix(counts, dtype=np.float64)
    result = csr_matrix(result.multiply(total / result.sum(1)))
    result.data = np.log1p(result.data)
    return result


@pytest.fixture
def deep(cells):
    cells.X = csr_matrix(cells.X * 20)
    return cells


def test_decimals_are_taken_as_they_are(deep, h5ad):
    deep.X = corrected(deep.X)
    path = h5ad(deep)
    with pytest.raises(ValueError, match=r"X holds fractions.*counts=decimals_ok.*logarithms.*counts=lognorm_ok"):
        open_cells(path)
    with open_cells(path, counts="decimals_ok") as opened:
        assert not opened.is_counts
        assert (next(opened.blocks()).counts != deep.X).nnz == 0


def test_integers_go_before_decimals(deep, h5ad, caplog):
    deep.layers["counts"] = corrected(deep.X)
    with open_cells(h5ad(deep), counts="decimals_ok") as opened:
        assert (opened.counts_from, opened.is_counts) == ("X", True)
    assert "layers['counts'] holds fractions" in caplog.text


@pytest.mark.parametrize("total", [1e3, 1e4, 1e5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logarithms_are_refused(cells, h5ad, total, dtype):
    cells.X = normalized(cells.X, total).astype(dtype)
    with pytest.raises(ValueError, match=r"no counts found.*no logarithms \(after expm1, all cells have one total\)"):
        open_cells(h5ad(cells), counts="decimals_ok")


def test_shallow_decimals_are_taken_with_a_warning(cells, h5ad, caplog):
    cells.X = corrected(cells.X)
    with open_cells(h5ad(cells), counts="decimals_ok") as opened:
        assert opened.counts_from == "X"
    assert "X holds decimals below 12" in caplog.text


@pytest.mark.parametrize("value", [-0.5, np.nan, np.inf])
def test_values_that_are_no_counts_are_refused(deep, h5ad, value):
    deep.X = corrected(deep.X)
    deep.X.data[7] = value
    with pytest.raises(ValueError, match="no counts found"):
        open_cells(h5ad(deep), counts="decimals_ok")
