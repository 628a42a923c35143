"""What a method costs: seconds and memory."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import pandas as pd

T = TypeVar("T")

#: Seconds between two looks at the memory.
INTERVAL = 0.02


class Cost:
    """Measures what happens inside a ``with`` block.

    Attributes:
        seconds: wall time.
        megabytes: how far the process's resident memory rose above where it stood, looked at every 20 ms.
    """

    def __init__(self) -> None:
        self.seconds = self.megabytes = 0.0
        self._stop = threading.Event()

    def __enter__(self) -> Cost:
        self._stop.clear()
        self._first = self._peak = resident()
        self._began = time.perf_counter()
        self._watcher = threading.Thread(target=self._watch, name="memory", daemon=True)
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._began
        self._look()
        self._stop.set()
        self._watcher.join()
        self.megabytes = (self._peak - self._first) / 1e6

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL):
            self._look()

    def _look(self) -> None:
        self._peak = max(self._peak, resident())


def measure(makers: Mapping[str, Callable[[], T]]) -> tuple[dict[str, T], pd.DataFrame]:
    """Call functions one after the other and measure each.

    Args:
        makers: functions by name.

    Returns:
        What they returned, by name, and a table with the columns ``seconds`` and ``megabytes``.
    """
    values: dict[str, T] = {}
    rows = {}
    for name, make in makers.items():
        with Cost() as cost:
            values[name] = make()
        rows[name] = {"seconds": cost.seconds, "megabytes": cost.megabytes}
    return values, pd.DataFrame.from_dict(rows, orient="index", columns=["seconds", "megabytes"])


def resident() -> int:
    """Bytes of memory that the process holds; where the system does not tell (macOS), the most it ever held."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
