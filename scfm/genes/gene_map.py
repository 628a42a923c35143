"""Columns of a file -> tokens of a vocabulary."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np

from scfm.genes.report import GeneReport, likely_cause
from scfm.genes.resolve import (
    Answers,
    Company,
    Species,
    company,
    ensembl_id,
    foreign_names,
    looks_like_mouse,
    make_rescuer,
    make_resolver,
    retired_gene,
)
from scfm.genes.spelling import clean_names
from scfm.genes.table import symbol_of, table, tokens_of_symbols
from scfm.vocab import MAX_SIZE, Vocab

log = logging.getLogger(__name__)

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
        rescued: (G,) bool, columns that have a token only because a retired name leads to it; None where none has.
        species: what the names were said to be of.
    """

    columns: np.ndarray
    names: tuple[str, ...]
    excluded: np.ndarray
    n_merged: int = 0
    rescued: np.ndarray | None = None
    species: str = "human"

    def report(self, column_counts: np.ndarray) -> GeneReport:
        """Count the genes, and their counts, by what happened to them.

        Args:
            column_counts: (G,) float64, the sum of each column.
        """
        dropped = (self.columns < 0) & ~self.excluded
        rescued = np.zeros(len(dropped), dtype=bool) if self.rescued is None else self.rescued & (self.columns >= 0)
        return GeneReport(
            n_genes=len(self.names),
            n_mapped=int((self.columns >= 0).sum()),
            n_merged=self.n_merged,
            n_excluded=int(self.excluded.sum()),
            n_dropped=int(dropped.sum()),
            counts=float(column_counts.sum()),
            counts_excluded=float(column_counts[self.excluded].sum()),
            counts_dropped=float(column_counts[dropped].sum()),
            dropped_most=self._most(column_counts, dropped),
            cause=likely_cause(self.names, self.species) if dropped.any() or not (self.columns >= 0).any() else "",
            n_rescued=int(rescued.sum()),
            counts_rescued=float(column_counts[rescued].sum()),
            rescued_most=self._most(column_counts, rescued),
        )

    def _most(self, column_counts: np.ndarray, chosen: np.ndarray) -> tuple[tuple[str, float], ...]:
        """The chosen columns with most counts, at most 10."""
        most = np.argsort(-column_counts * chosen, kind="stable")[:10]
        return tuple((self.names[i], float(column_counts[i])) for i in most if chosen[i] and column_counts[i] > 0)


class _Tokens:
    """Finds tokens by name (the token itself) and by gene (what the token stands for)."""

    def __init__(self, vocab: Vocab, alias: Mapping[str, str], species: Species) -> None:
        self.exact = {vocab.tokens[i]: i for i in vocab.gene_ids.tolist()}
        self.alias = alias
        self.symbols: Mapping[str, str] = {} if species == "other" else tokens_of_symbols()
        self.namesakes = {} if species == "other" else table("human").namesakes
        #: Tokens whose own name is a retired one.
        self.retired: set[int] = set()

    @cached_property
    def upper(self) -> dict[str, int]:
        """Token id by upper-case name."""
        return {name.upper(): token for name, token in reversed(self.exact.items())}

    @cached_property
    def by_gene(self) -> dict[str, list[int]]:
        """Token ids by what they stand for."""
        tokens: dict[str, list[int]] = {}
        aliases = {symbol_token(name): self._gene(target) for name, target in self.alias.items()}
        unknown = []
        for name, token in self.exact.items():
            gene = ensembl_id(name) or aliases.get(name.upper()) or self.symbols.get(name.upper())
            if gene is not None:
                tokens.setdefault(gene, []).append(token)
            else:
                unknown.append(name)
        for name in unknown if self.symbols else ():
            gene = retired_gene(name)
            if gene is not None and gene not in tokens:
                tokens[gene] = [self.exact[name]]
                self.retired.add(self.exact[name])
        return tokens

    def _gene(self, target: str) -> str:
        return ensembl_id(target) or self.symbols.get(symbol_token(target).upper(), target)

    def knows(self, target: str) -> bool:
        """Whether the target of an alias leads to a token."""
        return self._gene(target) in self.by_gene or symbol_token(target) in self.exact

    def _tokens_of_gene(self, gene: str | None, name: str) -> list[int]:
        """Tokens of a gene; where it has none but came by an ambiguous symbol, those of its first namesake that has."""
        if gene is None or gene in self.by_gene or ensembl_id(name):
            return self.by_gene.get(gene or "", [])
        return next((self.by_gene[other] for other in self.namesakes.get(gene, ()) if other in self.by_gene), [])

    def find_by_name(self, name: str, any_case: bool) -> int:
        """Token id of a column by its own name, -1 where there is none."""
        own = ensembl_id(name) or symbol_token(name)
        token = self.exact.get(own, -1)
        return self.upper.get(own.upper(), -1) if token < 0 and any_case else token

    def find_by_gene(self, name: str, gene: str | None, direct: int) -> int:
        """Token id of the gene that a column's name resolves to, ``direct`` where it has none or is among them."""
        same = self._tokens_of_gene(gene, name)
        return direct if direct in same or not same else same[0]


#: What became of a column as one number, of which many are kept: its token, or -1 where it has none; this where it is
#: left out on purpose; and this more where a retired name led to the token.
_EXCLUDED, _RESCUED = -2, MAX_SIZE


class _Matcher:
    """Finds what becomes of each column of one file."""

    def __init__(
        self,
        tokens: _Tokens,
        names: Sequence[str],
        alias: Mapping[str, str],
        species: Species,
        exclude: re.Pattern[str] | None,
    ) -> None:
        self.tokens, self.alias, self.exclude = tokens, alias, exclude
        self.gene_of = make_resolver(names, alias=alias, species=species)
        self.rescue = make_rescuer(names, species)
        self.any_case = species == "other" or (species == "human" and not looks_like_mouse(names))
        self.foreign = foreign_names(names) if species == "human" else frozenset()

    def __call__(self, name: str) -> int:
        direct = self.tokens.find_by_name(name, self.any_case and name not in self.foreign)
        aliased = bool(self.alias) and (ensembl_id(name) or name).upper() in self.alias
        gene = self.gene_of(name) if self.exclude is not None or direct < 0 or aliased else None
        if self.exclude is not None and is_excluded(name, gene, self.exclude):
            return _EXCLUDED
        token = direct if direct >= 0 and not aliased else self.tokens.find_by_gene(name, gene, direct)
        if token >= 0 or gene is not None:
            return token + _RESCUED * (token != direct and token in self.tokens.retired)
        gene = self.rescue(name)
        token = self.tokens.find_by_gene(name, gene, -1)
        if token < 0:
            return -1
        return _EXCLUDED if is_excluded(name, gene, self.exclude) else token + _RESCUED


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
            "Sum them (genes.policy=collapse) or keep the first of each (genes.policy=first)"
        )
    if policy == "first":
        columns = columns.copy()
        columns[later] = -1
    return columns, len(later)


class Harmonizer:
    """Finds the tokens of the genes of file after file, see :func:`harmonize` for the arguments and the rules.

    What it found for a name is kept for the next file.
    """

    def __init__(
        self,
        vocab: Vocab,
        *,
        alias: Mapping[str, str] | None = None,
        species: Species = "human",
        exclude: re.Pattern[str] | None = None,
    ) -> None:
        self._vocab, self._species, self._exclude = vocab, species, exclude
        self._tokens = _Tokens(vocab, alias or {}, species)
        self._alias = {name: target for name, target in (alias or {}).items() if self._tokens.knows(target)}
        self._keep = self._alias.keys() | set(vocab.tokens)
        self._answers: dict[Company, Answers[int]] = {}

    def __call__(self, names: Sequence[str], policy: Policy = "collapse") -> GeneMap:
        """Where the columns of one file go.

        Args:
            names: (G,) its gene names.
            policy: what to do with several columns of one gene.

        Raises:
            ValueError: an unknown policy or species, or columns that meet under ``refuse``.
        """
        if policy not in ("collapse", "first", "refuse"):
            raise ValueError(f"policy is {policy!r}; expected collapse, first or refuse")
        stripped = [str(name).strip() for name in names]
        clean, prefix = clean_names(stripped, self._keep)
        if prefix:
            log.warning("Nearly all of the %d gene names begin with %r; it is removed", len(clean), prefix)
        matcher = _Matcher(self._tokens, clean, self._alias, self._species, self._exclude)
        codes = np.array(self._answers.setdefault(company(clean), Answers()).find(clean, matcher), dtype=np.int64)
        rescued = codes >= _RESCUED
        tokens = np.where(codes == _EXCLUDED, -1, np.where(rescued, codes - _RESCUED, codes)).astype(np.int32)
        columns, n_merged = _merge(tokens, stripped, self._vocab, policy)
        return GeneMap(
            columns, tuple(stripped), codes == _EXCLUDED, n_merged, rescued if rescued.any() else None, self._species
        )


def harmonize(
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
    Retired names of HGNC come last: they lead to a gene only where nothing else does, and a token with a retired name
    stands for its gene only where no other token does.

    Args:
        names: (G,) gene names of one file.
        vocab: the tokens.
        alias: UPPER-CASE name -> Ensembl id or symbol.
        policy: several columns on one gene are summed (``collapse``), all but the first dropped (``first``), or
            refused (``refuse``).
        species: the species of the names, see :data:`scfm.genes.resolve.Species`.
        exclude: genes to leave out on purpose, matched against the whole upper-case symbol (``MT-.*``).

    Returns:
        A :class:`GeneMap`.

    Raises:
        ValueError: an unknown policy or species, or columns that meet under ``refuse``.
    """
    return Harmonizer(vocab, alias=alias, species=species, exclude=exclude)(names, policy)
