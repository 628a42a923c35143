"""Pruning, 8-bit rows and the student's loss: by hand, and where nothing may change."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from scfm.compression.distill import Distill, begin_student, distill, guess_loss
from scfm.compression.prune import drop_columns, drop_layers, feedforward_pairs, mean_embeddings
from scfm.compression.vocabulary import known_tokens, prune_tokenizer, prune_weights
from scfm.data.packing import pack
from scfm.int8 import pack_weights, quantize_rows, unpack_weights
from scfm.model.backbone import Backbone
from scfm.objective.score import IGNORE
from scfm.types import Ragged, Spec
from support import made_vocab

VOCAB = made_vocab(40)


def batch(n=12, seed=0):
    rng = np.random.default_rng(seed)
    rows = [np.array([2, *(rng.permutation(40)[:10] + 4), 3]) for _ in range(n)]
    return pack(Ragged(np.concatenate(rows), np.arange(n + 1) * 12), np.arange(n))


def made(causal=False, layers=3, width=32):
    torch.manual_seed(0)
    return Backbone(
        VOCAB, causal=causal, layers=layers, width=width, heads=2, feedforward=48, positions=64, dropout=0.0
    ).eval()


@pytest.mark.parametrize("causal", [False, True])
def test_a_layer_that_does_nothing_goes_first_and_the_rest_stay_as_they_are(causal):
    backbone = made(causal)
    for _, second in [feedforward_pairs(backbone)[1]]:
        torch.nn.init.zeros_(second.weight), torch.nn.init.zeros_(second.bias)
    attention = backbone.layers[1]
    for name, parameter in attention.named_parameters():
        if ("attention.output.dense" in name) or ("attn.c_proj" in name):
            torch.nn.init.zeros_(parameter)
    before = mean_embeddings(backbone, [batch()], VOCAB)
    names = {name: tuple(value.shape) for name, value in backbone.state_dict().items()}
    assert drop_layers(backbone, 2, [batch()], VOCAB) == [1]
    after = mean_embeddings(backbone, [batch()], VOCAB)
    assert F.cosine_similarity(before, after).min() > 0.999
    smaller = made(causal, layers=2)
    smaller.load_state_dict(backbone.state_dict())
    torch.testing.assert_close(mean_embeddings(smaller, [batch()], VOCAB), after)
    assert len(names) > len(smaller.state_dict())


@pytest.mark.parametrize("causal", [False, True])
def test_columns_of_no_use_go_and_nothing_changes(causal):
    backbone = made(causal)
    for first, second in feedforward_pairs(backbone):
        along = 0 if isinstance(first, torch.nn.Linear) else 1
        with torch.no_grad():
            second.weight.index_fill_(1 - along, torch.arange(20), 0.0)  # the first 20 columns reach nothing
            first.weight.index_fill_(along, torch.arange(20), 0.0)
            first.bias[:20] = 0.0
    before = mean_embeddings(backbone, [batch()], VOCAB)
    drop_columns(backbone, 28, [batch()], lambda model, part: model(part).square().sum() + model(part).sum())
    torch.testing.assert_close(mean_embeddings(backbone, [batch()], VOCAB), before, atol=1e-5, rtol=1e-4)
    assert all(first.bias.shape == (28,) for first, _ in feedforward_pairs(backbone))


def test_a_pruned_vocabulary_gives_the_same_embeddings_of_cells_that_have_no_other_gene():
    backbone = made()
    cells = batch()
    kept = np.unique(cells.ids.numpy())[:-5]  # five genes go
    kept = np.union1d(kept, [0, 1, 2, 3])
    old = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    weights = prune_weights(old, len(VOCAB), kept)
    state = {"kind": "x", "vocab": VOCAB.to_dict(), "alias": {"G1": ["one"]}, "medians": list(range(44)), "options": {}}
    small = prune_tokenizer(state, kept)
    assert len(small["vocab"]["tokens"]) == len(kept) == len(small["medians"])
    from scfm.vocab import Vocab

    vocab = Vocab.from_dict(small["vocab"])
    assert vocab.specials == {"pad": 0, "mask": 1, "cls": 2, "eos": 3}
    lesser = Backbone(
        vocab, causal=False, layers=3, width=32, heads=2, feedforward=48, positions=64, dropout=0.0
    ).eval()
    lesser.load_state_dict({k.removeprefix("backbone."): v for k, v in weights.items()})
    inside = torch.isin(cells.ids, torch.from_numpy(kept)).nonzero().squeeze(1)
    expected = mean_embeddings(backbone, [cells.select_tokens(inside)], VOCAB)
    torch.testing.assert_close(mean_embeddings(lesser, [known_tokens(cells, kept, len(VOCAB))], vocab), expected)
    with pytest.raises(ValueError, match="not its first"):
        prune_weights({"a": torch.zeros(3, 44)}, 44, kept)


def test_eight_bit_rows_come_back_within_half_a_step():
    torch.manual_seed(0)
    matrix = torch.randn(50, 64) * torch.logspace(-3, 2, 50)[:, None]
    packed = pack_weights({"a": matrix, "b": torch.randn(64), "n": torch.zeros(40, 40, dtype=torch.int64)})
    assert set(packed) == {"a.int8", "a.int8_scale", "b", "n"}
    found = unpack_weights(packed)
    _, scale = quantize_rows(matrix)
    assert ((found["a"] - matrix).abs() <= scale[:, None] * 0.5001).all()
    assert F.cosine_similarity(found["a"], matrix).min() > 0.999
    assert unpack_weights({"c": matrix})["c"] is matrix
    with pytest.raises(ValueError, match="without a scale"):
        unpack_weights({"a.int8": packed["a.int8"]})
    with pytest.raises(ValueError, match="without a scale"):
        unpack_weights({"a.int8": packed["a.int8"], "a.int8_scale": torch.ones(3)})


def test_the_students_loss_by_hand():
    student, teacher = torch.tensor([[1.0, 0.0], [9.0, 9.0]]), torch.tensor([[0.0, 2.0], [9.0, 9.0]])
    truth = torch.tensor([0, IGNORE])
    hard = -np.log(np.e / (1 + np.e))
    p, q = np.exp([0.0, 1.0]) / np.exp([0.0, 1.0]).sum(), np.exp([0.5, 0.0]) / np.exp([0.5, 0.0]).sum()
    soft = (p * np.log(p / q)).sum()
    found = guess_loss(student, teacher, truth, alpha=0.3, temperature=2.0)
    assert float(found) == pytest.approx(0.3 * hard + 0.7 * 4 * soft, rel=1e-5)


def test_a_student_begins_at_the_teachers_directions_and_learns():
    teacher, student = made(width=32), made(width=16)
    begin_student(student, teacher)
    table, own = (model.model.get_input_embeddings().weight.detach() for model in (teacher, student))
    assert own.std() == pytest.approx(float(table.std()), rel=1e-3)
    wanted, got = torch.cdist(table - table.mean(0), table - table.mean(0)), torch.cdist(own, own)
    assert np.corrcoef(wanted.flatten(), got.flatten())[0, 1] > 0.7
    losses = distill(student, teacher, [batch()], Spec(VOCAB, 32), Distill(steps=30, rate=3e-3))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    alone = distill(made(width=16), None, [batch()], Spec(VOCAB, 32), Distill(steps=5))
    assert len(alone) == 5
    with pytest.raises(ValueError, match="the model is causal"):
        distill(made(causal=True), None, [batch()], Spec(VOCAB, 32), Distill(steps=1))


@pytest.mark.parametrize("n", [0, 3])
def test_there_must_be_something_to_drop(n):
    with pytest.raises(ValueError, match="expected fewer"):
        drop_layers(made(), n, [batch()], VOCAB)
    with pytest.raises(ValueError, match="expected fewer"):
        drop_columns(made(), n * 20, [batch()], lambda model, part: model(part).sum())
