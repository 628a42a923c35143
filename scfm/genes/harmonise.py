"""Columns of a file -> tokens of a vocabulary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np

from scfm.genes.report import GeneReport, likely_cause
from scfm.genes.resolve import Species, ensembl_id, looks_like_mouse, resolving
from scfm.genes.table import symbol_of, table, tokens_of_symbols
from scfm.vocab import Vocab

#: Several columns on one gene: sum them, keep the first, or refuse the file.
Policy: TypeAlias = Literal["collapse", "first", "refuse"]


def symbol_token(symbol: str) -> str:
    """A symbol as iSEEEK and tGPT write it: ``HLA-A`` -> ``HLA_A``."""
    return symbol.replace("-", "_").replace(".", "_")


def is_excluded(name: str, gene: str | None, exclude: re.Pattern[str] | None) -> bool:
    """Whether a gene's current symbol, or else the name that it came with, matches ``exclude``."""
    if exclude is None:
        return False
    symbol = (symbol_of(gene) if gene else "") or name
    return exclude.fullmatch(symbol.upper().replace("_", "-")) is not None


@dataclass(frozen=True)
class GeneMap:
    """Where the columns of one file go.

    Attributes:
        columns: (G,) int32, token id of each column, -1 where it has none.
        names: (G,) the columns' names.
        excluded: (G,) bool, columns that the tokenizer leaves out on purpose; their ``columns`` are -1.
        n_merged: columns that met an earlier column on the same token.
    """

    columns: np.ndarray
    names: tuple[str, ...]
    excluded: np.ndarray
    n_merged: int = 0

    def report(self, column_counts: np.ndarray) -> GeneReport:
        """What became of the genes and their counts.

        Args:
            column_counts: (G,) float64, the sum of each column.
        """
        dropped = (self.columns < 0) & ~self.excluded
        worst = np.argsort(-column_counts * dropped, kind="stable")[:10]
        most = [(self.names[i], float(column_counts[i])) for i in worst if dropped[i] and column_counts[i] > 0]
        return GeneReport(
            n_genes=len(self.names),
            n_mapped=int((self.columns >= 0).sum()),
            n_merged=self.n_merged,
            n_excluded=int(self.excluded.sum()),
            n_dropped=int(dropped.sum()),
            counts=float(column_counts.sum()),
            counts_excluded=float(column_counts[self.excluded].sum()),
            counts_dropped=float(column_counts[dropped].sum()),
            dropped_most=tuple(most),
            cause=likely_cause(self.names),
        )


class _Tokens:
    """Finds tokens by name (the token itself) and by gene (what the token stands for)."""

    def __init__(self, vocab: Vocab, alias: Mapping[str, str], species: Species) -> None:
        self.exact = {vocab.tokens[i]: i for i in vocab.gene_ids.tolist()}
        self.alias = alias
        self.symbols: Mapping[str, str] = {} if species == "other" else tokens_of_symbols()
        self.namesakes = {} if species == "other" else table("human").namesakes

    @cached_property
    def upper(self) -> dict[str, int]:
        """Token id by upper-case name."""
        return {name.upper(): token for name, token in reversed(self.exact.items())}

    @cached_property
    def by_gene(self) -> dict[str, list[int]]:
        """Token ids by what they stand for."""
        found: dict[str, list[int]] = {}
        aliases = {symbol_token(name): self._gene(target) for name, target in self.alias.items()}
        for name, token in self.exact.items():
            gene = ensembl_id(name) or aliases.get(name.upper()) or self.symbols.get(name.upper())
            if gene is not None:
                found.setdefault(gene, []).append(token)
        return found

    def _gene(self, target: str) -> str:
        return ensembl_id(target) or self.symbols.get(symbol_token(target).upper(), target)

    def knows(self, target: str) -> bool:
        """Whether the target of an alias leads to a token."""
        return self._gene(target) in self.by_gene or symbol_token(target) in self.exact

    def _of(self, gene: str | None, name: str) -> list[int]:
        """Tokens of a gene; where it has none but came by an ambiguous symbol, those of its first namesake that has."""
        if gene is None or gene in self.by_gene or ensembl_id(name):
            return self.by_gene.get(gene or "", [])
        return next((self.by_gene[other] for other in self.namesakes.get(gene, ()) if other in self.by_gene), [])

    def direct(self, name: str, any_case: bool) -> int:
        """Token id of a column by its own name, -1 where there is none."""
        own = ensembl_id(name) or symbol_token(name)
        found = self.exact.get(own, -1)
        return self.upper.get(own.upper(), -1) if found < 0 and any_case else found

    def by_meaning(self, name: str, gene: str | None, direct: int) -> int:
        """Token id of the gene that a column's name resolves to, ``direct`` where it has none or is among them."""
        same = self._of(gene, name)
        return direct if direct in same or not same else same[0]


def limit_alias(alias: Mapping[str, str], vocab: Vocab) -> dict[str, str]:
    """The entries of an alias map that lead to a gene of the vocabulary; those of a gene to itself are no aliases."""
    tokens = _Tokens(vocab, alias, "human")
    return {name: target for name, target in alias.items() if name != target and tokens.knows(target)}


def _merge(columns: np.ndarray, names: Sequence[str], vocab: Vocab, policy: Policy) -> tuple[np.ndarray, int]:
    mapped = np.flatnonzero(columns >= 0)
    _, first, inverse = np.unique(columns[mapped], return_index=True, return_inverse=True)
    later = mapped[first[inverse] != np.arange(len(mapped))]
    if policy == "refuse" and len(later):
        token = int(columns[later[0]])
        twins = [name for name, column in zip(names, columns, strict=True) if column == token]
        raise ValueError(
            f"the genes {', '.join(twins)} are all {vocab.tokens[token]}; {len(later)} columns meet another one. "
            "Sum them (policy=collapse) or keep the first of each (policy=first)"
        )
    if policy == "first":
        columns = columns.copy()
        columns[later] = -1
    return columns, len(later)


def harmonise(
    names: Sequence[str],
    vocab: Vocab,
    *,
    alias: Mapping[str, str] | None = None,
    policy: Policy = "collapse",
    species: Species = "human",
    exclude: re.Pattern[str] | None = None,
) -> GeneMap:
    """Find the token of each column.

    The vocabulary's genes may be Ensembl ids or symbols with ``-`` and ``.`` as ``_``. A column's own name is looked
    for first, then the gene that it resolves to (:func:`scfm.genes.resolve`): a symbol finds the token of its Ensembl
    id and the other way round. An alias goes before both, where it leads to a token; one that does not is ignored.

    Args:
        names: (G,) gene names of one file.
        vocab: the tokens.
        alias: UPPER-CASE name -> Ensembl id or symbol.
        policy: several columns on one gene are summed (``collapse``), all but the first dropped (``first``), or
            refused (``refuse``).
        species: what the names are of, see :data:`scfm.genes.resolve.Species`.
        exclude: genes to leave out on purpose, matched against the whole upper-case symbol (``MT-.*``).

    Returns:
        A :class:`GeneMap`.

    Raises:
        ValueError: an unknown policy or species, or columns that meet under ``refuse``.
    """
    if policy not in ("collapse", "first", "refuse"):
        raise ValueError(f"policy is {policy!r}; expected collapse, first or refuse")
    names = [str(name).strip() for name in names]
    tokens = _Tokens(vocab, alias or {}, species)
    alias = {name: target for name, target in (alias or {}).items() if tokens.knows(target)}
    gene_of = resolving(names, alias=alias, species=species)
    any_case = species == "other" or (species == "human" and not looks_like_mouse(names))

    def token_of(name: str) -> int:
        direct = tokens.direct(name, any_case)
        aliased = bool(alias) and (ensembl_id(name) or name).upper() in alias
        return direct if direct >= 0 and not aliased else tokens.by_meaning(name, gene_of(name), direct)

    excluded = np.zeros(len(names), dtype=bool)
    if exclude is not None:
        excluded[:] = [is_excluded(name, gene_of(name), exclude) for name in names]
    columns = np.where(excluded, -1, np.array([*map(token_of, names)], dtype=np.int32))
    columns, n_merged = _merge(columns, names, vocab, policy)
    return GeneMap(columns, tuple(names), excluded, n_merged)
