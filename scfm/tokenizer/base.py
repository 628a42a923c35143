"""What every tokenizer shares: vocabulary, gene matching, special tokens, and its state as plain values."""

from __future__ import annotations

import re
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np
from scipy.sparse import csr_matrix

from scfm.genes import GeneMap, Harmonizer, biotype_of, limit_alias
from scfm.genes.gene_map import Policy, is_excluded
from scfm.genes.resolve import Species
from scfm.tokenizer.dictionary import read_mapping, read_tokens
from scfm.tokenizer.kernel import rank, require_sound
from scfm.tokenizer.statistics import GeneStatistics
from scfm.types import Ragged
from scfm.vocab import Vocab

#: Options that only say where the vocabulary was read from; the vocabulary itself is kept instead.
_SOURCES = ("token_dictionary", "gene_median", "gene_mapping")


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Cells -> token ids, most expressed gene first. Never mutated: :meth:`fit` gives a new one.

    Args:
        vocab: the tokens; None until fitted, or read from ``token_dictionary``.
        alias: UPPER-CASE gene name -> Ensembl id or symbol; or read from ``gene_mapping``.
        name: what the scheme is called.
        max_length: tokens of a cell, special tokens included.
        specials: the special tokens by role, in the order of their ids when fitted. A cell begins with the
            vocabulary's ``cls`` or ``bos`` and ends with its ``eos``, where it has them.
        token_dictionary: path of the published token dictionary or ``tokenizer.json``; None to fit on the corpus.
        gene_mapping: path of the published alias map, or of a table of two tab-separated columns.
        drop_genes: genes to leave out, a regular expression for the whole upper-case symbol.
        words: tokens of the published vocabulary that are neither special nor genes, likewise.
        keep_biotypes: biotypes of genes that a fitted vocabulary takes; None takes all.
        min_cells: cells that a gene must be found in for a fitted vocabulary.
        growing: :meth:`fit` adds the genes of a corpus to the vocabulary, whose ids stay.

    Raises:
        FileNotFoundError, ValueError: a dictionary that is missing or is not what it should be.
    """

    vocab: Vocab | None = None
    alias: Mapping[str, str] = field(default_factory=dict)
    _: KW_ONLY
    name: str
    max_length: int
    specials: dict[str, str]
    token_dictionary: str | None = None
    gene_mapping: str | None = None
    drop_genes: str | None = None
    words: str | None = None
    keep_biotypes: list[str] | None = None
    min_cells: int = 1
    growing: bool = False

    kind: ClassVar[str]
    needs_counts: ClassVar[bool]

    def __post_init__(self) -> None:
        if self.vocab is None and self.token_dictionary is not None:
            self._set("vocab", self._read_vocab())
        if not self.alias and self.gene_mapping is not None:
            self._set("alias", read_mapping(self.gene_mapping))
        if self.vocab is not None and self.alias:
            self._set("alias", limit_alias(self.alias, self.vocab))
        if self.genes_per_cell < 1:
            raise ValueError(f"max_length is {self.max_length}; with its special tokens, no gene fits into a cell")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _read_vocab(self) -> Vocab:
        assert self.token_dictionary is not None
        tokens = read_tokens(self.token_dictionary)
        ids = {token: i for i, token in enumerate(tokens)}
        missing = [token for token in self.specials.values() if token not in ids]
        if missing:
            raise ValueError(
                f"{self.token_dictionary} has no special token {missing[0]!r}, which {self.name} needs; "
                f"expected {', '.join(self.specials.values())} (is it the dictionary of another model?)"
            )
        specials = {role: ids[token] for role, token in self.specials.items()}
        other = re.compile(self.words) if self.words else None
        words = (i for i, token in enumerate(tokens) if other and other.fullmatch(token) and i not in specials.values())
        return Vocab(tokens, specials, tuple(words))

    @property
    def fitted(self) -> bool:
        """Whether there is a vocabulary that is not to grow."""
        return self.vocab is not None and not self.growing

    @property
    def roles(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Roles of the special tokens before and after a cell's genes."""
        before = tuple(role for role in ("cls", "bos") if role in self.specials)[:1]
        return before, tuple(role for role in ("eos",) if role in self.specials)

    @property
    def genes_per_cell(self) -> int:
        """The largest number of genes of a cell."""
        return self.max_length - sum(map(len, self.roles))

    def require_vocab(self) -> Vocab:
        """The vocabulary.

        Raises:
            ValueError: there is none yet.
        """
        if self.vocab is None:
            raise ValueError(
                f"the tokenizer {self.name} has no vocabulary yet: fit it, or give tokenizer.token_dictionary"
            )
        return self.vocab

    def _frame(self) -> tuple[np.ndarray, np.ndarray]:
        special = self.require_vocab().special
        before, after = self.roles
        return np.array([*map(special, before)], dtype=np.uint16), np.array([*map(special, after)], dtype=np.uint16)

    def harmonize(
        self,
        names: Sequence[str],
        *,
        policy: Policy = "collapse",
        species: Species = "human",
        alias: Mapping[str, str] | None = None,
    ) -> GeneMap:
        """Find the token of each column of a file, see :func:`scfm.genes.harmonize`.

        Args:
            names: (G,) gene names.
            policy: what to do with several columns of one gene.
            species: the species of the names.
            alias: a user's own names, which take precedence over the tokenizer's alias map.
        """
        return _harmonizer(self, species, tuple((alias or {}).items()))(names, policy)

    def encode(
        self, counts: csr_matrix, columns: np.ndarray, totals: np.ndarray | None = None, *, checked: bool = False
    ) -> Ragged:
        """Token ids of each cell, most expressed gene first, equal values by ascending id, then cut to length.

        Args:
            counts: (B, G) counts.
            columns: (G,) int32 of :meth:`harmonize`.
            totals: (B,) counts of each cell over all its genes; None adds up its row.
            checked: whether the counts were checked already and ``totals`` are the sums of the rows.

        Returns:
            uint16 ids with special tokens; row i is cell i, empty where it has no gene of the vocabulary.

        Raises:
            CellError: a cell with NaN, infinite or negative counts, or none at all.
            ValueError: a matrix whose indices lie outside it.
        """
        if not checked:
            require_sound(counts, len(columns))
        prefix, suffix = self._frame()
        ids, below = rank(
            counts,
            columns,
            len(self.require_vocab()),
            self.genes_per_cell,
            medians=self._medians(),
            totals=totals,
            checked=checked,
            prefix=prefix,
            suffix=suffix,
        )
        if below:
            message = "the given totals (n_counts) of some cells are smaller than the sum of their counts"
            warnings.warn(message, stacklevel=2)
        return ids

    def _medians(self) -> np.ndarray | None:
        return None

    def _select_genes(self, statistics: GeneStatistics) -> np.ndarray:
        """(N,) bool, the genes of a corpus that a fitted vocabulary takes."""
        if self.fitted:
            raise ValueError(
                f"the tokenizer {self.name} has a vocabulary already; leave token_dictionary out to fit one"
            )
        exclude = re.compile(self.drop_genes) if self.drop_genes else None
        kept = statistics.n_cells >= max(self.min_cells, 1)
        for i in np.flatnonzero(kept):
            gene = statistics.genes[i]
            wanted = self.keep_biotypes is None or biotype_of(gene) in self.keep_biotypes
            kept[i] = wanted and not is_excluded(gene, gene, exclude)
        if not kept.any() and not self.growing:
            raise ValueError(
                f"no gene is left for the vocabulary, {(statistics.n_cells > 0).sum():,} are found in any cell; "
                f"keep_biotypes={self.keep_biotypes}, min_cells={self.min_cells}, drop_genes={self.drop_genes}"
            )
        return kept

    def _make_vocab(self, genes: Sequence[str]) -> Vocab:
        if self.vocab is not None:  # growing: the old ids stay
            return replace(self.vocab, tokens=tuple(dict.fromkeys((*self.vocab.tokens, *genes))))
        return Vocab((*self.specials.values(), *genes), {role: i for i, role in enumerate(self.specials)})

    @abstractmethod
    def fit(self, statistics: GeneStatistics) -> Self:
        """The same tokenizer with the vocabulary of a corpus.

        Raises:
            ValueError: it has one already, or no gene is left for it.
        """

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and checkpoints: the options, and the vocabulary in place of its paths."""
        by_target: dict[str, list[str]] = {}
        for name, target in self.alias.items():
            by_target.setdefault(target, []).append(name)
        skip = {"vocab", "alias", "medians", *_SOURCES, *(() if self.growing else ("growing",))}
        return {
            "kind": self.kind,
            "options": {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name not in skip},
            "vocab": None if self.vocab is None else self.vocab.to_dict(),
            "alias": by_target,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        vocab = None if state["vocab"] is None else Vocab.from_dict(state["vocab"])
        alias = {name: target for target, names in state["alias"].items() for name in names}
        return cls(vocab, alias, **state["options"])


@lru_cache(maxsize=4)  # files of one corpus follow each other
def _harmonizer(tokenizer: Tokenizer, species: Species, alias: tuple[tuple[str, str], ...]) -> Harmonizer:
    return Harmonizer(
        tokenizer.require_vocab(),
        alias={**tokenizer.alias, **dict(alias)},
        species=species,
        exclude=re.compile(tokenizer.drop_genes) if tokenizer.drop_genes else None,
    )


def _plain(value: Any) -> Any:
    """A value of a config with dict and list in place of the config's own containers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str) or not isinstance(value, Sequence):
        return value
    return [_plain(item) for item in value]


def require_state(kind: type[Tokenizer], state: Mapping[str, Any]) -> None:
    """Refuse a stored tokenizer that is not whole, or that would read files when it is built.

    Args:
        kind: its class.
        state: of :meth:`Tokenizer.to_dict`, plain values.

    Raises:
        ValueError: naming the part.
    """
    options, alias = state.get("options"), state.get("alias")
    if not isinstance(options, Mapping) or not isinstance(alias, Mapping):
        raise ValueError("the tokenizer is damaged: it has no options or no alias")
    unknown = sorted(options.keys() - {f.name for f in fields(kind)}) + sorted(options.keys() & set(_SOURCES))
    if unknown:
        raise ValueError(f"the tokenizer has the option {unknown[0]!r}, which a stored tokenizer must not have")
    specials, biotypes = options.get("specials"), options.get("keep_biotypes")
    right = {
        "name": isinstance(options.get("name"), str),
        "max_length": type(options.get("max_length")) is int,
        "min_cells": type(options.get("min_cells", 1)) is int,
        "specials": isinstance(specials, Mapping) and all(isinstance(token, str) for token in specials.values()),
        "drop_genes": _is_pattern(options.get("drop_genes")),
        "words": _is_pattern(options.get("words")),
        "keep_biotypes": biotypes is None or _are_texts(biotypes),
        "alias": all(_are_texts(names) for names in alias.values()),
    }
    wrong = [name for name, fits in right.items() if not fits]
    if wrong:
        raise ValueError(f"the tokenizer is damaged: {', '.join(wrong)} is missing or of a wrong kind")


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _is_pattern(text: Any) -> bool:
    """Whether this is None or a regular expression."""
    try:
        return text is None or (isinstance(text, str) and bool(re.compile(text)))
    except re.error:
        return False
