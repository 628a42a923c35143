"""The two factorizations are those of dense linear algebra, and put genes that occur together near each other."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scfm.model.start.factorization import correspondence_embedding, ppmi_embedding


@pytest.fixture
def table():
    """(cells, genes) 0 or 1: four programmes of ten genes, one of which each cell mostly expresses."""
    rng = np.random.default_rng(0)
    kind, programme = rng.integers(0, 4, 600), np.arange(40) // 10
    return (rng.random((600, 40)) < np.where(kind[:, None] == programme, 0.7, 0.1)).astype(np.float32)


def blocks(table, size=77):
    return [csr_matrix(table[i : i + size]) for i in range(0, len(table), size)]


def dense_ppmi(table):
    n, df = len(table), table.sum(0)
    with np.errstate(divide="ignore"):
        found = np.maximum(np.log(n * (table.T @ table) / np.outer(df, df)), 0)
    np.fill_diagonal(found, 0)
    return found


def gram(embedding):
    return embedding @ embedding.T


def test_correspondence_is_the_dense_svd(table):
    share = table.astype(np.float64) / table.sum()
    rows, columns = share.sum(1), share.sum(0)
    expected = np.outer(rows, columns)
    _, values, right = np.linalg.svd((share - expected) / np.sqrt(expected), full_matrices=False)
    found = correspondence_embedding(lambda: blocks(table), 40, 6, passes=60, seed=0)
    np.testing.assert_allclose(gram(found), gram(right[:6].T * values[:6]), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), values[:6], rtol=1e-4)


def test_ppmi_is_the_dense_svd(table):
    left, values, _ = np.linalg.svd(dense_ppmi(table))
    found = ppmi_embedding(blocks(table), 40, 6, passes=60, seed=0)
    np.testing.assert_allclose(gram(found), gram(left[:, :6] * np.sqrt(values[:6])), atol=1e-4)


def test_more_genes_than_a_block_of_rows(monkeypatch, table):
    whole = ppmi_embedding(blocks(table), 40, 6, passes=20, seed=0)
    monkeypatch.setattr("scfm.model.start.factorization.ROWS", 7)
    np.testing.assert_array_equal(ppmi_embedding(blocks(table), 40, 6, passes=20, seed=0), whole)


@pytest.mark.parametrize("kind", ["ppmi", "correspondence"])
def test_blocks_of_cells_do_not_matter_and_planted_programmes_are_found(table, kind):
    def embed(size):
        if kind == "ppmi":
            return ppmi_embedding(blocks(table, size), 40, 5, passes=5, seed=0)
        return correspondence_embedding(lambda: blocks(table, size), 40, 5, passes=5, seed=0)

    found = embed(50)
    np.testing.assert_allclose(gram(found), gram(embed(600)), atol=1e-4)
    found = found - found.mean(0)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    same = np.equal.outer(np.arange(40) // 10, np.arange(40) // 10)
    likeness = gram(found)
    assert likeness[same].mean() > 0.6
    assert likeness[~same].mean() < 0.0


def test_a_cell_without_a_gene_changes_nothing(table):
    more = np.vstack([table, np.zeros((3, 40), dtype=np.float32)])
    found, again = (correspondence_embedding(lambda t=t: blocks(t), 40, 6, passes=9, seed=0) for t in (table, more))
    np.testing.assert_allclose(gram(found), gram(again), atol=1e-6)
