"""Tokens of decimals that are counts: value over total over median, as for integers."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from prepared import lists
from scfm.preparation.api import prepare


def test_tokens_equal_plain_numpy(cells, fitted, tmp_path):
    part = cells[:40].copy()
    part.X = csr_matrix(part.X, dtype=np.float64)
    part.X.data = np.round(part.X.data * np.random.default_rng(0).uniform(0.8, 1, part.X.nnz) * 20, 4)
    part.write_h5ad(tmp_path / "x.h5ad")
    columns = fitted.harmonize(list(part.var["gene_id"])).columns
    medians, expected = fitted.medians, []
    for row in part.X.toarray():
        scores = row / row.sum() * 10_000 / medians[columns]
        order = np.lexsort((columns, -scores))
        expected.append([2, *columns[order[scores[order] > 0]][:62].tolist(), 3])
    store = prepare(tmp_path / "x.h5ad", tmp_path / "s", fitted, counts="decimals_ok")
    assert lists(store) == expected
    with pytest.raises(ValueError, match="counts=decimals_ok"):
        prepare(tmp_path / "x.h5ad", tmp_path / "t", fitted)


def test_the_reference_case(shared, fitted_on, tmp_path):
    path = shared / "cases" / "files" / "o14_soupx.h5ad"
    store = prepare(path, tmp_path / "s", fitted_on(path), counts="decimals_ok")
    assert len(store) == 24
