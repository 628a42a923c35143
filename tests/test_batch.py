"""Whatever is done to a batch, every field of its tokens and cells stays with its token and its cell."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm.batch import CELLS, Batch

lengths_of = st.lists(st.integers(1, 7), min_size=1, max_size=8)


def made(lengths: list[int], seed: int = 0) -> Batch:
    """Each token field says which cell and token it belongs to, each cell field which cell."""
    sizes = torch.tensor(lengths)
    cell = torch.repeat_interleave(torch.arange(len(lengths)), sizes)
    positions = torch.cat([torch.arange(n) for n in lengths])
    number = torch.arange(len(lengths))
    return Batch(
        ids=cell * 100 + positions,
        positions=positions,
        boundaries=torch.cat([torch.zeros(1, dtype=torch.int32), sizes.cumsum(0).int()]),
        longest=max(lengths),
        index=torch.arange(len(lengths)) + 50,
        obs={"label": number, "protein": number.float()[:, None].repeat(1, 3)},
        seed=seed,
        token_fields={
            "counts": (cell * 100 + positions).float(),
            "pair": (cell * 100 + positions)[:, None].repeat(1, 2),
        },
    )


def require_aligned(batch: Batch, *, real: int | None = None) -> None:
    """Fields still say what ids and index say; boundaries, positions and sizes fit."""
    cells = batch.n_cells if real is None else real
    tokens = int(batch.boundaries[cells])
    assert len(batch.boundaries) == batch.n_cells + 1
    assert batch.boundaries[0] == 0
    assert batch.boundaries[-1] == batch.n_tokens
    assert int(batch.lengths.max()) <= batch.longest
    assert batch.boundaries.dtype == torch.int32
    assert all(len(values) == batch.n_tokens for values in (batch.positions, *batch.token_fields.values()))
    assert all(len(values) == batch.n_cells for values in batch.obs.values())
    assert torch.equal(batch.token_cell, torch.repeat_interleave(torch.arange(batch.n_cells), batch.lengths))
    assert torch.equal(batch.ids[:tokens] // 100 + 50, batch.index[batch.token_cell[:tokens]])
    assert torch.equal(batch.counts[:tokens], batch.ids[:tokens].float())
    assert torch.equal(batch.token_fields["pair"][:tokens], batch.ids[:tokens, None].repeat(1, 2))
    assert torch.equal(batch.obs["label"][:cells] + 50, batch.index[:cells])
    assert torch.equal(batch.obs["protein"][:cells, 1] + 50, batch.index[:cells].float())


@given(lengths_of, st.data())
@settings(deadline=None)
def test_every_operation_keeps_every_field_aligned(lengths, data):
    batch = made(lengths, seed=11)
    for _ in range(data.draw(st.integers(1, 3))):
        what = data.draw(st.sampled_from(["tokens", "cells", "split", "pad", "to"]))
        if what == "tokens":
            keep = torch.tensor(data.draw(st.lists(st.booleans(), min_size=batch.n_tokens, max_size=batch.n_tokens)))
            batch = batch.select_tokens(keep.bool().nonzero().squeeze(1))
        elif what == "cells":
            keep = torch.tensor(data.draw(st.lists(st.booleans(), min_size=batch.n_cells, max_size=batch.n_cells)))
            if not keep.any():
                continue
            batch = batch.select_cells(keep)
        elif what == "split":
            pieces = batch.split(data.draw(st.integers(1, batch.n_cells)))
            for piece in pieces:
                require_aligned(piece)
            assert torch.equal(torch.cat([piece.ids for piece in pieces]), batch.ids)
            batch = data.draw(st.sampled_from(pieces))
        elif what == "pad":
            require_aligned(batch.padded_to(batch.n_tokens + 13, max(batch.longest, 4)), real=batch.n_cells)
        else:
            batch = batch.to("cpu")
        require_aligned(batch)


@given(lengths_of, st.data())
@settings(deadline=None)
def test_selections_hold_what_plain_lists_hold(lengths, data):
    batch = made(lengths)
    cells = [ids.tolist() for ids in batch.ids.split(lengths)]
    keep = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths))))
    chosen = batch.select_cells(keep)
    assert [ids.tolist() for ids in chosen.ids.split(chosen.lengths.tolist())] == [
        cell for cell, kept in zip(cells, keep, strict=True) if kept
    ]
    every_second = [token for token in range(batch.n_tokens) if token % 2]
    thinned = batch.select_tokens(torch.tensor(every_second, dtype=torch.int64))
    flat = [token for cell in cells for token in cell]
    assert thinned.ids.tolist() == [flat[token] for token in every_second]
    assert thinned.positions.tolist() == [i for n in thinned.lengths.tolist() for i in range(n)]


def test_seeds_of_parts_differ_and_follow_from_the_seed_of_the_batch():
    seeds = [piece.seed for piece in made([2, 3, 4], seed=2**63 - 2).split(3)]
    assert seeds == [2**63 - 2, 2**63 - 1, 0]


@pytest.mark.parametrize("lengths", [[5, 9], [64], [3] * 30, [1]])
def test_padded_rows_have_constant_shapes(lengths):
    batch = made(lengths)
    row = batch.padded_to(300, 64)
    assert row.ids.shape == row.positions.shape == (300,)
    assert row.n_cells == CELLS
    assert row.longest == 64
    assert torch.equal(row.boundaries[: len(lengths) + 1], batch.boundaries)
    assert row.lengths.min() >= 0
    assert row.lengths.max() <= 64
    assert torch.equal(row.ids[: batch.n_tokens], batch.ids)
    assert (row.index[len(lengths) :] == -1).all()
    assert (row.obs["label"][len(lengths) :] == -1).all()
    assert row.obs["protein"][len(lengths) :].isnan().all()


def test_other_tokens_and_fields_must_fit_the_row():
    batch = made([2, 3])
    assert torch.equal(batch.replace_tokens(batch.ids + 1).counts, batch.counts)
    with pytest.raises(AssertionError, match="for a row of 5 tokens"):
        batch.replace_tokens(batch.ids[:4])
    with pytest.raises(AssertionError, match="4 values for 5 tokens"):
        batch.with_token_field("counts", torch.zeros(4))


def test_a_batch_without_counts_has_none():
    assert replace(made([2, 3]), token_fields={}).counts is None
