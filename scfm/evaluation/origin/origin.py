"""What is known of where an embedding comes from, and what that means for its scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from scfm.evaluation.cells import Cells
from scfm.evaluation.methods.embeddings import Encoder
from scfm.evaluation.origin.lookup import Lookup, Matches
from scfm.head.annotation.label_layer import UNKNOWN

#: Names of cells are barcodes, of which unrelated files share some by chance; from this share on it is no chance.
CHANCE = 0.2
#: Shallow cells of few genes may have the same leading genes by chance.
FEW = 0.01


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


def check_corpora(cells: Cells, scored: np.ndarray, corpora: Mapping[str, Lookup]) -> list[str]:
    """A note for each corpus of pretraining in which some of the scored cells were found."""
    notes = []
    for name, lookup in corpora.items():
        share, certain = _shares(lookup(cells.names, cells.expression.counts), scored)
        if share:
            notes.append(describe_corpus(share, "scored", name, certain=certain))
    return notes


def describe_corpus(share: float, part: str, store: str, *, certain: bool = True) -> str:
    """The sentence about cells that a backbone was pretrained on.

    Args:
        share: of the cells.
        part: which cells these are, such as ``test``.
        store: where they were found.
        certain: False where only their names were found.
    """
    place = f"are in {store}" if certain else f"have the cell names of cells in {store}, with other counts"
    return (
        f"{share:.1%} of the {part} cells {place}; the backbone was pretrained on these (without labels), and scores "
        "on cells that it never saw may be lower."
    )


def _shares(matches: Matches, rows: np.ndarray) -> tuple[float, bool]:
    """The share of some cells that were found, and whether that is certain; 0 for what chance explains."""
    counts, names = float(matches.by_counts[rows].mean()), float(matches.by_name[rows].mean())
    either = float((matches.by_counts | matches.by_genes)[rows].mean())
    if counts > 0 or either >= FEW:  # the file is of these cells, so that equal names are no chance
        return float((matches.by_counts | matches.by_genes | matches.by_name)[rows].mean()), True
    return (names, False) if names >= CHANCE else (0.0, False)


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
    share, certain = _shares(training(cells.names, cells.expression.counts), cells.codes >= 0)
    if share and certain:
        return False, (
            f"{share:.1%} of the labeled cells are in the store that this embedding was fine-tuned on, by counts, "
            f"leading genes or cell names, so that scores are too high, and the names its head gave are not scored: "
            f"{split}"
        )
    if share:
        return False, (
            f"{share:.1%} of the labeled cells have the cell names of cells in the store that this embedding was "
            "fine-tuned on, with other counts: they may be the same cells. Scores may be too high, and the names its "
            f"head gave are not scored: {split}"
        )
    return True, (
        "The labeled cells were not found in the store that the head was fine-tuned on, by counts, leading genes or "
        "cell names: the head's names are scored on all of them, while the other methods learn from labels of this "
        "very file, by cross-validation."
    )


def foreign_classes(cells: Cells, label: str) -> list[str]:
    """A note about names that the head gives and that are no class of the labels."""
    assert cells.called is not None
    foreign = sorted(set(cells.called) - {*cells.classes, UNKNOWN, ""})
    if not foreign:
        return []
    listed = ", ".join(map(repr, foreign[:8])) + (", ..." if len(foreign) > 8 else "")
    return [f"The head calls cells {listed}, which is no class of {label!r} here: such calls count as wrong."]
