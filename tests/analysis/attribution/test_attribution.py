"""Attributions on models whose answer is known."""

import numpy as np
import pytest
import torch

from scfm.analysis.attribution.attention import edge_scores, embedding_rollout, mean_attention, rollout
from scfm.analysis.attribution.gradients import Presence, integrated_gradients
from scfm.analysis.attribution.prediction import GenePrediction, gradient_edges, occlusion_edges, pack_rows
from scfm.batch import INPUT_VECTORS, PRESENCE
from scfm.model.backbone import Backbone
from support import made_vocab

SMALL = {"layers": 2, "width": 32, "heads": 2, "feedforward": 64, "positions": 64, "dropout": 0.0}
CELL = torch.tensor([2, 10, 11, 12, 13, 3])


@pytest.fixture(params=[False, True], ids=["mlm", "ar"])
def backbone(request):
    torch.manual_seed(0)
    return Backbone(made_vocab(), request.param, **SMALL).eval()


def test_rollout_of_two_layers_by_hand():
    first, second = torch.tensor([[[1.0, 0], [0.5, 0.5]]]), torch.tensor([[[0.25, 0.75], [0.0, 1.0]]])
    one = np.array([[1, 0], [0.25, 0.75]])
    two = np.array([[0.625, 0.375], [0, 1]])
    assert np.allclose(rollout([first, second]), two @ one)
    assert np.allclose(rollout([first, second]).sum(1), 1)


def test_mean_attention_is_over_heads_and_layers():
    layers = [torch.tensor([[[1.0, 0], [0, 1]], [[0, 1], [1, 0]]]), torch.tensor([[[1.0, 0], [1, 0]]] * 2)]
    assert mean_attention(layers).tolist() == [[0.75, 0.25], [0.75, 0.25]]


def test_an_edge_goes_from_key_to_query_and_none_to_an_earlier_token():
    weights = torch.tensor([[1.0, 0.0], [0.3, 0.7]])  # token 1 looks at token 0
    assert edge_scores(weights, causal=False)[0, 1] == pytest.approx(0.6)
    causal = edge_scores(weights, causal=True)
    assert causal[0, 1] == pytest.approx(0.6) and torch.isnan(causal[1, 0])


@pytest.mark.parametrize("pool", ["mean", "all", "first"])
def test_rollout_to_the_embedding_sums_to_one(backbone, pool):
    backbone.embedding_pool = pool
    batch = pack_rows([CELL, CELL[:4]], torch.device("cpu"))
    shares = embedding_rollout(backbone, batch, made_vocab())
    assert torch.allclose(shares[:6].sum(), torch.ones(())) and torch.allclose(shares[6:].sum(), torch.ones(()))
    if pool == "first" and backbone.causal:
        assert shares[0] == 1  # the first token sees itself alone
    backbone.embedding_layer = 0
    assert (embedding_rollout(backbone, batch, made_vocab())[1:6].max() <= 1 / 4 + 1e-6) or pool == "first"


def test_integrated_gradients_of_a_linear_score_are_exact(backbone):
    presence, batch = Presence(backbone, made_vocab()), pack_rows([CELL, CELL[:4]], torch.device("cpu"))
    weight = torch.linspace(-1, 1, 32)

    def score(given):
        values = given.token_fields[INPUT_VECTORS] @ weight + 3 * given.token_fields[PRESENCE]
        return torch.zeros(given.n_cells).index_add(0, given.token_cell, values)

    found = integrated_gradients(presence, score, batch, n_steps=2)
    expected = (backbone.input_vectors(batch.ids) - presence.reference) @ weight + 3
    gene = (batch.ids > 3).float()
    assert torch.allclose(found.tokens, expected.detach() * gene, atol=1e-5)
    assert found.relative_error < 1e-5


def test_completeness_error_falls_with_the_steps(backbone):
    presence, batch = Presence(backbone, made_vocab()), pack_rows([CELL, CELL.flip(0)], torch.device("cpu"))

    def score(given):
        hidden = backbone(given)
        return torch.zeros(given.n_cells).index_add(0, given.token_cell, hidden[:, 0] * hidden[:, 1])

    errors = [integrated_gradients(presence, score, batch, n_steps=n).error.abs().mean().item() for n in (1, 64)]
    assert errors[1] < 0.02 * max(errors[0], 1e-3)


def test_the_gradient_is_a_finite_difference(backbone):
    prediction, presence = GenePrediction(backbone, made_vocab()), Presence(backbone, made_vocab())
    batch, score = prediction.copies(CELL, torch.tensor([3]))
    slope = presence.gradient(score, batch)
    level = torch.ones(batch.n_tokens)
    level[2] -= 1e-2
    with torch.no_grad():
        difference = (score(presence.set(batch, torch.ones(()))) - score(presence.set(batch, level))) / 1e-2
    assert slope[2].item() == pytest.approx(difference.item(), abs=5e-3)


def test_copies_hide_the_gene_that_is_asked(backbone):
    prediction = GenePrediction(backbone, made_vocab())
    places = prediction.places(CELL)
    assert places.tolist() == [1, 2, 3, 4]
    batch, score = prediction.copies(CELL, places)
    assert not (batch.ids == CELL[places][batch.token_cell]).any()
    other = CELL.clone()
    other[4] = 20
    same, same_score = prediction.copies(other, places[:3])
    with torch.no_grad():
        if backbone.causal:  # a later gene changes nothing
            assert torch.allclose(score(batch)[:3], same_score(same), atol=1e-6)
        assert (score(batch) < 0).all()


def test_a_causal_model_cannot_predict_its_first_token():
    torch.manual_seed(0)
    vocab = made_vocab()
    prediction = GenePrediction(Backbone(vocab, True, **SMALL).eval(), vocab)
    assert prediction.places(torch.tensor([5, 6, 7])).tolist() == [1, 2]


@pytest.mark.parametrize("n_steps", [0, 4])
def test_edges_of_gradients_have_a_place_for_every_pair(backbone, n_steps):
    prediction, presence = GenePrediction(backbone, made_vocab()), Presence(backbone, made_vocab())
    scores, error = gradient_edges(prediction, presence, CELL, torch.tensor([1, 3]), n_steps)
    assert scores.shape == (6, 2) and np.isnan(error) == (n_steps == 0)
    seen = torch.isfinite(scores)
    assert seen[:, 1].tolist() == (
        [True] * 3 + [False] * 3 if backbone.causal else [True, True, True, False, True, True]
    )
    assert (scores[0][seen[0]] == 0).all()  # a special token is always there


def test_occlusion_is_the_fall_without_the_gene(backbone):
    prediction = GenePrediction(backbone, made_vocab())
    falls = occlusion_edges(prediction, CELL, torch.tensor([2]), torch.tensor([1, 2, 3, 4]))[0]
    assert torch.isnan(falls[1]) and torch.isfinite(falls[2:]).all()
    assert torch.isnan(falls[0]) == backbone.causal
    with torch.no_grad():
        batch, score = prediction.copies(CELL, torch.tensor([4]))
        shorter, shorter_score = prediction.copies(torch.tensor([2, 10, 12, 13, 3]), torch.tensor([3]))
        assert falls[3].item() == pytest.approx((score(batch) - shorter_score(shorter)).item(), abs=1e-6)


def test_without_a_mask_token_genes_fade_to_their_mean():
    from scfm.vocab import Vocab

    torch.manual_seed(0)
    vocab = Vocab(("<s>", *(f"G{i}" for i in range(9))), {"bos": 0})
    backbone = Backbone(vocab, True, **SMALL).eval()
    expected = backbone.input_vectors(torch.arange(1, 10)).mean(0)
    assert torch.allclose(Presence(backbone, vocab).reference, expected)
