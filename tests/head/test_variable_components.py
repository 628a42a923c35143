"""Components of variable genes: those of scanpy's recipe, from a cell's own counts, saved with the head."""

from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from scfm.data.packing import pack
from scfm.evaluation.methods.expression import read_expression
from scfm.head import variable_components as module
from scfm.head.cell_state import CellState
from scfm.head.variable_components import VariableComponents
from scfm.types import Ragged
from support import made_vocab

#: Lower than in the library, so that some cells reach it.
CUT = 3.0


@pytest.fixture(autouse=True)
def low_cut(monkeypatch):
    monkeypatch.setattr(module, "LARGEST", CUT)


def made_counts(n=300, n_genes=120, seed=0):
    """Counts of three types; some genes are high in one cell alone."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.5, 1.0, (3, n_genes))[np.arange(n) % 3] * rng.uniform(0.5, 2, (n, 1))
    counts = rng.poisson(rate)
    counts[np.arange(8), np.arange(8)] = 500
    counts[:, -1] = 0  # a gene that no cell has
    return counts


def as_tokens(counts, n_genes):
    """Token ids and their counts, ranked, between <cls> and <eos>."""
    rows, values = [], []
    for x in counts:
        genes = np.argsort(-x, kind="stable")[: (x > 0).sum()]
        rows.append(np.array([2, *(genes + 4), 3]))
        values.append(np.array([0, *x[genes], 0], dtype=np.float32))
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return Ragged(np.concatenate(rows).astype(np.uint16), offsets), np.concatenate(values)


@pytest.fixture
def fitted():
    counts = made_counts()
    part = VariableComponents(made_vocab(120), 10)
    tokens, values = as_tokens(counts, 120)
    part.fit(part.expression(tokens, values))
    return part, counts, tokens, values


def test_components_are_those_of_scanpy(monkeypatch):
    scanpy = pytest.importorskip("scanpy")
    monkeypatch.setattr(module, "N_GENES", 40)
    monkeypatch.setattr(module, "BLOCK", 64)  # several blocks
    counts = made_counts()
    part = VariableComponents(made_vocab(120), 10)
    tokens, values = as_tokens(counts, 120)
    part.fit(part.expression(tokens, values))
    theirs = ad.AnnData(csr_matrix(counts[:, counts.any(0)].astype(np.float32)))
    scanpy.pp.normalize_total(theirs, target_sum=1e4)
    scanpy.pp.log1p(theirs)
    scanpy.pp.highly_variable_genes(theirs, n_top_genes=40, flavor="seurat")
    assert set(np.flatnonzero(part.precision.numpy()) - 4) == set(np.flatnonzero(theirs.var["highly_variable"]))
    theirs = theirs[:, theirs.var["highly_variable"]].copy()
    scanpy.pp.scale(theirs, max_value=CUT)
    scanpy.pp.pca(theirs, n_comps=10, svd_solver="full")
    ours, oracle = part.transform(tokens, values), theirs.obsm["X_pca"]
    assert np.square(ours).mean() == pytest.approx(1, rel=1e-4)
    for k in range(10):
        assert abs(np.corrcoef(ours[:, k], oracle[:, k])[0, 1]) > 0.999
    np.testing.assert_allclose(ours.std(0) / ours.std(0)[0], oracle.std(0) / oracle.std(0)[0], rtol=5e-3)


def test_components_are_those_of_plain_numpy(fitted):
    part, counts, tokens, values = fitted
    x = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    chosen = np.flatnonzero(part.precision.numpy()) - 4
    z = ((x - x.mean(0))[:, chosen] / x.std(0)[chosen]).clip(-CUT, CUT)
    reached = (z == CUT).any()
    z -= z.mean(0)
    u, s, _ = np.linalg.svd(z, full_matrices=False)
    oracle = (u * s)[:, :10]
    oracle *= np.sqrt(10 / np.square(oracle).sum(1).mean())
    ours = part.transform(tokens, values)
    np.testing.assert_allclose(np.abs(ours), np.abs(oracle), atol=2e-3)
    assert reached, "the cut was not reached"


def test_a_packed_batch_and_a_matrix_give_the_same_whatever_the_company(fitted):
    part, _, tokens, values = fitted
    whole = part.transform(tokens, values)

    def packed(rows):
        picked = [np.arange(tokens.offsets[row], tokens.offsets[row + 1]) for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in picked])])
        ids = np.concatenate(picked)
        return pack(Ragged(tokens.values[ids], offsets), np.asarray(rows), counts=values[ids])

    np.testing.assert_allclose(part(packed([7, 3, 201])).numpy(), whole[[7, 3, 201]], atol=1e-4)
    np.testing.assert_allclose(part(packed([201])).numpy(), whole[[201]], atol=1e-4)


def test_a_gene_that_no_training_cell_has_changes_nothing(fitted):
    part, counts, _, _ = fitted
    new = counts[:5].copy()
    new[:, -1] = 3
    with_gene = part.transform(*as_tokens(new, 120))
    # the same counts per cell, without the new gene, at the depth of the cell with it
    x = part.expression(*as_tokens(new, 120)).toarray()
    x[:, 4 + 119] = 0
    mean, precision = part.mean.numpy(), part.precision.numpy()
    z = ((x - mean) * precision).clip(-CUT, CUT) - (-mean * precision).clip(-CUT, CUT)
    np.testing.assert_allclose(with_gene, z @ part.loadings.numpy() - part.center.numpy(), atol=1e-4)
    assert part.precision[4 + 119] == 0


def test_a_cell_without_genes_is_finite(fitted):
    part = fitted[0]
    assert np.isfinite(part.transform(Ragged(np.array([2, 3]), np.array([0, 2])), np.zeros(2, np.float32))).all()


def test_they_are_fitted_on_training_cells_alone_and_need_no_label(cells, tiny, spec):
    survey = cells.survey(tiny, np.arange(120) < 60)
    one, two = VariableComponents(spec.vocab, 6), VariableComponents(spec.vocab, 6)
    one.prepare(survey)

    def guarded(places):
        assert (np.asarray(places) < 60).all(), "a held-out cell was read"
        return cells.ragged(places)

    two.prepare(replace(survey, tokens=guarded, obs={}))
    torch.testing.assert_close(one.loadings, two.loadings)


@pytest.mark.parametrize("missing", ["counts", "tokens"])
def test_a_survey_without_counts_is_refused(missing, cells, tiny, spec):
    with pytest.raises(ValueError, match="head.variable_components=6 needs the counts of at least 3 training cells"):
        VariableComponents(spec.vocab, 6).prepare(replace(cells.survey(tiny), **{missing: None}))


def test_fewer_cells_than_components_leave_the_last_empty(cells, tiny, spec):
    part = VariableComponents(spec.vocab, 10)
    part.prepare(cells.survey(tiny, np.arange(120) < 4))
    assert part.loadings[:, :3].any(0).all()
    assert not part.loadings[:, 3:].any()


@pytest.mark.parametrize("gene_components", [0, 6])
def test_the_state_has_three_blocks_and_forward_agrees_with_the_survey(gene_components, cells, tiny, spec):
    state = CellState(spec, gene_components, score="log", variable_components=4)
    survey = cells.survey(tiny)
    state.prepare(survey)
    with torch.inference_mode():
        forward = state(tiny, cells.batch(range(120), counts=True))
    assert state.blocks == tuple(width for width in (32, gene_components, 4) if width)
    assert forward.shape == (120, state.width)
    np.testing.assert_allclose(state.from_survey(survey), forward.numpy(), atol=1e-4)
    assert state.counts


def test_without_them_a_state_has_the_weights_that_it_always_had(spec):
    old, new = CellState(spec, 6), CellState(spec, 6, variable_components=0)
    assert set(old.state_dict()) == set(new.state_dict()) == {
        "norm.weight", "norm.bias", "components.loadings", "components.center",
    }  # fmt: skip
    assert not new.counts


@pytest.mark.parametrize("n", [-1, "auto"])
def test_what_is_no_number_of_components_is_refused(n, spec):
    with pytest.raises(ValueError, match=f"head.variable_components={n}; expected a number of components"):
        CellState(spec, 6, variable_components=n)


def test_unscaled_components_of_batches_are_those_that_harmony_begins_at(monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 10.0)
    counts = made_counts()
    batch = np.arange(300) % 3
    part = VariableComponents(made_vocab(120), 5, scaled=False, batch_key="batch")
    tokens, values = as_tokens(counts, 120)
    part.fit(part.expression(tokens, values), batch)
    ours = part.transform(tokens, values)
    expression = read_expression(ad.AnnData(csr_matrix(counts.astype(np.float32))))
    theirs = expression.batch_components(batch)[:, :5]
    for column in range(5):
        assert abs(np.corrcoef(ours[:, column], theirs[:, column])[0, 1]) == pytest.approx(1, abs=1e-4)
    # one factor for all components: distances are those of the principal components
    factor = ours.std(axis=0) / theirs.std(axis=0)
    np.testing.assert_allclose(factor, factor[0], rtol=1e-4)
    np.testing.assert_allclose((ours**2).mean(), 1, rtol=1e-4)
