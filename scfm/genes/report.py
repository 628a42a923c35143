"""What became of a file's genes, and why when too many are lost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scfm.genes.resolve import ENSEMBL, looks_like_mouse
from scfm.genes.table import table

_KINDS = (
    (
        re.compile(r"ENSMUSG\d{11}(\.\d+)?", re.I),
        "they are Ensembl ids of mouse genes; ask for orthologs (species=mouse)",
    ),
    (
        re.compile(r"ENSG\d{11}(\.\d+)?", re.I),
        "they are human Ensembl ids, but few are in the vocabulary; is it of human genes?",
    ),
    (ENSEMBL, "they are Ensembl ids of another species; fit a vocabulary of that species (species=other)"),
    (
        re.compile(r"ENS[A-Z]{0,6}[TP]\d{11}(\.\d+)?", re.I),
        "they are Ensembl transcripts or proteins; sum them by gene first",
    ),
    (re.compile(r"[NX][MRP]_\d+(\.\d+)?"), "they are RefSeq transcripts; sum them by gene first"),
    (re.compile(r".+_at"), "they are probes of a microarray"),
    (re.compile(r"(chr)?[\dXYM]+[:_-]\d+[-_]\d+"), "they are genomic regions; this looks like ATAC peaks"),
    (re.compile(r"Gene_?\d+", re.I), "they are made-up names; say which var column has the genes (gene_column=...)"),
)


#: Names, evenly spread, that say what most are.
_SAMPLE = 1000


def likely_cause(names: Sequence[str]) -> str:
    """Why the names of a file's genes may not be known, as the end of a sentence that begins 'likely cause:'."""
    if not names:
        return "the file has no genes"
    every, names = names, names[:: -(-len(names) // _SAMPLE)]
    if sum(name.isdigit() for name in names) * 2 > len(names):
        if list(every) == [str(i) for i in range(len(every))]:
            return "the names are row numbers, not genes; say which var column has the genes (gene_column=...)"
        return "the names are numbers (Entrez ids?); say which var column has symbols or Ensembl ids (gene_column=...)"
    for pattern, cause in _KINDS:
        if sum(pattern.fullmatch(name) is not None for name in names) * 2 > len(names):
            return cause
    if looks_like_mouse(names):
        return "they are symbols of mouse genes; ask for orthologs (species=mouse)"
    known = sum(name.upper() in table("human").by_symbol for name in names)
    if known * 2 > len(names):
        return "they are human symbols, but few of their counts are in the vocabulary; is it the right one?"
    return "another species, another kind of id, or the wrong var column (gene_column=...)"


@dataclass(frozen=True)
class GeneReport:
    """What became of the genes of one file, or of many together.

    Attributes:
        n_genes: columns of the file.
        n_mapped: columns that have a token.
        n_merged: columns that met an earlier one on the same token.
        n_excluded: columns that the tokenizer leaves out on purpose (ribosomal genes, ...).
        n_dropped: the other columns without a token.
        counts, counts_excluded, counts_dropped: the same in counts.
        dropped_most: the dropped columns with most counts, (name, counts), at most 10.
        cause: why so many may be dropped, see :func:`likely_cause`.
    """

    n_genes: int
    n_mapped: int
    n_merged: int
    n_excluded: int
    n_dropped: int
    counts: float
    counts_excluded: float
    counts_dropped: float
    dropped_most: tuple[tuple[str, float], ...]
    cause: str = ""

    @property
    def share_dropped(self) -> float:
        """Share of the counts that is dropped without intention, of those that are not excluded on purpose."""
        wanted = self.counts - self.counts_excluded
        return self.counts_dropped / wanted if wanted > 0 else float(self.n_mapped == 0)

    def __str__(self) -> str:
        text = (
            f"{self.n_genes:,} genes in: {self.n_mapped:,} in the vocabulary ({self.n_merged:,} met another one), "
            f"{self.n_excluded:,} left out on purpose, "
            f"{self.n_dropped:,} dropped with {self.share_dropped:.1%} of the counts"
        )
        if self.dropped_most:
            text += "; most counts: " + ", ".join(f"{name} ({counts:,.0f})" for name, counts in self.dropped_most[:5])
        return text

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = asdict(self)
        values["dropped_most"] = [[name, counts] for name, counts in self.dropped_most]
        return {**values, "share_dropped": self.share_dropped}

    def __add__(self, other: GeneReport) -> GeneReport:
        """Both files together: columns and counts add up, also those of the genes that cost most."""
        most: dict[str, float] = {}
        for name, counts in (*self.dropped_most, *other.dropped_most):
            most[name] = most.get(name, 0.0) + counts
        numbers = ("n_genes", "n_mapped", "n_merged", "n_excluded", "n_dropped")
        sums = ("counts", "counts_excluded", "counts_dropped")
        return GeneReport(
            **{name: getattr(self, name) + getattr(other, name) for name in (*numbers, *sums)},
            dropped_most=tuple(sorted(most.items(), key=lambda item: (-item[1], item[0]))[:10]),
            cause=(self if self.share_dropped >= other.share_dropped else other).cause,
        )

    def require(self, max_dropped: float, where: str) -> None:
        """Refuse a file that loses too much.

        Args:
            max_dropped: the largest share of counts that may be dropped.
            where: the file, for the message.

        Raises:
            ValueError: more is dropped, or no gene is left; with the likely cause.
        """
        if self.n_mapped and self.share_dropped <= max_dropped:
            return
        examples = ", ".join(name for name, _ in self.dropped_most[:3])
        raise ValueError(
            f"{where}: {self.n_mapped:,} of {self.n_genes:,} genes are in the vocabulary and "
            f"{self.share_dropped:.1%} of the counts would be dropped, at most {max_dropped:.0%} may be"
            f"{f' (most counts: {examples})' if examples else ''}; likely cause: {self.cause}"
        )
