"""Which checkpoint a run continues from."""

import inspect
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from scfm.checkpoint import read_state
from scfm.config import target
from scfm.migrate import migrate_config
from scfm.strategy.deepspeed import DeepSpeed
from scfm.strategy.sharded import ABOUT, list_missing
from scfm.training.shards import guard_resume
from scfm.trust.archive import archive_fault
from scfm.trust.plain import plain_fault

log = logging.getLogger(__name__)

#: Parts of a config in which a resumed run must be as it began.
COMPARED = ("model", "objective", "head", "adapt", "optim")


def resume_path(ckpt_path: str | None, output: Path) -> str | None:
    """The checkpoint to resume from.

    Args:
        ckpt_path: a path; ``last``: the newest whole one of the run's folder; ``auto``: the same or, where there is
            none yet, a fresh start, which is what a job that Slurm requeues needs; None: a fresh start.
        output: folder of the run.

    Raises:
        FileNotFoundError: there is none, or none that is whole.
    """
    if ckpt_path is None:
        return None
    if ckpt_path not in ("last", "auto"):
        path = Path(ckpt_path)
        if not path.exists():
            raise FileNotFoundError(f"ckpt_path={ckpt_path}: there is no checkpoint at {path} to resume from")
        return str(path)
    folder = output / "checkpoints"
    found = newest_whole(folder)
    if found is None and ckpt_path == "last":
        raise FileNotFoundError(f"ckpt_path=last: there is no whole checkpoint in {folder} to resume from")
    return None if found is None else str(found)


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that is not cut off; those that are get a line in the log."""
    for path in _by_time(folder):
        fault = find_damage(path)
        if fault is None:
            log.info("Resuming from %s.", path)
            _warn_of_later(path, folder)
            return path
        log.warning("The checkpoint %s is damaged (%s); the one before it is used.", path, fault)
    return None


def _by_time(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest file first."""
    found = [*folder.glob("step-*.ckpt"), *folder.glob("last.ckpt")]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _warn_of_later(chosen: Path, folder: Path) -> None:
    """Say so where an older file holds more steps: files were copied in another order, or the clock was set back."""
    step = _step_in_name(chosen)
    later = [path for path in folder.glob("step-*.ckpt") if step is not None and (_step_in_name(path) or 0) > step]
    for path in sorted(later):
        log.warning(
            "%s holds more steps than %s, but its file is older: a copy or a clock that was set back changes the "
            "times. To go on from it, give ckpt_path=%s",
            path, chosen.name, path,
        )  # fmt: skip


def _step_in_name(path: Path) -> int | None:
    number = path.stem.removeprefix("step-")
    return int(number) if number.isdecimal() else None


def read_begun(ckpt_path: str | None, output: Path) -> Mapping[str, Any] | None:
    """The config of the run that is resumed, under today's names; None for a new run, or where it says none.

    Nothing in it has been checked: it says what a run began with, and nothing is built from it.

    Args:
        ckpt_path: see :func:`resume_path`.
        output: folder of the run.
    """
    if ckpt_path in ("last", "auto"):
        path = next((path for path in _by_time(output / "checkpoints") if find_damage(path) is None), None)
    else:
        path = None if ckpt_path is None else Path(ckpt_path)
    if path is None or not path.exists():
        return None
    about = _about_shards(path / ABOUT) if path.is_dir() else read_state(path).get("scfm", {})
    if plain_fault(about) is not None or not isinstance(about, Mapping):
        return None  # which is refused where the run begins
    config = migrate_config(about.get("config"))
    return config if isinstance(config, Mapping) else None


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint on disk, or None when every byte is as it was written."""
    if path.is_dir():
        lacking = list_missing(path)
        return f"cut off or missing: {', '.join(lacking)}" if lacking else None
    return archive_fault(path)


def require_same_run(path: Path, parts: Mapping[str, Any], output: Path, vocab_hash: str, strategy: Any) -> None:
    """Refuse to resume from the checkpoint of another strategy, model or vocabulary.

    Args:
        path: the checkpoint.
        parts: of the config of this run, in plain values, by the names of :data:`COMPARED`; None: it has no such part.
        output: folder of this run.
        vocab_hash: of the store's vocabulary.
        strategy: of this run's trainer.

    Raises:
        ValueError: naming what differs.
    """
    if path.is_dir():
        about = _about_shards(path / ABOUT)
        if output.resolve() not in path.resolve().parents:
            guard_resume(path)
    else:
        state = read_state(path)
        _require_own_paths(path, state.get("callbacks"))
        about = state.get("scfm", {})
    fault = plain_fault(about)
    if fault is not None or not isinstance(about, dict):
        raise ValueError(f"{path} is damaged or not safe: what it says of itself {fault or 'is no dictionary'}")
    _require_layout(path, about, strategy)
    if about.get("vocab_hash", vocab_hash) != vocab_hash:
        raise ValueError(
            f"{path} has the vocabulary {about['vocab_hash'][:12]}, the store {vocab_hash[:12]}: resume on the store "
            "that the run was begun with"
        )
    _require_same_parts(path, migrate_config(about.get("config", {})), parts)
    before, now = about.get("config", {}).get("model"), parts["model"]
    if before is not None and now is not None:
        before = _complete(before, now)
        changed = [f"model.{key}={now.get(key)} (was {before.get(key)})" for key in now if now[key] != before.get(key)]
        harmless = ("compile", "checkpointing", "dropout")
        changed = [text for text in changed if not text.startswith(tuple(f"model.{key}=" for key in harmless))]
        if changed:
            raise ValueError(f"{path} is of another model: {', '.join(changed)}")


def _require_same_parts(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """A resumed run learns what it learned before, by the same optimizer; rates, schedule and length may change."""
    pairs: list[tuple[str, Any, Any]] = [(name, before.get(name), now[name]) for name in ("objective", "head", "adapt")]
    kinds = [{"_target_": part.get("_target_")} for part in (before.get("optim", {}), now["optim"])]
    pairs.append(("optim", kinds[0], kinds[1]))
    changed = [
        (f"{name}.{key}", value, here.get(key))
        for name, then, here in pairs
        if isinstance(then, Mapping) and isinstance(here, Mapping)
        for key, value in _complete(then, here).items()
        if (key not in then or value is not None) and value != here.get(key)
    ]
    if changed:
        differs = "; ".join(f"{key}={value}, now {today}" for key, value, today in changed)
        given = " ".join(
            f"{key}={'null' if value is None else value}" for key, value, _ in changed if not key.endswith("_target_")
        )
        raise ValueError(
            f"{path} is of a run with {differs}: a resumed run goes on as it began (optim.lr, schedule and "
            f"trainer.max_steps may change); {f'give {given}' if given else 'leave that out'}, or begin another run "
            "with another name=..."
        )


def _complete(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """A stored node with the defaults of its class for the options that came after it was written."""
    if before.get("_target_") != now.get("_target_"):
        return dict(before)
    parameters = inspect.signature(target(now)).parameters
    missing = {name: parameters[name].default for name in now if name in parameters and name not in before}
    known = {name: value for name, value in missing.items() if value is not inspect.Parameter.empty}
    return {**{name: list(v) if isinstance(v, tuple) else v for name, v in known.items()}, **before}


def _about_shards(path: Path) -> Any:
    """What a folder of shards says of itself; numbers of a config may be infinite, so this is Python's JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); use an earlier checkpoint") from error


def _require_own_paths(path: Path, callbacks: Any) -> None:
    """Refuse callbacks' states that name files by ``..``: those of the best checkpoints are deleted in time."""
    fault = plain_fault(callbacks, leaves=(torch.Tensor,))  # best scores, for one; the archive holds dense ones alone
    if callbacks is not None and fault is None and any(".." in Path(text).parts for text in _texts(callbacks)):
        fault = "names a file outside the folder of its run"
    if fault is not None:
        raise ValueError(f"{path} is damaged or not safe: the state of its callbacks {fault}")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from value
        yield from (text for item in value.values() for text in _texts(item))
    elif isinstance(value, list):
        yield from (text for item in value for text in _texts(item))


def _require_layout(path: Path, about: Mapping[str, Any], strategy: Any) -> None:
    """The strategy reads what lies there: a file, or a folder of its own kind and, by ZeRO, of as many ranks."""
    deepspeed = isinstance(strategy, DeepSpeed)
    reads = strategy.kind if deepspeed or getattr(strategy, "sharded_checkpoint", False) else None
    instead = (
        f"or begin from its weights: scfm-consolidate checkpoint={path}, then finetune.py init_from={path}"
        if path.is_dir()
        else f"or begin from its weights: finetune.py init_from={path}"
    )
    if path.is_dir() != (reads is not None) or about.get("kind", reads) != reads:
        kind = f"a folder of shards ({about.get('kind', 'of an unknown strategy')})" if path.is_dir() else "a file"
        raise ValueError(
            f"{path} is {kind}, which the strategy of this run does not resume from: take the strategy it was written "
            f"by, {instead}"
        )
    world = about.get("world", strategy.world_size)
    if deepspeed and world != strategy.world_size:
        raise ValueError(
            f"{path} was written by {world} processes, and ZeRO resumes on as many alone; this run has "
            f"{strategy.world_size}: take {world} again, {instead}"
        )
