"""Geneformer: genes ranked by their share of the cell's counts over the gene's own non-zero median."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from scfm.tokenizer.base import Tokenizer
from scfm.tokenizer.dictionary import read_medians
from scfm.tokenizer.statistics import GeneStatistics
from scfm.vocab import Vocab


@dataclass(frozen=True, eq=False)
class MedianTokenizer(Tokenizer):
    """Ranks by ``((x / n) * 10000) / median`` (Geneformer V1 and V2; Theodoris et al., Nature 2023).

    x is the gene's count, n the cell's total over all its genes, also those without a token, and the median is taken
    over the corpus's cells that have the gene, of the same ``x / n * 10000``.

    Further arguments are those of :class:`scfm.tokenizer.base.Tokenizer`.

    Args:
        medians: (V,) float64 by token id, 1 where a token is no gene; None until fitted.
        gene_median: path of the published medians that belong to ``token_dictionary``.

    Raises:
        ValueError: only one of ``token_dictionary`` and ``gene_median`` is given, or the medians do not fit.
    """

    medians: np.ndarray | None = None
    _: KW_ONLY
    gene_median: str | None = None

    kind: ClassVar[str] = "median"
    needs_counts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.token_dictionary is None) != (self.gene_median is None):
            raise ValueError(
                f"got token_dictionary={self.token_dictionary} and gene_median={self.gene_median}; {self.name} needs "
                "both of one release, or neither to fit them on the corpus"
            )
        if self.medians is None and self.gene_median is not None:
            self._set("medians", read_medians(self.gene_median, self.require_vocab()))
        if self.medians is not None:
            self._require_medians()

    def _require_medians(self) -> None:
        medians, n_tokens = np.asarray(self.medians), len(self.require_vocab())
        if medians.shape != (n_tokens,) or medians.dtype != np.float64:
            raise ValueError(
                f"the tokenizer {self.name} has {medians.shape} medians of {medians.dtype} for {n_tokens} tokens; "
                "expected one float64 for each"
            )
        if not (np.isfinite(medians) & (medians > 0)).all():
            raise ValueError(f"the tokenizer {self.name} has a median that is not a finite number above 0")

    def _medians(self) -> np.ndarray:
        assert self.medians is not None
        return self.medians

    def fit(self, statistics: GeneStatistics) -> Self:
        """The genes by ascending Ensembl id, as in the published dictionaries, with their non-zero medians.

        Raises:
            ValueError: it is fitted already, or no gene is left for the vocabulary.
        """
        known: Mapping[str, int] = {} if self.vocab is None else self.vocab.ids
        kept = np.array([i for i in np.flatnonzero(self._select_genes(statistics)) if statistics.genes[i] not in known])
        kept = kept.astype(np.int64)
        kept = kept[np.argsort(np.array(statistics.genes)[kept], kind="stable")]
        vocab = self._make_vocab([statistics.genes[i] for i in kept])
        old = np.ones(len(self.specials)) if self.medians is None else self.medians
        medians = np.concatenate([old, statistics.medians()[kept]])
        return replace(self, vocab=vocab, medians=medians, growing=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and checkpoints; floats keep every bit."""
        return {**super().to_dict(), "medians": None if self.medians is None else self.medians.tolist()}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        vocab = None if state["vocab"] is None else Vocab.from_dict(state["vocab"])
        alias = {name: target for target, names in state["alias"].items() for name in names}
        medians = None if state["medians"] is None else np.array(state["medians"], dtype=np.float64)
        return cls(vocab, alias, medians, **state["options"])
