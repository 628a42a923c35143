"""What is known of where an embedding comes from, and what that means for its scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_matrix

from scfm.evaluate.cells import Cells
from scfm.evaluate.embeddings import Encoder
from scfm.head.annotation.label_layer import UNKNOWN

#: Names of cells are barcodes, of which unrelated files share some by chance; from this share on it is no chance.
CHANCE = 0.2


@dataclass(frozen=True)
class Matches:
    """Which cells of a file are in a store.

    Attributes:
        by_counts: (B,) bool: a cell of the store has the same counts.
        by_name: (B,) bool: a cell of the store has the same name, whatever its counts.
    """

    by_counts: np.ndarray
    by_name: np.ndarray


#: (names (B,), counts (B, G)) -> which of the cells are in a store
Lookup = Callable[[np.ndarray, csr_matrix], Matches]


@dataclass(frozen=True)
class Origin:
    """The checkpoint of an embedding, as far as it is known.

    Attributes:
        encoders: backbones that embed counts, by name: before fine-tuning, and with random weights.
        corpora: by name of a store of pretraining, which cells are in it.
        training: which cells are in the store that the head was fine-tuned on; None where that is not known.
    """

    encoders: Mapping[str, Encoder] = field(default_factory=dict)
    corpora: Mapping[str, Lookup] = field(default_factory=dict)
    training: Lookup | None = None


def corpus_notes(cells: Cells, scored: np.ndarray, corpora: Mapping[str, Lookup]) -> list[str]:
    """A note for each corpus of pretraining in which some of the scored cells were found."""
    notes = []
    for name, lookup in corpora.items():
        matches = lookup(cells.names, cells.expression.counts)
        counts, named = float(matches.by_counts[scored].mean()), float(matches.by_name[scored].mean())
        if counts > 0:
            notes.append(
                f"{counts:.1%} of the scored cells are in {name}, which the backbone was pretrained on (without "
                "labels); scores on cells that it never saw may be lower."
            )
        elif named >= CHANCE:
            notes.append(
                f"{named:.1%} of the scored cells have the cell names of cells in {name}, which the backbone was "
                "pretrained on (without labels), with other counts; scores on cells that it never saw may be lower."
            )
    return notes


def check_head(cells: Cells, label: str, training: Lookup | None) -> tuple[bool, str]:
    """Whether the head's own names of the cells can be scored without a split, and a note that says why.

    Args:
        cells: with labels and the head's names.
        label: obs column.
        training: which cells are in the store that the head was fine-tuned on; None where that is not known.
    """
    split = "give split=RUN/split.csv, so that only the test cells of the fine-tune are scored."
    if training is None:
        return False, (
            f"The names in obs['scfm_{label}'] are not scored: whether their head learned from these very cells is "
            f"not known; {split}"
        )
    matches = training(cells.names, cells.expression.counts)
    labelled = cells.codes >= 0
    counts, named = float(matches.by_counts[labelled].mean()), float(matches.by_name[labelled].mean())
    if counts > 0:
        return False, (
            f"{counts:.1%} of the labelled cells are in the store that this embedding was fine-tuned on, so that "
            f"scores are too high, and the names its head gave are not scored: {split}"
        )
    if named >= CHANCE:
        return False, (
            f"{named:.1%} of the labelled cells have the cell names of cells in the store that this embedding was "
            "fine-tuned on, with other counts (as after a filter of genes): they may be the same cells. Scores may be "
            f"too high, and the names its head gave are not scored: {split}"
        )
    chance = f" ({named:.1%} share a cell name with other counts, which happens by chance)" if named else ""
    return True, (
        "The labelled cells were not found in the store that the head was fine-tuned on, neither by their counts nor "
        f"by their cell names{chance}: the head's names are scored on all of them, while the other methods learn from "
        "labels of this very file, by cross-validation."
    )


def foreign_classes(cells: Cells, label: str) -> list[str]:
    """A note about names that the head gives and that are no class of the labels."""
    assert cells.called is not None
    foreign = sorted(set(cells.called) - {*cells.classes, UNKNOWN, ""})
    if not foreign:
        return []
    listed = ", ".join(map(repr, foreign[:8])) + (", ..." if len(foreign) > 8 else "")
    return [f"The head calls cells {listed}, which is no class of {label!r} here: such calls count as wrong."]
