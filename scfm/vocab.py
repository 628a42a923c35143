"""The vocabulary: which token has which id, which tokens are genes, and a hash that names it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

#: Ids are stored as uint16.
MAX_SIZE = 1 << 16

ROLES = ("pad", "mask", "cls", "bos", "eos", "unk")


@dataclass(frozen=True)
class Vocab:
    """Tokens and their ids.

    Attributes:
        tokens: token of each id; genes are Ensembl ids (Geneformer) or symbols with ``-`` and ``.`` as ``_``
            (iSEEEK, tGPT).
        specials: id by role, one of ``pad, mask, cls, bos, eos, unk``.
        words: ids that are neither special nor gene (tGPT's clinical words and unused places).

    Raises:
        ValueError: a duplicate token, an unknown role, an id outside the vocabulary, or more than 65 536 tokens.
    """

    tokens: tuple[str, ...]
    specials: Mapping[str, int] = field(default_factory=dict)
    words: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.tokens) > MAX_SIZE:
            raise ValueError(
                f"the vocabulary has {len(self.tokens)} tokens; ids are stored in 16 bits, at most {MAX_SIZE}"
            )
        if len(self.ids) != len(self.tokens):
            twice = next(token for i, token in enumerate(self.tokens) if self.ids[token] != i)
            raise ValueError(f"the vocabulary has the token {twice!r} twice; every token needs one id")
        if not all(0 <= word < len(self.tokens) for word in self.words):
            raise ValueError(f"a word has an id outside the vocabulary of {len(self.tokens)} tokens")
        for role, token_id in self.specials.items():
            if role not in ROLES:
                raise ValueError(f"unknown role {role!r} of a special token; the roles are {', '.join(ROLES)}")
            if not 0 <= token_id < len(self.tokens):
                raise ValueError(
                    f"the special token {role} has id {token_id}; the vocabulary has {len(self.tokens)} tokens"
                )

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Id of each token."""
        return {token: i for i, token in enumerate(self.tokens)}

    @cached_property
    def gene_ids(self) -> np.ndarray:
        """(genes,) int64, ascending: the ids that are genes."""
        others = [*self.specials.values(), *self.words]
        return np.setdiff1d(np.arange(len(self.tokens)), np.array(others, dtype=np.int64))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything above, as hex: stores and checkpoints of different hash do not fit together."""
        text = json.dumps([self.tokens, sorted(self.specials.items()), sorted(self.words)], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def special(self, role: str) -> int:
        """Id of a special token.

        Raises:
            ValueError: the vocabulary has none of that role.
        """
        if role not in self.specials:
            have = ", ".join(self.specials) or "none"
            raise ValueError(f"this needs a {role} token, but the vocabulary has {have}; use a tokenizer that has one")
        return self.specials[role]

    def require_same(self, other: Vocab, mine: str, its: str) -> None:
        """Refuse two vocabularies that differ.

        Args:
            other: the other vocabulary.
            mine: what this one belongs to, for the message ("the checkpoint x.ckpt").
            its: what the other one belongs to.

        Raises:
            ValueError: naming both hashes.
        """
        if self.hash != other.hash:
            raise ValueError(
                f"{mine} has vocabulary {self.hash[:12]} ({len(self)} tokens) but {its} has {other.hash[:12]} "
                f"({len(other)} tokens): their ids mean different genes. Prepare the cells again with the tokenizer "
                f"of {mine} (scfm-prepare init_from=CHECKPOINT ...)"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and checkpoints."""
        return {"tokens": list(self.tokens), "specials": dict(self.specials), "words": list(self.words)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Vocab:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: a part is missing or of a wrong kind, or as for the class.
        """
        parts: Mapping[str, Any] = state if isinstance(state, Mapping) else {}
        tokens: Any = parts.get("tokens")
        specials: Any = parts.get("specials")
        words: Any = parts.get("words")
        whole = (
            isinstance(tokens, list | tuple)
            and isinstance(specials, Mapping)
            and isinstance(words, list | tuple)
            and all(issubclass(kind, str) for kind in set(map(type, tokens)))
            and {int}.issuperset(map(type, (*specials.values(), *words)))
        )
        if not whole:
            raise ValueError("the vocabulary is damaged; expected a list of tokens, ids of specials, and ids of words")
        return cls(tuple(tokens), dict(specials), tuple(words))
