"""The working folder of a run of ``prepare``: what is planned, what is done, and that only one run writes it.

Everything that is finished has a record, one small JSON file that appears whole, after what it tells of lies on the
disk. A run that was killed is started again, finds the records, and does the rest.
"""

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scfm.io import hold, remove_parts
from scfm.store.arrow import read_json
from scfm.store.layout import write_json

log = logging.getLogger(__name__)


class Work:
    """A hidden folder beside the output, ``.NAME.partial``.

    Args:
        output: the store to be made.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output.with_name(f".{output.name}.partial")

    @classmethod
    def at(cls, folder: Path) -> "Work":
        """The work in a working folder."""
        return cls(folder.with_name(folder.name.removeprefix(".").removesuffix(".partial")))

    @property
    def store(self) -> Path:
        """Where the store grows; renamed to the output at the end."""
        return self.folder / "store"

    @property
    def scratch(self) -> Path:
        """Unfinished files; nothing in here is ever read."""
        return self.folder / "scratch"

    @contextlib.contextmanager
    def locked(self, share: object = None) -> Iterator[None]:
        """Hold the folder against other runs; a killed run lets go by itself.

        Args:
            share: what tells shares of one run apart, which may work at the same time; None is alone.

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
            overwrite: start over where the folder was begun with another plan.
            together: others may be working in the folder: nothing is removed.

        Returns:
            The plan's name: a hash of it.

        Raises:
            ValueError: the folder was begun with other inputs or options.
        """
        plan = json.loads(json.dumps(plan))
        path = self.folder / "plan.json"
        if path.exists():
            before = read_json(path, "what was begun here")
            changed = [key for key in {**before, **plan} if before.get(key) != plan.get(key)]
            if changed and together:
                raise ValueError(
                    f"{self.folder} holds unfinished work of {_difference(before, plan, changed[0])}. All shares need "
                    "the same; to start over, remove that folder first"
                )
            if changed and self.worth and not overwrite:
                raise ValueError(
                    f"{self.folder} holds an unfinished store of {_difference(before, plan, changed[0])}. Start it "
                    "again as it was to finish it, or start over with overwrite=true"
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
    def worth(self) -> bool:
        """Whether something is finished that took time."""
        return any(any((self.folder / step).glob("*.json")) for step in ("parts", "statistics"))

    def clear(self) -> None:
        """Remove everything but the locks."""
        for entry in self.folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif not entry.name.startswith("lock"):
                entry.unlink()

    def record(self, step: str, key: str) -> Path:
        """The file that says that ``step`` is done for ``key``."""
        return self.folder / step / f"{key}.json"

    def done(self, step: str, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The records that are there."""
        have = {path.stem for path in (self.folder / step).glob("*.json")}
        return {key: read_json(self.record(step, key), f"what {step} found") for key in keys if key in have}

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Keep a JSON object for the workers and for the next start."""
        write_json(self.folder / f"{name}.json", dict(state))

    def load(self, name: str) -> dict[str, Any]:
        """What :meth:`save` kept."""
        return read_json(self.folder / f"{name}.json", f"the {name} of this run")

    def has(self, name: str) -> bool:
        """Whether :meth:`save` kept ``name``."""
        return (self.folder / f"{name}.json").exists()

    def publish(self) -> None:
        """Rename the finished store to the output, in place of an old one, and remove the folder."""
        if self.output.exists():
            self.output.rename(self.folder / "replaced")
        self.store.rename(self.output)
        self.tidy()

    def put_back(self) -> None:
        """After a kill in the middle of :meth:`publish`: give the old store its name again."""
        old = self.folder / "replaced"
        if old.is_dir() and not self.output.exists():
            with self.locked():
                old.rename(self.output)

    def published(self, plan: Mapping[str, Any]) -> bool:
        """Whether an earlier run of this plan was killed after it published and before it had tidied up.

        What the plan was added to (``after``) is the output itself by then, and may differ.
        """
        for folder in (self.folder, self._removed):
            path = folder / "plan.json"
            if self.output.exists() and path.exists() and not (folder / "store").exists():
                before, now = read_json(path, "what was begun here"), json.loads(json.dumps(plan))
                if {**before, "after": None} == {**now, "after": None}:
                    return True
        return False

    def forget(self) -> None:
        """Drop what depends on the corpus-wide tables."""
        for step in ("genes", "statistics", "parts", "order", "arranged", "store"):
            shutil.rmtree(self.folder / step, ignore_errors=True)
        (self.folder / "tokenizer.json").unlink(missing_ok=True)
        self.store.mkdir()

    def abandon(self) -> None:
        """After an error: remove the folder unless something in it is worth going on with, or another run holds it."""
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            with self.locked():
                worth = self.worth
                if not worth:
                    self.tidy()
            if worth:
                log.info("What is finished is kept in %s: the same command goes on from there.", self.folder)

    @property
    def _removed(self) -> Path:
        return self.output.with_name(f".{self.output.name}.removed")

    def tidy(self) -> None:
        """Remove the folder; a kill in between leaves nothing that looks like unfinished work.

        The plan goes last: by it the next start knows that all was done.
        """
        shutil.rmtree(self._removed, ignore_errors=True)
        self.folder.rename(self._removed)
        for entry in self._removed.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
        shutil.rmtree(self._removed)


def _difference(before: Mapping[str, Any], plan: Mapping[str, Any], key: str) -> str:
    """``other options: obs was ['a'], is ['b']``, or which input changed."""
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
