"""The working folder of a run of ``prepare``: its plan, the records of finished tasks, and its lock.

Every finished task has a record, a small JSON file that is written after its results are on the disk. A run that was
killed is started again, reads the records, and does the remaining tasks.
"""

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from scfm.io import hold, remove_parts
from scfm.store.arrow import read_json
from scfm.store.layout import write_json

log = logging.getLogger(__name__)


class WorkDir:
    """A hidden folder beside the output, ``.NAME.partial``.

    Args:
        output: the store to be made.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output.with_name(f".{output.name}.partial")

    @classmethod
    def from_folder(cls, folder: Path) -> "WorkDir":
        """The object of a working folder."""
        return cls(folder.with_name(folder.name.removeprefix(".").removesuffix(".partial")))

    @property
    def store(self) -> Path:
        """The unfinished store; renamed to the output at the end."""
        return self.folder / "store"

    @property
    def scratch(self) -> Path:
        """Unfinished files, which are never read."""
        return self.folder / "scratch"

    @contextlib.contextmanager
    def lock(self, share: object = None) -> Iterator[None]:
        """Keep other runs out of the folder; the lock of a killed run ends with it.

        Args:
            share: which share of a run this is: other shares may work at the same time. None works alone.

        Raises:
            BlockingIOError: another run, or the same share of it, writes the same output.
        """
        with contextlib.ExitStack() as held:
            held.enter_context(hold(self.folder / "lock", self.output, shared=share is not None))
            if share is not None:
                name = f"lock.{str(share).replace('/', '-')}"
                held.enter_context(hold(self.folder / name, f"share {share} of {self.output}"))
            yield

    def begin(self, plan: Mapping[str, Any], overwrite: bool, *, together: bool = False) -> str:
        """Start or continue.

        Args:
            plan: inputs and options, everything that the bytes depend on, as plain values.
            overwrite: start over if the folder has results of another plan.
            together: other shares may be working in the folder: nothing is removed.

        Returns:
            A hash of the plan.

        Raises:
            ValueError: the folder has results of other inputs or options.
        """
        plan = json.loads(json.dumps(plan))
        path = self.folder / "plan.json"
        if path.exists():
            before = read_json(path, "the plan of the unfinished run")
            changed = [key for key in {**before, **plan} if before.get(key) != plan.get(key)]
            if changed and together:
                raise ValueError(
                    f"{self.folder} holds unfinished work of {_difference(before, plan, changed[0])}. All shares need "
                    "the same inputs and options; to start over, remove that folder first"
                )
            if changed and self.has_results and not overwrite:
                raise ValueError(
                    f"{self.folder} holds an unfinished store of {_difference(before, plan, changed[0])}. "
                    "Finish it with the inputs and options it was started with, or start over with overwrite=true"
                )
            if changed:
                self.clear()
        self.store.mkdir(exist_ok=True)
        if not together:
            shutil.rmtree(self.scratch, ignore_errors=True)
            remove_parts(self.store)
        if not path.exists():
            write_json(path, dict(plan))
        return hashlib.sha256(json.dumps(plan).encode()).hexdigest()

    @property
    def has_results(self) -> bool:
        """Whether a task that takes time is finished."""
        return any(any((self.folder / step).glob("*.json")) for step in ("parts", "statistics"))

    def clear(self) -> None:
        """Remove everything but the locks."""
        for entry in self.folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif not entry.name.startswith("lock"):
                entry.unlink()

    def record_path(self, step: str, key: str) -> Path:
        """The record of ``step`` for ``key``."""
        return self.folder / step / f"{key}.json"

    def read_records(self, step: str, keys: Collection[str]) -> dict[str, dict[str, Any]]:
        """The records of those keys for which the step is done."""
        have = {path.stem for path in (self.folder / step).glob("*.json")}
        return {key: read_json(self.record_path(step, key), f"the record of {step}") for key in keys if key in have}

    def save_state(self, name: str, state: Mapping[str, Any]) -> None:
        """Save a JSON object for the workers and for the next start."""
        write_json(self.folder / f"{name}.json", dict(state))

    def load_state(self, name: str) -> dict[str, Any]:
        """The object that :meth:`save_state` saved."""
        return read_json(self.folder / f"{name}.json", f"the {name} of this run")

    def has_state(self, name: str) -> bool:
        """Whether there is an object of that name."""
        return (self.folder / f"{name}.json").exists()

    def publish(self) -> None:
        """Rename the finished store to the output, in place of an old one, and remove the folder."""
        if self.output.exists():
            self.output.rename(self.folder / "replaced")
        self.store.rename(self.output)
        self.cleanup()

    def restore_output(self) -> None:
        """After a kill in the middle of :meth:`publish`: give the old store its name again."""
        old = self.folder / "replaced"
        if old.is_dir() and not self.output.exists():
            with self.lock():
                old.rename(self.output)

    def is_published(self, plan: Mapping[str, Any]) -> bool:
        """Whether an earlier run of this plan was killed between :meth:`publish` and the end of :meth:`cleanup`.

        The store to which files were added (``after``) is then the output itself, so that this entry may differ.
        """
        for folder in (self.folder, self._aside):
            path = folder / "plan.json"
            if self.output.exists() and path.exists() and not (folder / "store").exists():
                before, now = read_json(path, "the plan of the unfinished run"), json.loads(json.dumps(plan))
                if {**before, "after": None} == {**now, "after": None}:
                    return True
        return False

    def reset_after_survey(self) -> None:
        """Remove all results that depend on the corpus-wide tables."""
        for step in ("genes", "statistics", "parts", "order", "arranged", "store"):
            shutil.rmtree(self.folder / step, ignore_errors=True)
        (self.folder / "tokenizer.json").unlink(missing_ok=True)
        self.store.mkdir()

    def release(self) -> None:
        """After an error: remove the folder unless it has results, or another run holds it."""
        with contextlib.suppress(OSError):  # the error that is under way says more
            with self.lock():
                has_results = self.has_results
                if not has_results:
                    self.cleanup()
            if has_results:
                log.info("Finished parts are kept in %s: the same command continues from there.", self.folder)

    @property
    def _aside(self) -> Path:
        return self.output.with_name(f".{self.output.name}.removed")

    def cleanup(self) -> None:
        """Remove the folder in such an order that a killed removal does not look like unfinished work.

        The plan is removed last: the next start reads from it that all was done.
        """
        shutil.rmtree(self._aside, ignore_errors=True)
        self.folder.rename(self._aside)
        for entry in self._aside.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
        shutil.rmtree(self._aside)


def _difference(before: Mapping[str, Any], plan: Mapping[str, Any], key: str) -> str:
    """The first difference: ``other options: obs was ["a"], is now ["b"]``, or the input that changed."""
    if key == "options":
        old, new = before["options"], plan["options"]
        return _difference(old, new, next(name for name in {**old, **new} if old.get(name) != new.get(name)))
    if key != "inputs":
        return f"other options: {key} was {_short(before.get(key))}, is now {_short(plan.get(key))}"
    was, now = ({entry["path"]: entry for entry in state.get("inputs", [])} for state in (before, plan))
    for path in {**was, **now}:
        if path not in now or path not in was:
            return f"other inputs: {path} was {'not ' if path not in was else ''}among them"
        if was[path] != now[path]:
            return f"other inputs: {path} has changed since"
    return "the same inputs in another order"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
