"""One of several jobs that divide a run among them: ``share=3/16``, for queues without a scheduler of our own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from scfm.prepare.steps import Steps

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """A share of a run, from 1 to ``of``.

    Raises:
        ValueError: a number outside.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"share={self}; expected a number from 1 to {self.of} before the stroke")

    @classmethod
    def parse(cls, text: str) -> Share:
        """The share that ``3/16`` names.

        Raises:
            ValueError: something else.
        """
        number, stroke, of = text.partition("/")
        if not (stroke and number.isdecimal() and of.isdecimal()):
            raise ValueError(f"share={text!r}; expected two whole numbers such as 3/16, the third of sixteen jobs")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def own(self, items: Sequence[T]) -> Sequence[T]:
        """The consecutive items that fall to this share; every item falls to one."""
        edges = [len(items) * edge // self.of for edge in (self.number - 1, self.number)]
        return items[edges[0] : edges[1]]


def all_done(steps: Steps, step: str, keys: Sequence[str], share: Share) -> bool:
    """Whether a step is done for every key, and a line in the log that says how far it is."""
    done = len(steps.work.done(step, keys))
    log.info("Share %s of %s is done; %d of %d parts are, in all.", share, step, done, len(keys))
    return done == len(keys)


def own_parts(share: Share, keys: Sequence[str], cells: Sequence[int]) -> Mapping[str, int]:
    """The parts of a share and their cells."""
    return dict(share.own(list(zip(keys, cells, strict=True))))
