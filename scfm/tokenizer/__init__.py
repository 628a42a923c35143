"""Cells -> rank tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scfm.tokenizer.base import Tokenizer, require_state
from scfm.tokenizer.kernel import CellError
from scfm.tokenizer.median import MedianTokenizer
from scfm.tokenizer.rank import RankTokenizer, read_lines
from scfm.tokenizer.statistics import GeneStatistics
from scfm.trust.plain import plain_fault

__all__ = ["CellError", "GeneStatistics", "MedianTokenizer", "RankTokenizer", "Tokenizer", "from_dict", "read_lines"]


def from_dict(state: Mapping[str, Any]) -> Tokenizer:
    """The inverse of :meth:`Tokenizer.to_dict`, also for a user's own subclass once it is imported.

    Raises:
        ValueError: no class of that kind, or a part of the state is missing or of a wrong kind.
    """
    fault = plain_fault(state)
    if fault is not None or not isinstance(state.get("kind"), str):
        raise ValueError(f"the tokenizer is damaged: it {fault or 'does not say of which kind it is'}")
    kinds = _kinds(Tokenizer)  # type: ignore[type-abstract]
    if state.get("kind") not in kinds:
        raise ValueError(
            f"the tokenizer is of kind {state.get('kind')!r}; expected one of {', '.join(sorted(kinds))} "
            "(if it is your own, import its module first)"
        )
    require_state(kinds[state["kind"]], state)
    try:
        return kinds[state["kind"]].from_dict(state)
    except (TypeError, KeyError) as error:
        raise ValueError(f"the tokenizer is damaged, or of a newer scfm: {error}") from error


def _kinds(parent: type[Tokenizer]) -> dict[str, type[Tokenizer]]:
    found = {parent.kind: parent} if "kind" in vars(parent) else {}
    for child in parent.__subclasses__():
        found.update(_kinds(child))
    return found
