"""Views keep specials and a gene, move ranks by no more than they may, and follow from the seed alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm.data.packing import pack
from scfm.head.views import ViewOptions, Views, batch_generator
from scfm.types import Ragged
from scfm.vocab import Vocab

VOCAB = Vocab(("<pad>", "<cls>", "<eos>", *(f"G{i}" for i in range(60))), {"pad": 0, "cls": 1, "eos": 2})


def cells(lengths, specials=True, seed=0):
    rng = np.random.default_rng(seed)
    rows = [3 + rng.permutation(60)[:length] for length in lengths]
    if specials:
        rows = [np.array([1, *row, 2]) for row in rows]
    return pack(Ragged(np.concatenate(rows), np.cumsum([0, *map(len, rows)])), np.arange(len(rows)), seed=seed)


def split(batch):
    return [batch.ids[a:b].tolist() for a, b in zip(batch.boundaries, batch.boundaries[1:], strict=False)]


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=12),
    st.booleans(),
    st.floats(0, 0.95),
    st.floats(0, 8),
    st.floats(0.05, 1),
    st.integers(0, 100),
)
@settings(deadline=None, max_examples=60)
def test_a_view_is_a_packed_batch_of_some_of_each_cells_genes(lengths, specials, drop, jitter, context, seed):
    batch = cells(lengths, specials, seed)
    view = Views(ViewOptions(drop=drop, jitter=jitter, min_share=context), VOCAB)(batch, batch_generator(batch))
    assert view.boundaries[0] == 0
    assert view.boundaries[-1] == view.n_tokens
    assert view.longest >= view.lengths.max()
    torch.testing.assert_close(view.positions, torch.cat([torch.arange(int(n)) for n in view.lengths]))
    for before, after in zip(split(batch), split(view), strict=True):
        genes = [token for token in after if token > 2]
        assert genes
        assert len(set(genes)) == len(genes)
        assert set(after) <= set(before)
        if specials:
            assert after[0] == 1
            assert after[-1] == 2
        place = {token: i for i, token in enumerate(before)}
        backwards = [place[a] - place[b] for i, a in enumerate(genes) for b in genes[i + 1 :]]
        assert max(backwards, default=0) <= 2 * jitter


def test_no_randomness_asked_leaves_the_cells():
    batch = cells([5, 1, 17])
    view = Views(ViewOptions(drop=0.0, jitter=0.0, min_share=1.0), VOCAB)(batch, batch_generator(batch))
    torch.testing.assert_close(view.ids, batch.ids)
    torch.testing.assert_close(view.boundaries, batch.boundaries)


def test_two_views_differ_and_the_seed_repeats_them():
    batch, views = cells([30] * 8), Views(ViewOptions(drop=0.1), VOCAB)
    generator = batch_generator(batch)
    one, two = views(batch, generator), views(batch, generator)
    assert split(one) != split(two)
    again = batch_generator(batch)
    assert [split(views(batch, again)), split(views(batch, again))] == [split(one), split(two)]
    other = replace(batch, seed=9)
    assert split(views(other, batch_generator(other))) != split(one)


def test_shares_are_as_asked():
    batch = cells([40] * 400, specials=False)
    dropped = Views(ViewOptions(drop=0.3, jitter=0, min_share=1), VOCAB)(batch, batch_generator(batch))
    assert dropped.n_tokens / batch.n_tokens == pytest.approx(0.7, abs=0.02)
    cut = Views(ViewOptions(drop=0, jitter=0, min_share=0.5), VOCAB)(batch, batch_generator(batch))
    assert cut.lengths.min() >= 20
    assert cut.n_tokens / batch.n_tokens == pytest.approx(0.76, abs=0.02)
    for before, after in zip(split(batch), split(cut), strict=True):
        assert before[: len(after)] == after  # the most expressed genes stay


def test_counts_stay_with_their_tokens():
    batch = cells([10, 20])
    batch = batch.with_token_field("counts", batch.ids.float())
    view = Views(ViewOptions(drop=0.1), VOCAB)(batch, batch_generator(batch))
    torch.testing.assert_close(view.counts, view.ids.float())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"drop": 1.0}, "head.view.drop=1.0"),
        ({"jitter": -1}, "head.view.jitter=-1"),
        ({"min_share": 0}, "head.view.min_share=0"),
    ],
)
def test_refuses_numbers_out_of_range(wrong, words):
    with pytest.raises(ValueError, match=words):
        Views(ViewOptions(**wrong), VOCAB)
