"""Progress of a long run: a bar on a terminal, plain lines in a log; and a screen that ends no run."""

import contextlib
import io
import logging
import os
import resource
import sys
import time
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

log = logging.getLogger(__name__)

#: Seconds between two lines of the log.
EVERY = 30.0


class SteadyStream(io.TextIOWrapper):
    """A stream of text whose errors end no run: what cannot be written is left out.

    The reader of a pipe may have ended (``scfm-train | head``), the terminal may have closed, the disk of a log may be
    full. From then on, the process writes to nowhere instead.
    """

    def write(self, text: str) -> int:
        """Write some text, see :class:`io.TextIOWrapper`."""
        try:
            return super().write(text)
        except OSError:
            self._leave()
            return len(text)

    def flush(self) -> None:
        """Write what is held back."""
        try:
            super().flush()
        except OSError:
            self._leave()

    def _leave(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            write_nowhere(self.fileno())


def write_nowhere(descriptor: int) -> None:
    """Have a descriptor of this process lead to nowhere, and so what its children write there."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def keep_screen() -> None:
    """At the start of a command: nothing that is written on the screen can end it.

    A stream that was closed (``>&-``) leads to nowhere; its number would otherwise be that of the next file, into which
    libraries would print. Letters that the encoding of the screen lacks are written as escapes.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest free number: this one
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # it was closed
            setattr(sys, name, SteadyStream(os.fdopen(number, "wb"), "utf-8", "backslashreplace", line_buffering=True))
        elif type(stream) is io.TextIOWrapper:  # no other one, such as that of a notebook
            steady = SteadyStream(
                stream.buffer, stream.encoding, "backslashreplace",
                line_buffering=stream.line_buffering, write_through=stream.write_through,
            )  # fmt: skip
            setattr(sys, name, steady)


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
