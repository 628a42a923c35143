"""Progress of a long run: a bar on a terminal, plain lines in a log."""

import logging
import resource
import sys
import time
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

log = logging.getLogger(__name__)

#: Seconds between two lines of the log.
EVERY = 30.0


class Screen(logging.StreamHandler[TextIO]):
    """A log handler that writes its lines above the progress bars, not into them.

    Args:
        stream: the screen.
        without_bar: write only if the output is no terminal, so that there is no progress bar.
    """

    def __init__(self, stream: TextIO | None = None, *, without_bar: bool = False) -> None:
        super().__init__(stream)
        self.without_bar = without_bar

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        if self.without_bar and sys.stdout.isatty():
            return
        try:
            tqdm.write(self.format(record), file=self.stream)
        except Exception:  # as in every handler: a log line ends no run
            self.handleError(record)


class Progress:
    """Counts finished cells.

    Args:
        title: name of the step.
        total: cells to do.
        done: cells that an earlier start finished.
        unit: what is counted, where it is not cells.
    """

    def __init__(self, title: str, total: int, done: int = 0, unit: str = "cell") -> None:
        self._title, self._total, self._done, self._new = title, total, done, 0
        self._unit = unit
        self._began = self._logged = time.monotonic()
        quiet = not sys.stderr.isatty()
        self._bar = tqdm(desc=title, total=total, initial=done, unit=unit, unit_scale=True, disable=quiet, leave=False)
        if done:
            log.info("%s: %d of %d %ss were done by an earlier start.", title, done, total, unit)

    def advance(self, cells: int) -> None:
        """Add finished cells."""
        self._done += cells
        self._new += cells
        self._bar.set_postfix_str(f"{memory():.2f} GB", refresh=False)
        self._bar.update(cells)
        if time.monotonic() - self._logged > EVERY:
            self._logged = time.monotonic()
            self._log_line()

    def _log_line(self) -> None:
        rate = self._new / max(time.monotonic() - self._began, 1e-9)
        left = (self._total - self._done) / max(rate, 1e-9)
        log.info(
            "%s: %d of %d %ss, %.0f %ss/s, %.0f s left, %.2f GB",
            self._title,
            self._done,
            self._total,
            self._unit,
            rate,
            self._unit,
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
            unit = self._unit
            log.info(
                "%s: %d %ss in %.1f s (%.0f %ss/s), %.2f GB",
                self._title,
                self._new,
                unit,
                seconds,
                rate,
                unit,
                memory(),
            )


def memory() -> float:
    """Peak resident memory in GB: of this process, and the largest of its finished children."""
    unit = 1e9 if sys.platform == "darwin" else 1e6
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / unit
