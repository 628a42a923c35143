"""How many of a file's genes and counts have a token, and the likely cause where too few have one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from scfm.genes.resolve import ENSEMBL, looks_like_mouse
from scfm.genes.spelling import clean_names, is_known, several_prefixes
from scfm.genes.table import table

_MOUSE = re.compile(r"ENSMUSG\d{11}(\.\d+)?", re.I)
_KINDS = (
    (
        re.compile(r"ENSG\d{11}(\.\d+)?", re.I),
        "they are human Ensembl ids, but few are in the vocabulary; is it of human genes?",
    ),
    (ENSEMBL, "they are Ensembl ids of another species{fit}"),
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


def likely_cause(names: Sequence[str], species: str = "human") -> str:
    """Why the names of a file's genes may not be known, as the end of a sentence that begins 'likely cause:'.

    Args:
        names: of the genes.
        species: what the user said they are of: what was given already is not advised.
    """
    return _likely_cause(tuple(names), species)


@lru_cache(maxsize=4)  # of one file it is asked twice
def _likely_cause(names: Sequence[str], species: str) -> str:
    if not names:
        return "the file has no genes"
    every, names = names, names[:: -(-len(names) // _SAMPLE)]
    genomes = several_prefixes(every)
    if genomes:
        return (
            f"they are of several genomes ({', '.join(map(repr, genomes))}); keep the genes of one and its cells, and "
            "take the prefix off"
        )
    names, _ = clean_names(names)
    if sum(name.isdigit() for name in names) * 2 > len(names):
        if list(every) == [str(i) for i in range(len(every))]:
            return "the names are row numbers, not genes; say which var column has the genes (gene_column=...)"
        return "the names are numbers (Entrez ids?); say which var column has symbols or Ensembl ids (gene_column=...)"
    orthologs = {
        "human": "; ask for orthologs (species=mouse)",
        "mouse": ", and few of their one-to-one human orthologs are in the vocabulary; is it the right one?",
    }.get(species, ", and the vocabulary is of other names; is it the right one?")
    if _most_match(_MOUSE, names):
        return f"they are Ensembl ids of mouse genes{orthologs}"
    fit = (
        ", and the vocabulary is not of that species; is it the right one?"
        if species == "other"
        else "; fit a vocabulary of that species (species=other)"
    )
    for pattern, cause in _KINDS:
        if _most_match(pattern, names):
            return cause.replace("{fit}", fit)
    if looks_like_mouse(names):
        return f"they are symbols of mouse genes{orthologs}"
    known = sum(name.upper() in table("human").by_symbol for name in names)
    if known * 2 > len(names):
        return "they are human symbols, but few of their counts are in the vocabulary; is it the right one?"
    return "another species, another kind of id, or the wrong var column (gene_column=...)"


def _most_match(pattern: re.Pattern[str], names: Sequence[str]) -> bool:
    return sum(pattern.fullmatch(name) is not None for name in names) * 2 > len(names)


def _add_up(*parts: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """The genes with most counts of several files, (name, counts), at most 10."""
    most: dict[str, float] = {}
    for name, counts in (pair for part in parts for pair in part):
        most[name] = most.get(name, 0.0) + counts
    return tuple(sorted(most.items(), key=lambda item: (-item[1], item[0]))[:10])


@dataclass(frozen=True)
class GeneReport:
    """How many genes of one file, or of several together, have a token.

    Attributes:
        n_genes: columns of the file.
        n_mapped: columns that have a token.
        n_merged: columns that met an earlier one on the same token.
        n_excluded: columns that the tokenizer leaves out on purpose (ribosomal genes, ...).
        n_dropped: the other columns without a token.
        counts, counts_excluded, counts_dropped: the same in counts.
        dropped_most: the dropped columns with most counts, (name, counts), at most 10.
        cause: why so many may be dropped, see :func:`likely_cause`.
        n_rescued, counts_rescued: columns that have a token by a retired name alone, and their counts.
        rescued_most: those with most counts, (name, counts), at most 10.
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
    n_rescued: int = 0
    counts_rescued: float = 0.0
    rescued_most: tuple[tuple[str, float], ...] = ()

    @property
    def share_rescued(self) -> float:
        """Share of the counts that retired names lead to a token."""
        return self.counts_rescued / self.counts if self.counts > 0 else 0.0

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
        if self.n_rescued:
            examples = ", ".join(name for name, _ in self.rescued_most[:3])
            text += (
                f"; {self.n_rescued:,} genes with {self.share_rescued:.2%} of the counts came by retired names "
                f"({examples})"
            )
        return text

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = asdict(self)
        for most in ("dropped_most", "rescued_most"):
            values[most] = [[name, counts] for name, counts in getattr(self, most)]
        return {**values, "share_dropped": self.share_dropped}

    def __add__(self, other: GeneReport) -> GeneReport:
        """Both files together: columns and counts add up, also those of the genes that cost most."""
        numbers = ("n_genes", "n_mapped", "n_merged", "n_excluded", "n_dropped", "n_rescued")
        sums = ("counts", "counts_excluded", "counts_dropped", "counts_rescued")
        return GeneReport(
            **{name: getattr(self, name) + getattr(other, name) for name in (*numbers, *sums)},
            dropped_most=_add_up(self.dropped_most, other.dropped_most),
            rescued_most=_add_up(self.rescued_most, other.rescued_most),
            cause=(self if self.share_dropped >= other.share_dropped else other).cause,
        )

    def require(
        self, max_dropped: float, where: str, var_columns: Sequence[str] = (), cell_names: Sequence[str] = ()
    ) -> None:
        """Refuse a file that loses too much.

        Args:
            max_dropped: the largest share of counts that may be dropped.
            where: the file, for the message.
            var_columns: names that ``gene_column`` can take, for the message.
            cell_names: of some cells: where most are genes, the matrix is genes x cells.

        Raises:
            ValueError: more is dropped, or no gene is left; with the likely cause.
        """
        if self.n_mapped and self.share_dropped <= max_dropped:
            return
        most = ", ".join(name for name, _ in self.dropped_most[:3])
        listed = f"; gene_column can be {', '.join(map(repr, var_columns[:12]))}" if var_columns else ""
        cause = self.cause
        if sum(map(is_known, cell_names)) * 2 > len(cell_names):
            examples = ", ".join(cell_names[:2])
            cause = f"obs holds genes ({examples}, ...): the matrix is genes x cells, transpose it (adata.T)"
        raise ValueError(
            f"{where}: {self.n_mapped:,} of {self.n_genes:,} genes are in the vocabulary and "
            f"{self.share_dropped:.1%} of the counts would be dropped, at most {max_dropped:.0%} may be"
            f"{f' (most counts: {most})' if most else ''}; likely cause: {cause}{listed}"
        )
