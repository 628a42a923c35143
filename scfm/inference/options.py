"""How cells are read and batched when they are embedded; the keys and defaults of ``configs/embed.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from scfm.genes.resolve import Species
from scfm.inference.cell_input import Reading
from scfm.inference.embedding_rule import EmbeddingRule


class EmbedOptions(TypedDict, total=False):
    """Options of :meth:`scfm.inference.model.Model.embed`.

    Attributes:
        layer, gene_column, counts, mod, species, alias, max_dropped: see :class:`~scfm.inference.cell_input.Reading`.
        tokens_per_batch: lower it when memory runs out.
        block_size: cells read at once.
        vote: see :func:`~scfm.inference.vote.add_majority`.
        embedding_layer, embedding_pool: see :class:`~scfm.inference.embedding_rule.EmbeddingRule`.
    """

    layer: str | None
    gene_column: str | None
    counts: Literal["required", "decimals_ok"]
    mod: str
    species: Species
    alias: str | None
    max_dropped: float
    tokens_per_batch: int
    block_size: int
    vote: int
    embedding_layer: int | None
    embedding_pool: str | None


@dataclass(frozen=True)
class Settings:
    """The options, checked, with defaults."""

    reading: Reading
    tokens_per_batch: int = 16_384
    block_size: int = 1024
    vote: int = 0
    rule: EmbeddingRule = field(default_factory=EmbeddingRule)


def embed_options(key: str, options: EmbedOptions) -> Settings:
    """Check options before any work.

    Raises:
        ValueError: an unknown option, a key that names no single entry, or a number out of its range.
    """
    unknown = sorted(set(options) - set(EmbedOptions.__annotations__))
    if unknown:
        known = ", ".join(sorted(EmbedOptions.__annotations__))
        raise ValueError(f"unknown option(s) {', '.join(unknown)}; known are: {known}")
    require_key(key)
    rest = dict(options)
    sizes: dict[str, Any] = {name: rest.pop(name) for name in ("tokens_per_batch", "block_size") if name in rest}
    for name, value in sizes.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r}; expected a whole number, 1 or more")
    vote = rest.pop("vote", 0)
    if not isinstance(vote, int):
        raise ValueError(f"vote={vote!r}; expected a number of neighbors, 0 for none")
    rule = EmbeddingRule(options.get("embedding_layer"), options.get("embedding_pool"))
    reading: Any = {name: value for name, value in rest.items() if not name.startswith("embedding_")}
    return Settings(Reading(**reading), **sizes, vote=vote, rule=rule)


def require_key(key: str) -> None:
    """Refuse a name of ``obsm`` that a file cannot hold as one entry.

    Raises:
        ValueError: it is empty or has a slash.
    """
    if not key or "/" in key:
        raise ValueError(f"key={key!r}; expected a name without a slash, such as X_scfm")
