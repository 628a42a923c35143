"""What a backbone adds to an integration head: the head trained on states with it, without it, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.evaluation.methods.backbone_gain import RANDOM, WITH, WITHOUT, BackboneGain
from scfm.head.integration.triplet import Triplet
from scfm.head.survey import Survey, build_row_table, lookup_rows
from scfm.metrics.annotation import interval
from scfm.metrics.mixing.lisi import lisi
from scfm.metrics.mixing.silhouette import to_codes
from scfm.metrics.neighbors import find_neighbors

#: Steps of each training, cells of a step, learning rate.
STEPS, CELLS, RATE = 100, 512, 3e-3
#: Neighbors by which mixing and what is kept are scored.
MIXED, KEPT = 90, 30
#: Resamples of cells.
DRAWS = 200


class StateTable(nn.Module):
    """Stands for a head's state: rows of embeddings and components that were computed before, by store row.

    Args:
        rows: (n,) store rows.
        embedding: (n, D).
        components: (n, k).
    """

    embedding: Tensor
    beside: Tensor

    def __init__(self, rows: np.ndarray, embedding: np.ndarray, components: np.ndarray) -> None:
        super().__init__()
        self.deep, self.width = embedding.shape[1], embedding.shape[1] + components.shape[1]
        self.norm = nn.LayerNorm(self.deep)
        self.space = components
        for name, values in (("embedding", embedding), ("beside", components)):
            table = build_row_table(rows, values.astype(np.float32), missing=0)
            self.register_buffer(name, torch.from_numpy(table), persistent=False)

    def prepare(self, survey: Survey) -> None:
        """Nothing is fitted."""

    def search_space(self, survey: Survey) -> np.ndarray:
        """The components of the surveyed cells, (n, k)."""
        return self.space

    def forward(self, backbone: nn.Module | None, batch: Batch) -> Tensor:
        """The state of the cells of a batch, (B, D + k); the backbone is not read."""
        deep = self.norm(lookup_rows(self.embedding, batch.index, missing=0))
        return torch.cat([deep, lookup_rows(self.beside, batch.index, missing=0)], dim=1)


def compare_integrations(
    make_head: Callable[[], Triplet],
    embeddings: Mapping[str, np.ndarray],
    components: np.ndarray,
    rows: np.ndarray,
    obs: Mapping[str, np.ndarray],
    *,
    steps: int = STEPS,
    seed: int = 0,
) -> BackboneGain:
    """Train the head three times on the same cells, from the same start, and score where it puts them.

    Args:
        make_head: a head as a fine-tune begins with it.
        embeddings: (n, D) by ``WITH`` and ``RANDOM``, of the pretrained and of a random backbone, not fine-tuned.
        components: (n, k) the gene components at which the head's space begins.
        rows: (n,) store rows of the cells, ascending.
        obs: (n,) class codes of the columns that the head names.
        steps: of each training.
        seed: of the head's start, of the micro-batches and of the resamples.

    Returns:
        Rows ``WITH, WITHOUT, RANDOM``: ``mixing``, (LISI of batches − 1)/(B − 1) of 90 neighbors, mean over cells;
        ``kept_neighbors``, the share of 30 neighbors in its own batch that a cell keeps; ``gain, low, high`` of the
        mixing over the components alone, ``kept_gain, kept_low, kept_high`` likewise, by paired resamples of cells.
    """
    states = {WITH: embeddings[WITH], WITHOUT: np.zeros_like(embeddings[WITH]), RANDOM: embeddings[RANDOM]}
    cells = {}
    for name, embedding in states.items():
        space, batch = _trained_space(make_head, StateTable(rows, embedding, components), rows, obs, steps, seed)
        cells[name] = np.column_stack([_mixing(space, batch), _kept(components, space, batch)])
    drawn = np.random.default_rng(seed).integers(len(rows), size=(DRAWS, len(rows)))
    table = {}
    for name, own in cells.items():
        difference = own - cells[WITHOUT]
        draws = np.stack([difference[draw].mean(axis=0) for draw in drawn])
        gains = difference.mean(axis=0)
        (low, high), (kept_low, kept_high) = interval(draws[:, 0]), interval(draws[:, 1])
        table[name] = dict(zip(("mixing", "kept_neighbors"), own.mean(axis=0), strict=True))
        table[name] |= {"gain": gains[0], "low": low, "high": high}
        table[name] |= {"kept_gain": gains[1], "kept_low": kept_low, "kept_high": kept_high}
    frame = pd.DataFrame.from_dict(table, orient="index")
    return BackboneGain(frame, describe(frame))


def describe(table: pd.DataFrame) -> str:
    """The sentence that follows: a gain of mixing counts where neighbors are not lost for it."""

    def number(name: str, start: str = "") -> str:
        gain, low, high = table.loc[name, [f"{start}gain", f"{start}low", f"{start}high"]]
        return f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]"

    row = table.loc[WITH]
    if row["low"] > 0 and row["kept_high"] >= 0:
        start = "The pretrained backbone helps to mix batches"
    elif row["kept_low"] > 0 and row["high"] >= 0:
        start = "The pretrained backbone helps to keep neighbors"
    elif row["high"] < 0 and row["kept_low"] <= 0:
        start = "The pretrained backbone takes from the mixing of batches"
    else:
        start = "The pretrained backbone adds nothing to the gene components, or gives one score for the other"
    return (
        f"{start}: mixing {number(WITH)}, neighbors kept {number(WITH, 'kept_')}; random weights {number(RANDOM)} and "
        f"{number(RANDOM, 'kept_')} (the head trained on frozen states, {STEPS} steps; 95 % intervals over cells)."
    )


def _trained_space(
    make_head: Callable[[], Triplet],
    state: StateTable,
    rows: np.ndarray,
    obs: Mapping[str, np.ndarray],
    steps: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) the space of a head that was trained on a table of states, and (n,) codes of the batches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = make_head()
        head.state = state  # type: ignore[assignment]
        head.prepare(Survey(rows, np.ones(len(rows), dtype=bool), np.zeros((len(rows), 1), dtype=np.float32), obs))
        optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=0.01)
        rng, positives = np.random.default_rng(seed), head.positives.numpy()
        columns = {name: torch.from_numpy(values) for name, values in obs.items()}
        head.train()
        for step in range(steps):
            places = _draw_cells(rng, rows, positives)
            optimizer.zero_grad()
            head(None, _cells(rows, columns, places, step))["loss"].backward()
            optimizer.step()
        head.eval()
        with torch.no_grad():
            batch = _cells(rows, columns, np.arange(len(rows)), 0)
            space: np.ndarray = head.place(state(None, batch))[0].numpy()
    return space, to_codes(obs[head.batch_key])


def _draw_cells(rng: np.random.Generator, rows: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Places of a micro-batch: cells at random, and one positive of each."""
    cores = rng.permutation(len(rows))[: CELLS // 2]
    table = positives[rows[cores]]
    partner = table[np.arange(len(cores)), rng.integers(table.shape[1], size=len(cores))]
    return np.union1d(cores, np.searchsorted(rows, partner[partner >= 0]))


def _cells(rows: np.ndarray, obs: Mapping[str, Tensor], places: np.ndarray, seed: int) -> Batch:
    """A batch without tokens: the states are looked up by row."""
    nothing, chosen = torch.zeros(0, dtype=torch.int64), torch.from_numpy(places)
    return Batch(
        ids=nothing,
        positions=nothing,
        boundaries=torch.zeros(len(places) + 1, dtype=torch.int32),
        longest=0,
        index=torch.from_numpy(rows[places]),
        obs={name: values[chosen] for name, values in obs.items()},
        seed=seed,
    )


def _mixing(space: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """(n,) from 0, neighbors of one batch, to 1, neighbors of all batches in equal shares."""
    near = find_neighbors(space, min(MIXED, len(space)))
    n_batches = int(batch.max()) + 1
    return (lisi(near, batch).clip(min=1) - 1) / (n_batches - 1)


def _kept(before: np.ndarray, after: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """(n,) share of the neighbors in a cell's own batch that are the same; 1 for the only cell of a batch."""
    kept = np.ones(len(batch))
    for code in np.unique(batch):
        own = np.flatnonzero(batch == code)
        k = min(KEPT, len(own) - 1)
        if k > 0:
            first, second = (find_neighbors(values[own], k + 1).indices[:, 1:] for values in (before, after))
            kept[own] = (first[:, :, None] == second[:, None, :]).any(axis=2).mean(axis=1)
    return kept
