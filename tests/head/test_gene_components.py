"""Gene components: two ways to compute them agree with each other and with a plain PCA; company does not matter."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from scfm.head.cell_state import CellState, shorten
from scfm.head.gene_components import GeneComponents, gene_scores, rank_scores, score_matrix
from scfm.types import Ragged


def test_scores_by_hand():
    cells = Ragged(np.array([1, 5, 3, 8, 2, 1, 4, 2]), np.array([0, 5, 8]))
    gene = np.arange(9) > 2
    expected = np.zeros((2, 9))
    expected[0, [5, 3, 8]] = np.array([1, 1 - 1 / 6, 1 - 2 / 6]) / np.sqrt(3)
    expected[1, 4] = 1
    np.testing.assert_allclose(score_matrix(cells, gene).toarray(), expected, rtol=1e-6)
    expected[0, [5, 3, 8]] = np.sqrt(np.log([4 / 1, 4 / 2, 4 / 3]) / 3)
    expected[1, 4] = np.sqrt(np.log(2))
    np.testing.assert_allclose(score_matrix(cells, gene, "log").toarray(), expected, rtol=1e-6)


def test_scores_of_counts_by_hand():
    cells = Ragged(np.array([1, 5, 3, 8, 2, 1, 4, 2]), np.array([0, 5, 8]))
    expected = np.zeros((2, 9))
    expected[0, [5, 3, 8]] = np.log1p(1e4 * np.array([6, 3, 1]) / 10)
    expected[1, 4] = np.log1p(1e4)
    found = score_matrix(cells, np.arange(9) > 2, "counts", np.array([0, 6, 3, 1, 0, 0, 7, 0], np.float32))
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-6)


@pytest.mark.parametrize("score", ["linear", "log"])
def test_cells_of_all_depths_are_about_as_long(score):
    lengths = [rank_scores(torch.arange(n).double(), torch.tensor(float(n)), score).norm() for n in (50, 500, 5000)]
    assert max(lengths) / min(lengths) < 1.1


def fitted(cells, tiny, spec, size=5, score="linear"):
    bag = GeneComponents(spec.vocab, size, score)
    bag.prepare(cells.survey(tiny))
    return bag


def test_components_are_those_of_a_plain_pca(cells, tiny, spec):
    bag = fitted(cells, tiny, spec)
    scores = score_matrix(cells.ragged(range(120)), bag.gene.numpy() > 0).toarray()
    oracle = PCA(5, svd_solver="full").fit_transform(scores)
    ours = bag.transform(cells.ragged(range(120)))
    assert np.square(ours).mean() == pytest.approx(1, rel=1e-4)
    for k in range(5):
        assert abs(np.corrcoef(oracle[:, k], ours[:, k])[0, 1]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("score", ["linear", "log", "counts"])
def test_a_packed_batch_and_a_sparse_matrix_give_the_same(score, cells, tiny, spec):
    bag, rows = fitted(cells, tiny, spec, score=score), [3, 77, 12]
    packed = bag(cells.batch(rows, counts=True))
    np.testing.assert_allclose(packed.numpy(), bag.transform(cells.ragged(rows), cells.token_counts(rows)), atol=1e-5)
    torch.testing.assert_close(bag(cells.batch([77], counts=True)), packed[1:2], atol=1e-6, rtol=1e-5)


def test_counts_that_are_not_there_are_asked_for(cells, tiny, spec):
    bag = fitted(cells, tiny, spec, score="counts")
    for read in (lambda: bag(cells.batch([0])), lambda: bag.transform(cells.ragged([0]))):
        with pytest.raises(ValueError, match="head.counts=true reads counts, but the store keeps ranks only"):
            read()


def test_a_cell_without_genes_is_a_cell_of_zeros(cells, spec):
    batch = cells.batch([0])
    empty = replace(batch, ids=torch.tensor([2, 3]), boundaries=torch.tensor([0, 2], dtype=torch.int32))
    assert not gene_scores(torch.zeros(2), empty).any()
    assert not gene_scores(torch.zeros(2), empty.with_token_field("counts", torch.zeros(2)), "counts").any()
    assert GeneComponents(spec.vocab, 4)(empty).isfinite().all()


def test_only_training_cells_are_fitted_on(cells, tiny, spec):
    train = np.arange(120) < 60
    one, two = GeneComponents(spec.vocab, 4), GeneComponents(spec.vocab, 4)
    survey = cells.survey(tiny, train)
    one.prepare(survey)

    def others_changed(places):
        tokens = cells.ragged(places)
        assert (np.asarray(places) < 60).all(), "a held-out cell was read"
        return tokens

    two.prepare(replace(survey, tokens=others_changed))
    torch.testing.assert_close(one.loadings, two.loadings)


def test_too_few_cells_leave_the_last_components_empty(cells, tiny, spec):
    bag = GeneComponents(spec.vocab, 10)
    bag.prepare(cells.survey(tiny, np.arange(120) < 4))
    assert bag.loadings[:, :3].any(0).all()
    assert not bag.loadings[:, 3:].any()


def test_refuses_a_survey_without_tokens(cells, tiny, spec):
    with pytest.raises(ValueError, match="head.gene_components=4 needs the tokens of at least 3 training cells"):
        GeneComponents(spec.vocab, 4).prepare(replace(cells.survey(tiny), tokens=None))


@pytest.mark.parametrize("genes", [0, 6])
def test_surveyed_states_are_those_of_the_forward_pass(genes, cells, tiny, spec):
    state = CellState(spec, genes)
    survey = cells.survey(tiny)
    state.components.prepare(survey)
    with torch.inference_mode():
        forward = state(tiny, cells.batch(range(120)))
    assert forward.shape == (120, 32 + genes)
    np.testing.assert_allclose(state.from_survey(survey), forward.numpy(), atol=1e-5)


def test_the_backbone_reads_a_part_and_the_components_read_all(cells, tiny, spec):
    rows, short, whole = [3, 77, 12], CellState(spec, 6, max_tokens=10), CellState(spec, 6)
    for state in (short, whole):
        state.components.prepare(cells.survey(tiny))
    batch = cells.batch(rows)
    with torch.inference_mode():
        one, two = short(tiny, batch), whole(tiny, batch)
    torch.testing.assert_close(one[:, 32:], two[:, 32:])
    assert not torch.allclose(one[:, :32], two[:, :32], atol=1e-3)


def test_a_shortened_cell_is_what_a_store_would_have_cut(cells, spec):
    batch, cut = cells.batch([3, 77]), shorten(cells.batch([3, 77]), 10, spec.vocab)
    for i in range(2):
        whole = batch.ids[batch.boundaries[i] : batch.boundaries[i + 1]]
        expected = torch.cat([whole[:9], whole[-1:]]) if len(whole) > 10 else whole
        assert torch.equal(cut.ids[cut.boundaries[i] : cut.boundaries[i + 1]], expected)
    assert cut.longest == 10
    with pytest.raises(ValueError, match="head.max_tokens=2"):
        CellState(spec, 0, max_tokens=2)
