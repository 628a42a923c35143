"""How far a long run is: a bar on a terminal, plain lines in a log."""

import logging
import resource
import sys
import time
from types import TracebackType

from tqdm import tqdm

log = logging.getLogger(__name__)

#: Seconds between two lines of the log.
EVERY = 30.0


class Progress:
    """Counts cells.

    Args:
        title: what is done.
        total: cells to do.
        done: cells that an earlier start has done.
    """

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self._title, self._total, self._done, self._new = title, total, done, 0
        self._began = self._said = time.monotonic()
        quiet = not sys.stderr.isatty()
        self._bar = tqdm(
            desc=title, total=total, initial=done, unit="cell", unit_scale=True, disable=quiet, leave=False
        )
        if done:
            log.info("%s: %d of %d cells were done before; going on.", title, done, total)

    def advance(self, cells: int) -> None:
        """So many more are done."""
        self._done += cells
        self._new += cells
        self._bar.set_postfix_str(f"{memory():.2f} GB", refresh=False)
        self._bar.update(cells)
        if time.monotonic() - self._said > EVERY:
            self._said = time.monotonic()
            self._say()

    def _say(self) -> None:
        rate = self._new / max(time.monotonic() - self._began, 1e-9)
        left = (self._total - self._done) / max(rate, 1e-9)
        log.info(
            "%s: %d of %d cells, %.0f cells/s, %.0f s left, %.2f GB",
            self._title,
            self._done,
            self._total,
            rate,
            left,
            memory(),
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        seconds = time.monotonic() - self._began
        if error is None and self._new:
            rate = self._new / max(seconds, 1e-9)
            log.info("%s: %d cells in %.1f s (%.0f cells/s), %.2f GB", self._title, self._new, seconds, rate, memory())


def memory() -> float:
    """Peak resident memory in GB: of this process, and the largest of its finished children."""
    unit = 1e9 if sys.platform == "darwin" else 1e6
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / unit
