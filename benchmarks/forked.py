"""A command of scfm in a forked process, which costs no import: stopped by a signal, or bounded in time and memory."""

import contextlib
import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

#: A run that takes longer, in seconds on a machine that others use too, hangs.
TIMEOUT = 1200.0
_IMPORTED = "imported.txt"


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: the exit status; minus the signal's number where one ended it; None where it hung.
        text: what it printed.
        seconds: from its start to its end.
    """

    status: int | None
    text: str
    seconds: float

    @property
    def is_sentence(self) -> bool:
        """Whether it refused in words: a status above 0 and no traceback."""
        return (
            self.status is not None
            and self.status > 0
            and "Traceback (most recent call last)" not in self.text
            and bool(self.text.strip())
        )


class Command:
    """A command that runs in a child of this process.

    Args:
        folder: where it works; its output goes to ``log.txt`` there.
        words: the command's name and its arguments.
        memory: bytes that it may hold beyond those of this process; None for no limit.
        file_size: bytes that a file may have; None for no limit.
    """

    def __init__(
        self, folder: Path, words: Sequence[str], *, memory: int | None = None, file_size: int | None = None
    ) -> None:
        self.log = folder / "log.txt"
        self.log.write_bytes(b"")
        self._began = time.monotonic()
        self._status: int | None = None
        self._pid = os.fork()
        if self._pid == 0:
            _work(folder, self.log, list(words), memory, file_size)

    def wait(self, until: Callable[[float], bool] = lambda seconds: False, timeout: float = TIMEOUT) -> bool:
        """Wait until it has ended, or until a condition of the seconds since its start holds.

        Returns:
            Whether it has ended.
        """
        while self._status is None:
            seconds = time.monotonic() - self._began
            if until(seconds):
                return False
            if seconds > timeout:
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
                return True
            found, status = os.waitpid(self._pid, os.WNOHANG)
            if found:
                self._status = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(0.002)
        return True

    def stop(self, number: int) -> None:
        """Send a signal to the command, not to its workers."""
        os.kill(self._pid, number)

    def end(self, timeout: float = TIMEOUT) -> Ended:
        """Wait for its end."""
        self.wait(timeout=timeout)
        return Ended(self._status, self.log.read_text(errors="replace"), time.monotonic() - self._began)


def _work(folder: Path, log: Path, words: list[str], memory: int | None, file_size: int | None) -> None:
    """The child: like the entry point of the command, with the same exit statuses."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(folder)
    if memory is not None:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + memory, held + memory))
    if file_size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    sys.argv = [f"scfm-{words[0]}", *words[1:]]
    status = 0
    try:
        from scfm.cli import main

        main(words[0])
        (folder / _IMPORTED).write_text("\n".join(sys.modules))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            code = error.code
            _say(lambda: print(code, file=sys.stderr))
    except KeyboardInterrupt:
        _say(traceback.print_exc)
        status = 130
    except BaseException:
        _say(traceback.print_exc)
        status = 1
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _say(function: Callable[[], None]) -> None:
    """Print, unless the log cannot grow: an error here would have the child leave, and remove, its parent's folders."""
    with contextlib.suppress(OSError):
        function()


def import_once(folder: Path) -> None:
    """Import what a finished command of this folder had imported, so that the next child need not."""
    path = folder / _IMPORTED
    for name in path.read_text().split("\n") if path.is_file() else ():
        if name not in sys.modules and not name.startswith("__"):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    path.unlink(missing_ok=True)


def run(folder: Path, *words: str) -> Ended:
    """Run a command that has to work.

    Raises:
        RuntimeError: it did not; with what it printed.
    """
    ended = Command(folder, words).end()
    if ended.status != 0:
        raise RuntimeError(f"scfm-{' '.join(words)} ended with {ended.status}:\n{ended.text[-3000:]}")
    import_once(folder)
    return ended
