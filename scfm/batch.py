"""Cells packed into one row of tokens, and every way to take such a row apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

#: :meth:`Batch.padded_to` rounds the number of cells up to a multiple of this: few shapes, and few empty cells.
CELLS = 64
#: Token field (T, D): vectors that the backbone reads in place of its input embeddings of ``ids``.
INPUT_VECTORS = "input_vectors"
#: Token field (T,) in [0, 1]: how much a token counts where gene components are summed; 1 where there is no field.
PRESENCE = "presence"


@dataclass(frozen=True)
class Batch:
    """Cells packed into one row of tokens; no pad token is ever among them.

    Whatever belongs to tokens stands in ``ids``, ``positions`` and ``token_fields``, whatever belongs to cells in
    ``index`` and ``obs``. The methods below are the only code that takes a batch apart, so that a new field stays
    aligned without a change anywhere else.

    Attributes:
        ids: (T,) int64, token ids, cell after cell, most expressed gene first.
        positions: (T,) int64, the rank inside the cell, restarting at 0 with each cell.
        boundaries: (B+1,) int32, where each cell begins, and T.
        longest: tokens of the longest cell or more, an int that attention kernels want on the host.
        index: (B,) int64, each cell's row in the store (or in the file, when embedding).
        obs: what is known of each cell by name, each (B, ...): int64 class codes (-1 = missing) or float32 values
            (NaN = missing). ``side/protein`` (B, P) and ``side/peaks`` (B, K) are second modalities
            (:meth:`scfm.store.token_store.TokenStore.field`), there where a head reads them.
        seed: the seed of everything random that is done to this batch (masks, dropout): a pure function of
            (seed, epoch, step), so that neither a resume nor the number of ranks changes it.
        token_fields: what is known of each token by name, each (T, ...); ``counts`` float32 are the counts behind the
            tokens (0 for specials), there where the store keeps counts and a head reads them.
    """

    ids: Tensor
    positions: Tensor
    boundaries: Tensor
    longest: int
    index: Tensor
    obs: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0
    token_fields: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def n_cells(self) -> int:
        """Number of cells B."""
        return self.index.shape[0]

    @property
    def n_tokens(self) -> int:
        """Number of tokens T."""
        return self.ids.shape[0]

    @property
    def lengths(self) -> Tensor:
        """(B,) int64, tokens of each cell."""
        return self.boundaries.diff().long()

    @property
    def counts(self) -> Tensor | None:
        """(T,) float32, the counts behind the tokens; None where the batch carries none."""
        return self.token_fields.get("counts")

    @cached_property
    def token_cell(self) -> Tensor:
        """(T,) int64, the cell of each token."""
        cells = torch.arange(self.n_cells, device=self.ids.device)
        return torch.repeat_interleave(cells, self.lengths, output_size=self.n_tokens)

    def select_tokens(self, tokens: Tensor) -> Batch:
        """Some of the tokens; every cell stays, if need be without a token, and positions run on without gaps.

        ``longest`` stays as an upper bound, which is all that attention needs and spares a wait for the GPU.

        Args:
            tokens: (T',) int64 places in the row, those of a cell together and cells ascending.
        """
        cell = self.token_cell[tokens]
        lengths = torch.bincount(cell, minlength=self.n_cells)
        ends = lengths.cumsum(0)
        starts = (ends - lengths)[cell]
        return replace(
            self,
            ids=self.ids[tokens],
            positions=torch.arange(len(tokens), device=tokens.device) - starts,
            boundaries=F.pad(ends, (1, 0)).to(self.boundaries.dtype),
            token_fields={name: values[tokens] for name, values in self.token_fields.items()},
        )

    def shortened(self, length: int | None) -> Batch:
        """The first ``length`` tokens of each cell, the most expressed; None: this batch itself."""
        if length is None or self.longest <= length:
            return self
        kept = torch.nonzero(self.positions < length).squeeze(1)
        return replace(self.select_tokens(kept), longest=length)

    def select_cells(self, cells: Tensor) -> Batch:
        """Some of the cells, whole.

        Args:
            cells: (B,) bool.
        """
        tokens, lengths = cells[self.token_cell], self.lengths[cells]
        return replace(
            self,
            ids=self.ids[tokens],
            positions=self.positions[tokens],
            boundaries=F.pad(lengths.cumsum(0), (1, 0)).to(self.boundaries.dtype),
            longest=int(lengths.max()) if len(lengths) else 0,
            index=self.index[cells],
            obs={name: values[cells] for name, values in self.obs.items()},
            token_fields={name: values[tokens] for name, values in self.token_fields.items()},
        )

    def split(self, parts: int) -> list[Batch]:
        """The same cells in the same order, cut between cells.

        Args:
            parts: how many are wanted; never more than there are cells.

        Returns:
            Batches, each with a seed of its own that follows from this one's.
        """
        parts = min(parts, self.n_cells)
        edges = [round(i * self.n_cells / parts) for i in range(parts + 1)]
        offsets = self.boundaries.tolist()
        return [self._stretch(first, last, offsets, number) for number, (first, last) in enumerate(pairwise(edges))]

    def _stretch(self, first: int, last: int, offsets: list[int], number: int) -> Batch:
        """Cells ``first`` to ``last`` (exclusive), as part ``number``."""
        begin, end = offsets[first], offsets[last]
        boundaries = self.boundaries[first : last + 1] - begin
        return replace(
            self,
            ids=self.ids[begin:end],
            positions=self.positions[begin:end],
            boundaries=boundaries,
            longest=int(boundaries.diff().max()),
            index=self.index[first:last],
            obs={name: values[first:last] for name, values in self.obs.items()},
            seed=(self.seed + number) % 2**63,
            token_fields={name: values[begin:end] for name, values in self.token_fields.items()},
        )

    def replace_tokens(self, ids: Tensor) -> Batch:
        """The same row with other tokens in the same places (T,), masked ones say."""
        assert ids.shape == self.ids.shape, f"{tuple(ids.shape)} ids for a row of {self.n_tokens} tokens"
        return replace(self, ids=ids)

    def with_token_field(self, name: str, values: Tensor) -> Batch:
        """The same row with a further (or another) field of its tokens, (T, ...)."""
        assert len(values) == self.n_tokens, f"{len(values)} values for {self.n_tokens} tokens"
        return replace(self, token_fields={**self.token_fields, name: values})

    def with_obs(self, obs: Mapping[str, Tensor]) -> Batch:
        """The same cells with further fields of theirs, (B, ...) each."""
        assert all(len(values) == self.n_cells for values in obs.values()), "a field has a row for each cell"
        return replace(self, obs={**self.obs, **obs}) if obs else self

    def padded_to(self, row: int, longest: int) -> Batch:
        """The row filled up to a constant number of tokens with dummy cells that no real cell sees.

        For compiled and captured graphs, which want one shape. Dummy cells have index -1, missing labels (-1, NaN) and
        fields of 0; the last of them are empty.

        Args:
            row: tokens that the result has.
            longest: tokens that a dummy cell has at most; it becomes the batch's ``longest``, so that this is constant.

        Raises:
            ValueError: the batch has more tokens than that.
        """
        missing = row - self.n_tokens
        if missing < 0:
            raise ValueError(
                f"a batch has {self.n_tokens} tokens, but model.row={row}; it must be at least data.tokens_per_batch "
                "and as long as the longest cell"
            )
        dummies = -(-missing // longest)
        n_cells = -(-(self.n_cells + dummies) // CELLS) * CELLS
        new_cells = n_cells - self.n_cells
        steps = torch.arange(1, new_cells + 1, dtype=torch.int32, device=self.boundaries.device)
        return replace(
            self,
            ids=F.pad(self.ids, (0, missing)),
            positions=F.pad(self.positions, (0, missing)),
            boundaries=torch.cat([self.boundaries, (self.n_tokens + steps * longest).clamp(max=row)]),
            longest=longest,
            index=_append_fill(self.index, new_cells, -1),
            obs={
                name: _append_fill(values, new_cells, float("nan") if values.is_floating_point() else -1)
                for name, values in self.obs.items()
            },
            token_fields={name: _append_fill(values, missing, 0) for name, values in self.token_fields.items()},
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device; toward a GPU asynchronously, where it lies in page-locked memory."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=str(device).startswith("cuda")))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, for asynchronous transfer (called by the DataLoader)."""
        return self._each(lambda tensor: tensor.pin_memory())

    def share_memory(self) -> Batch:
        """The same batch in memory that processes share (called where a process reads ahead).

        Raises:
            RuntimeError: that memory (/dev/shm) is full or cannot be written to.
        """
        return self._each(lambda tensor: tensor.share_memory_() if tensor.numel() else tensor)

    def _each(self, move: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            ids=move(self.ids),
            positions=move(self.positions),
            boundaries=move(self.boundaries),
            index=move(self.index),
            obs={name: move(values) for name, values in self.obs.items()},
            token_fields={name: move(values) for name, values in self.token_fields.items()},
        )


def _append_fill(values: Tensor, n: int, fill: float) -> Tensor:
    """The values with n rows of a constant after them."""
    return torch.cat([values, values.new_full((n, *values.shape[1:]), fill)])
