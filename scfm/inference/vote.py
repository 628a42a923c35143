"""Names by the majority of a cell's neighbors, beside the names of single cells."""

from __future__ import annotations

import numpy as np

from scfm.head.base import Written
from scfm.metrics.neighbors import nearest

#: Neighbors are sought exactly, among at most this many cells.
MAX_CELLS = 100_000


def require_vote(vote: int, n_cells: int) -> None:
    """Refuse, before any work, a vote that cannot be held.

    Args:
        vote: neighbors that vote, 0 for none.
        n_cells: cells of the file.

    Raises:
        ValueError: a negative number, or too many cells.
    """
    if vote < 0:
        raise ValueError(f"vote={vote}; expected a number of neighbors, 0 for none")
    if vote and n_cells > MAX_CELLS:
        raise ValueError(
            f"vote={vote} seeks the neighbors of {n_cells:,} cells, at most {MAX_CELLS:,} can be searched: set vote=0, "
            "or embed the file in parts"
        )


def add_majority(entries: Written, key: str, vote: int) -> Written:
    """Entries with ``scfm_<label>_majority``: the commonest name among a cell and its nearest cells.

    A vote depends on the other cells of the file, which the names of single cells do not. Neighbors are sought in what
    the head reads (``KEY_state``), or in the embedding. Of names with equally many votes the nearest cell's counts, the
    cell itself being its own nearest. A cell without a gene that the model knows keeps its name and has no vote.

    Args:
        entries: of :func:`scfm.inference.write.make_entries`.
        key: of the embedding.
        vote: neighbors that vote beside the cell; 0 adds nothing.
    """
    names = {name: values for name, values in entries.obs.items() if f"{name}_guess" in entries.obs}
    space = entries.obsm.get(f"{key}_state", entries.obsm[key])
    known = np.isfinite(space).all(axis=1)
    if not vote or not names or known.sum() < 2:
        return entries
    table = nearest(space[known], space[known], vote, itself=True)
    table = np.column_stack([np.arange(len(table)), table])
    voted = {f"{name}_majority": _voted(values, known, table) for name, values in names.items()}
    return entries | Written(obs=voted)


def _voted(names: np.ndarray, known: np.ndarray, table: np.ndarray) -> np.ndarray:
    classes, codes = np.unique(names[known].astype(str), return_inverse=True)
    votes = np.zeros((len(table), len(classes)))
    # nearer cells decide between equal numbers: their votes are larger by less than one vote in all
    weight = 1 + np.linspace(0.5, 0, table.shape[1]) / table.shape[1]
    for place in range(table.shape[1]):
        votes[np.arange(len(table)), codes[table[:, place]]] += weight[place]
    result = names.astype(object).copy()
    result[known] = classes[votes.argmax(axis=1)]
    return result
