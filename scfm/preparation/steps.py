"""The steps of a run: each runs its task for every file or part that has no record."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor
from typing import Any, Literal

from scfm.preparation.executors import run_all
from scfm.preparation.options import Share
from scfm.preparation.workdir import WorkDir
from scfm.progress import Progress

log = logging.getLogger(__name__)


class Steps:
    """Runs the steps of one plan.

    Args:
        work: the working folder.
        plan_hash: of the plan in it.
        inputs: the files by number.
        executor: where the tasks run.
        workers: tasks that run at a time.
        on_error: a bad file ends the run (``stop``) or is left out (``skip``).

    Attributes:
        skipped: reason by file number.
    """

    def __init__(
        self,
        work: WorkDir,
        plan_hash: str,
        inputs: Mapping[int, dict[str, Any]],
        executor: Executor,
        workers: int,
        on_error: Literal["stop", "skip"],
    ) -> None:
        self.work, self.plan_hash, self.inputs = work, plan_hash, inputs
        self._executor, self._ahead, self._on_error = executor, workers + 1 if workers > 1 else 1, on_error
        self.skipped: dict[int, str] = {}

    def stop_on_error(self) -> Steps:
        """The same for steps whose keys are not files: any error ends the run."""
        return Steps(self.work, self.plan_hash, self.inputs, self._executor, self._ahead, "stop")

    @property
    def files(self) -> list[int]:
        """Numbers of the files that were not skipped."""
        return [number for number in self.inputs if number not in self.skipped]

    def run_files(self, step: str, function: Callable[..., Any]) -> dict[int, dict[str, Any]]:
        """One task per file, ``function(folder, plan_hash, key)``.

        Returns:
            The record of each file that was not skipped.

        Raises:
            ValueError: a bad file, or no file is left.
        """
        records = self.run_tasks(step, function, [f"{number:05d}" for number in self.files])
        self.require_files()
        return {number: records[f"{number:05d}"] for number in self.files}

    def run_tasks(
        self,
        step: str,
        function: Callable[..., Any],
        keys: Sequence[str],
        *args: Any,
        cells: Sequence[int] | None = None,
        valid: Callable[[dict[str, Any]], bool] = lambda record: True,
    ) -> dict[str, dict[str, Any]]:
        """One task per key, ``function(folder, plan_hash, key, *args)``; keys with a valid record are skipped.

        Args:
            step: name of the step and of the folder of its records.
            function: the task; it writes its record and returns it.
            keys: ``FILE`` or ``FILE-PART``.
            args: further arguments of the task.
            cells: of each key, for the progress bar; None shows none.
            valid: whether a record counts.

        Returns:
            The record of each key, without those of files that were skipped.

        Raises:
            ValueError, OSError: a bad file under ``on_error=stop``; a full disk or a lost worker always.
        """
        found = {key: record for key, record in self.work.read_records(step, keys).items() if valid(record)}
        sizes = dict(zip(keys, cells or [0] * len(keys), strict=True))
        todo = [key for key in keys if key not in found]
        total, done = sum(sizes.values()), sum(sizes[key] for key in found)
        with Progress(step, total, done if cells else 0) as progress:
            tasks = [(str(self.work.folder), self.plan_hash, key, *args) for key in todo]
            for number, future in run_all(self._executor, function, tasks, self._ahead):
                try:
                    found[todo[number]] = future.result()
                except (ValueError, OSError) as error:
                    self._handle_failure(int(todo[number].split("-")[0]), error)
                except BrokenExecutor as error:
                    raise OSError(
                        "a worker was ended by the system or by somebody else, as when memory is full: run the same "
                        "command again, what is finished is kept; fewer workers=... or a smaller block_size=... need "
                        "less memory"
                    ) from error
                if cells:
                    progress.advance(sizes[todo[number]])
        return {key: found[key] for key in keys if key in found and int(key.split("-")[0]) not in self.skipped}

    def is_complete(self, step: str, keys: Collection[str], share: Share) -> bool:
        """Whether a step is done for every key, by any share; says how far it is."""
        done = len(self.work.read_records(step, keys))
        log.info("Share %s of %s is done; %d of %d parts are, in all.", share, step, done, len(keys))
        return done == len(keys)

    def require_files(self) -> None:
        """Refuse to go on without a file.

        Raises:
            ValueError: every file was skipped; with the reasons.
        """
        if not self.files:
            raise ValueError(f"every input was skipped, no store is written: {'; '.join(self.skipped.values())}")

    def _handle_failure(self, file: int, error: ValueError | OSError) -> None:
        """Raise the error, or skip the file."""
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"no space is left on the disk of {self.work.output}; free some space and run the same command again: "
                "what is finished is kept",
            ) from error
        if self._on_error == "stop":
            raise error
        if file not in self.skipped:
            log.warning("Skipped %s: %s", self.inputs[file]["path"], error)
            self.skipped[file] = str(error).replace(self.inputs[file]["path"], self.inputs[file]["name"])
