"""One of several jobs that divide a run: ``share=3/16``, for the job arrays of a queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """A share of a run, from 1 to ``of``.

    Raises:
        ValueError: a number outside that range.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"share={self}; expected share=K/{self.of} with K from 1 to {self.of}")

    @classmethod
    def parse(cls, text: str) -> Share:
        """The share that ``3/16`` names.

        Raises:
            ValueError: another text.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal()):
            raise ValueError(f"share={text!r}; expected two whole numbers such as 3/16, the third of sixteen jobs")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def select_parts(self, parts: Mapping[str, int]) -> dict[str, int]:
        """The consecutive parts that fall to this share; every part falls to one.

        Args:
            parts: cells by key, of all parts.
        """
        items = list(parts.items())
        first, end = (len(items) * edge // self.of for edge in (self.number - 1, self.number))
        return dict(items[first:end])
