import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm.batch import Batch
from scfm.model.pooling import embed, pool
from scfm.vocab import Vocab

VOCAB = Vocab(tuple(f"g{i}" for i in range(30)), {"pad": 0, "mask": 1, "cls": 2, "eos": 3})


def batch_of(rows):
    lengths = [len(row) for row in rows]
    return Batch(
        torch.tensor([i for row in rows for i in row], dtype=torch.int64),
        torch.tensor([i for n in lengths for i in range(n)], dtype=torch.int64),
        torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32),
        max(lengths, default=0),
        torch.arange(len(rows)),
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 29), max_size=8), min_size=1, max_size=6),
    st.sampled_from(["mean", "all", "first"]),
)
def test_equals_a_loop_over_cells(rows, how):
    """Also with cells of specials alone, and without a single token."""
    batch = batch_of(rows)
    hidden = torch.randn(batch.n_tokens, 5, generator=torch.Generator().manual_seed(0))
    got = pool(hidden, batch, how, VOCAB)
    start = 0
    for i, row in enumerate(rows):
        own = hidden[start : start + len(row)]
        start += len(row)
        if how == "mean":
            own = own[[j for j, token in enumerate(row) if token > 3]]
        expected = torch.zeros(5) if len(own) == 0 else own[0] if how == "first" else own.mean(0)
        torch.testing.assert_close(got[i], expected)


def test_cls_is_the_first_token():
    batch = batch_of([[2, 9, 8, 3], [2, 7, 3]])
    hidden = torch.randn(7, 5)
    assert torch.equal(pool(hidden, batch, "cls", VOCAB), hidden[[0, 4]])


def test_gradients_reach_only_what_is_pooled():
    batch = batch_of([[2, 9, 8, 3], [2, 3]])
    hidden = torch.randn(6, 5, requires_grad=True)
    pool(hidden, batch, "mean", VOCAB).sum().backward()
    assert torch.equal(hidden.grad.abs().sum(1) > 0, torch.tensor([False, True, True, False, False, False]))
    assert torch.isfinite(hidden.grad).all()


def test_sums_in_float32():
    rows = [[5] * 3000]
    hidden = torch.full((3000, 2), 1.001, dtype=torch.bfloat16)
    pooled = pool(hidden, batch_of(rows), "mean", VOCAB)
    assert pooled.dtype == torch.bfloat16
    assert torch.equal(pooled[0], hidden[0])


def test_embed_follows_the_backbones_rule():
    class Fake:
        embedding_layer, embedding_pool = -2, "all"

        def hidden(self, batch, layer):
            assert layer == -2
            return torch.ones(batch.n_tokens, 3)

    assert torch.equal(embed(Fake(), batch_of([[4, 5], [6]]), VOCAB), torch.ones(2, 3))


def test_refusals():
    batch = batch_of([[4, 5]])
    with pytest.raises(
        ValueError, match=r"pool='max'; expected mean \(over genes\), all \(every token\), cls or first"
    ):
        pool(torch.ones(2, 3), batch, "max", VOCAB)
    with pytest.raises(ValueError, match="needs a cls token"):
        pool(torch.ones(2, 3), batch, "cls", Vocab(("p", "a", "b"), {"pad": 0}))
