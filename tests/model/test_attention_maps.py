"""Attention weights in the open, and input vectors in place of ids."""

import numpy as np
import pytest
import torch

from scfm.batch import INPUT_VECTORS


@pytest.mark.parametrize("causal", [False, True])
def test_rows_sum_to_one_and_cells_do_not_see_each_other(small, pack, causal):
    backbone, batch = small(causal).eval(), pack([5, 9, 3])
    maps = backbone.attentions(batch)
    assert len(maps) == 2 and [tuple(cell.shape) for cell in maps[0]] == [(2, 5, 5), (2, 9, 9), (2, 3, 3)]
    for layer in maps:
        for cell in layer:
            assert torch.allclose(cell.sum(-1), torch.ones(cell.shape[:2]), atol=1e-6)
            assert not causal or (cell.triu(1) == 0).all()
    means = backbone.attentions(batch, mean_heads=True)
    assert torch.allclose(means[1][0], maps[1][0].mean(0, keepdim=True))
    alone = backbone.attentions(batch.split(3)[1])
    assert torch.allclose(maps[1][1], alone[1][0], atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_weights_are_those_of_transformers_own_eager_attention(small, pack, causal):
    backbone, batch = small(causal).eval(), pack([7])
    ours = backbone.attentions(batch)
    eager = type(backbone.model)(backbone.config).eval()
    eager.load_state_dict(backbone.model.state_dict())
    eager.set_attn_implementation("eager")
    theirs = eager.base_model(input_ids=batch.ids[None], output_attentions=True).attentions
    for layer, other in zip(ours, theirs, strict=True):
        assert torch.allclose(layer[0], other[0], atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_hidden_states_are_the_same_with_and_without_weights(small, pack, causal):
    backbone, batch = small(causal).eval(), pack([5, 9, 3])
    maps = []
    with torch.no_grad():
        shown = backbone._run(batch, attention_maps=maps).last_hidden_state[0]
        assert torch.allclose(shown, backbone(batch), atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_dummy_cells_of_a_constant_row_have_no_weights(small, pack, causal):
    backbone, batch = small(causal, row=64).eval(), pack([5, 9])
    assert [len(layer) for layer in backbone.attentions(batch)] == [2, 2]


@pytest.mark.parametrize("causal", [False, True])
def test_input_vectors_stand_for_ids(small, pack, causal):
    backbone, batch = small(causal, row=64).eval(), pack([5, 9])
    vectors = backbone.input_vectors(batch.ids)
    given = batch.replace_tokens(torch.zeros_like(batch.ids)).with_token_field(INPUT_VECTORS, vectors)
    with torch.no_grad():
        assert torch.allclose(backbone(given), backbone(batch), atol=1e-6)
        moved = given.with_token_field(INPUT_VECTORS, vectors.flip(0))
        assert not torch.allclose(backbone(moved), backbone(batch), atol=1e-3)


def test_gradients_reach_the_input_vectors(small, pack):
    backbone, batch = small(False).eval(), pack([5, 9])
    vectors = backbone.input_vectors(batch.ids).detach().requires_grad_()
    backbone(batch.with_token_field(INPUT_VECTORS, vectors))[:5].sum().backward()
    assert vectors.grad is not None and np.isfinite(vectors.grad.numpy()).all()
    assert (vectors.grad[5:] == 0).all()  # the other cell has no part in it
