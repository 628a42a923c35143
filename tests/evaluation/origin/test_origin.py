"""Whether cells are known to be those that a head learned from, and what is said where that is not known."""

from dataclasses import replace

import numpy as np
import pytest

from scfm.evaluation.cells import read_cells
from scfm.evaluation.options import Options
from scfm.evaluation.origin.lookup import Matches, match_genes, match_names
from scfm.evaluation.origin.origin import check_corpora, check_head
from scfm.store.token_store import TokenStore
from scfm.types import Ragged


@pytest.fixture
def cells(make_adata):
    adata = make_adata(120)
    adata.obs["scfm_type"], adata.obs["scfm_type_confidence"] = adata.obs["type"].astype(str), 0.9
    return read_cells(adata, Options(label="type"))[0]


def found(counts, names, genes=0.0):
    """A lookup that finds these shares of the cells."""

    def lookup(cell_names, matrix):
        place = np.arange(len(cell_names)) / len(cell_names)
        return Matches(place < counts, place < genes, place < names)

    return lookup


@pytest.mark.parametrize(
    ("training", "fair", "words"),
    [
        (None, False, "is not known; give split="),
        (found(0.5, 0.0), False, "50.0% of the labeled cells are in the store"),
        (found(0.0, 1.0), False, "100.0% of the labeled cells have the cell names of cells in the store"),
        (found(0.2, 0.0, 0.7), False, "70.0% of the labeled cells are in the store"),
        (found(0.0, 0.9, 0.8), False, "90.0% of the labeled cells are in the store"),
        (found(0.0, 0.05, 0.005), True, "not found in the store"),
        (found(0.0, 0.0), True, "not found in the store that the head was fine-tuned on, by counts, leading genes or"),
    ],
)
def test_a_head_is_scored_only_where_its_training_cells_were_looked_for_and_not_found(cells, training, fair, words):
    judged, note = check_head(cells, "type", training)
    assert judged is fair
    assert words in note
    assert not note.startswith("No cell")
    assert training is None or "cell names" in note, "what was compared is said"


def test_only_labeled_cells_count(cells):
    few = replace(cells, codes=np.where(np.arange(120) < 60, -1, cells.codes))
    assert check_head(few, "type", found(0.5, 0.5))[0]
    assert not check_head(few, "type", found(0.6, 0.6))[0]


def test_a_corpus_is_recognized_by_counts_or_by_names(cells):
    rows = np.arange(120)
    (counts,) = check_corpora(cells, rows, {"atlas": found(0.25, 0.25)})
    assert counts.startswith("25.0% of the scored cells are in atlas")
    (names,) = check_corpora(cells, rows, {"atlas": found(0.0, 0.5)})
    assert "50.0% of the scored cells have the cell names of cells in atlas" in names
    assert check_corpora(cells, rows, {"atlas": found(0.0, 0.1)}) == []


def test_names_are_looked_up_in_a_store(made_store):
    store = TokenStore.open(made_store)
    names = np.array(["cell3", "other", "cell239", "cell240"], dtype=object)
    np.testing.assert_array_equal(match_names(store, names), [True, False, True, False])


def test_leading_genes_find_cells_of_which_genes_are_lacking(made_store):
    """Of a file that lacks genes of the store, and of one that has more; other cells are not found."""
    store = TokenStore.open(made_store)
    genes = store.vocab.gene_ids
    long = np.flatnonzero(store.lengths >= 21)[:5]
    tokens = store.gather(long)
    lacking = genes[[0, 7]]
    kept = ~np.isin(tokens.values, lacking)
    owner = np.repeat(np.arange(len(long)), tokens.lengths)[kept]
    filtered = Ragged(tokens.values[kept], np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(long)))]))
    columns = np.setdiff1d(genes, lacking)
    assert (filtered.lengths >= 16).any()
    known = match_genes(store, filtered, columns)
    np.testing.assert_array_equal(known, filtered.lengths - 2 >= 16)
    mixed = Ragged(np.random.default_rng(0).permuted(filtered.values), filtered.offsets)
    assert not match_genes(store, mixed, columns).any()
