"""The contracts between the parts of scfm.

Letters used in every docstring of the package: ``B`` cells, ``T`` tokens of the packed row, ``L`` tokens of one cell,
``D`` width, ``V`` vocabulary, ``G`` genes, ``N`` predicted tokens.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch
    from scipy.sparse import csr_matrix

    from scfm.batch import Batch
    from scfm.vocab import Vocab

#: What a task returns: ``loss`` is the scalar to minimize, the rest are scalars to log.
Metrics: TypeAlias = "dict[str, torch.Tensor]"


#: A second modality of the cells: its name in ``Batch.obs``, and as a column of a store, is this before its kind.
FIELD = "side/"
#: Surface proteins (B, P) float32, NaN where not measured; open chromatin peaks (B, K) int64, -1 after the last.
PROTEIN, PEAKS = "protein", "peaks"
FIELDS = (PROTEIN, PEAKS)


def field_key(kind: str) -> str:
    """The name of a second modality in ``Batch.obs``, in ``Survey.obs`` and in a store's table."""
    return f"{FIELD}{kind}"


@dataclass(frozen=True)
class Ragged:
    """Rows of unequal length, one after the other.

    Attributes:
        values: (sum of lengths,) the rows' entries.
        offsets: (B+1,) int64; row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.
    """

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """(B,) int64, the length of each row."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Spec:
    """What only the run knows, handed to backbones and tasks as a Python argument; the config is never mutated.

    Attributes:
        vocab: the tokens.
        width: D of the backbone.
        classes: names of the classes by obs column; class code ``i`` is ``classes[column][i]``.
        batches: names of the experimental batches by obs column.
        n_cells: cells of the training split.
        token_counts: (V,) int64, how often each token occurs in the training split: the unigram table that a
            pretrained model must beat. None where no one counted.
        class_counts: (C,) int64 by obs column: labeled training cells of each class.
        scale: (V,) float64, what the tokenizer divides the counts of a token by before it ranks. None where unknown.
        file_cells: (F,) int64, training cells of each file that the store was made from. None where unknown.
        fields: names of the features of each second modality: the proteins, the peaks.
        cluster_counts: (K, V) float64, tokens of the training cells by cluster: the second table that a pretrained
            model must beat. None where no one counted.
        reference_cells: n x V, not zero where a training cell holds the token: the nearest of them are the third. None
            where no one gathered them.
    """

    vocab: Vocab
    width: int
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    batches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    n_cells: int = 0
    token_counts: np.ndarray | None = None
    class_counts: Mapping[str, np.ndarray] = field(default_factory=dict)
    scale: np.ndarray | None = None
    file_cells: np.ndarray | None = None
    cluster_counts: np.ndarray | None = None
    reference_cells: csr_matrix | None = None
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def categories(self, key: str, column: str) -> tuple[str, ...]:
        """Names of the classes of an obs column.

        Args:
            key: of the config, that names the column.
            column: what it names.

        Raises:
            ValueError: no such column, or one of numbers.
        """
        if column in self.classes:
            return self.classes[column]
        near = difflib.get_close_matches(column, list(self.classes), n=1)
        have = ", ".join(self.classes) or "none"
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(
            f"{key}={column!r} is not a categorical obs column of the store; it has {have}{hint}. Others come with "
            f"scfm-prepare obs='[{column}]', and numbers become classes with scfm-prepare categories='[{column}]'"
        )


@dataclass(frozen=True)
class Sampling:
    """How a head wants the cells of its micro-batches chosen; part of its :class:`Needs`.

    Attributes:
        by: obs column; every micro-batch holds cells of one category of it (those of fewer than four cells count as
            one). None mixes them.
        neighbors: (n, k) int64 by store row: rows that should come in the same micro-batch, -1 for none.
        share: share of a micro-batch that is a core cell's neighbors.
        companions: how many neighbors join one core.
        micro_batches: of each category in an epoch: ``proportional`` to its tokens, every cell once; for each the
            ``equal`` number, the median of those; or as many in all, in proportion to its ``coverage``.
        coverage: (categories,) weights.
        inside: share of a micro-batch's cells that are of its category; the others are neighbors, to ``share``, or
            drawn at random.
    """

    by: str | None = None
    neighbors: np.ndarray | None = None
    share: float = 0.0
    companions: int = 1
    micro_batches: Literal["proportional", "equal", "coverage"] = "proportional"
    coverage: np.ndarray | None = None
    inside: float = 1.0


@dataclass(frozen=True)
class Needs:
    """What a head needs of the data.

    Attributes:
        labels: obs columns that batches carry.
        learned: those whose classes are learned; others are only read (an experimental batch, say), and classes that
            only held-out cells have are no fault. None: all of ``labels``.
        counts: whether batches carry the counts behind their tokens; the store has to keep them.
        sampling: how micro-batches are chosen; None mixes all cells. It may follow from the survey.
        fields: second modalities that batches carry; the store has to keep them.
    """

    labels: tuple[str, ...] = ()
    learned: tuple[str, ...] | None = None
    counts: bool = False
    sampling: Sampling | None = None
    fields: tuple[str, ...] = ()


class Backbone(Protocol):
    """A transformer over packed rows. An ``nn.Module``.

    Attributes:
        width: D.
        causal: whether a token sees only the tokens before it.
        n_positions: the longest cell it can read, in tokens.
        n_layers: number of transformer layers.
        embedding_layer, embedding_pool: how its cell embeddings are read (see :mod:`scfm.model.pooling`).
    """

    width: int
    causal: bool
    n_positions: int
    n_layers: int
    embedding_layer: int
    embedding_pool: str

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Last hidden states, (T, D)."""
        ...

    def hidden(self, batch: Batch, layer: int) -> torch.Tensor:
        """Hidden states after ``layer`` (Python index into [input embeddings, layer 1, ..., layer n]), (T, D)."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores over the vocabulary, (N, D) -> (N, V)."""
        ...
