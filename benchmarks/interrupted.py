"""Commands stopped at random moments and started again: the same bytes, or the same bits, as without."""

import hashlib
import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from forked import Command, Ended, run

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
#: Metrics that differ between two runs of one command.
COSTS = ("seconds", "megabytes")
#: The first stop of a try, and of its second and third start.
STOPS = 3
MODEL = ("model=tiny", "model.layers=1", "model.width=32", "model.feedforward=64", "data.tokens_per_batch=1024")
QUICK = ("data.max_length=32", "trainer.log_every_n_steps=1", "callbacks.progress=null", "ckpt_path=auto", "name=run")
TRAIN = ("train", "store=../base/store", *MODEL, *QUICK, "trainer.max_steps=40", "validate_every=10")
FINETUNE = (
    "finetune", "init_from=../base/outputs/base/checkpoints/last.ckpt", "store=../base/store", *QUICK,
    "data.tokens_per_batch=1024", "trainer.max_steps=20", "validate_every=5", "head.gene_components=8",
    "callbacks.checkpoint.every_n_train_steps=4",
)  # fmt: skip
EVERY = ("callbacks.checkpoint.every_n_train_steps=7",)
PREPARE = ("prepare", "obs=[cell_type,donor,batch,stage]", "group=donor", "cells_per_part=40", "block_size=16")
BOTH = "input=[../base/a.h5ad,../base/b.h5ad]"


@dataclass(frozen=True)
class Kind:
    """A way of working, as command lines one after another.

    Attributes:
        name: what the table calls it.
        lines: the command lines; one of them is stopped, and started again as it was.
        result: what must be the same, from the folder in which they ran.
        last: the file whose appearance means that training is done and its report is not; empty for none.
    """

    name: str
    lines: tuple[tuple[str, ...], ...]
    result: Callable[[Path], Any]
    last: str = ""


@dataclass
class Count:
    """What became of the stops of one kind and one signal.

    Attributes:
        tried: stops that hit a running command.
        survived: those after which the same command gave the same result.
        refused: those after which it refused in a sentence.
        lost: all others.
        notes: what was lost, and how.
    """

    tried: int = 0
    survived: int = 0
    refused: int = 0
    lost: int = 0
    notes: tuple[str, ...] = ()

    def __add__(self, other: "Count") -> "Count":
        numbers = (getattr(self, name) + getattr(other, name) for name in ("tried", "survived", "refused", "lost"))
        return Count(*numbers, (*self.notes, *other.notes))


def checksum_store(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the store, and what lies beside it."""
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((folder / "store").iterdir())}
    return files | {f"beside {path.name}": "" for path in folder.iterdir() if path.name.startswith(".")}


def read_run(folder: Path) -> dict[str, Any]:
    """Weights of every named checkpoint, the split, metrics that are no times, and losses by step."""
    import torch

    output = folder / "outputs" / "run"
    found: dict[str, Any] = {}
    for path in sorted((output / "checkpoints").glob("*.ckpt")):
        if path.name in ("last.ckpt", "best.ckpt"):
            state = torch.load(path, weights_only=True)
            for name, tensor in state["state_dict"].items():
                found[f"{path.name} {name}"] = hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
    metrics = json.loads((output / "metrics.json").read_text())
    found |= {name: value for name, value in metrics.items() if "per_s" not in name and "/time" not in name}
    if (output / "split.csv").exists():
        found["split"] = (output / "split.csv").read_text()
    found["parts left"] = [str(path) for path in output.rglob(".*.part")]
    return found


def read_losses(folder: Path) -> dict[int, float]:
    """The training loss of every step in ``metrics.csv``."""
    table = pd.read_csv(folder / "outputs" / "run" / "metrics.csv")
    return table[["step", "train/loss"]].dropna().set_index("step")["train/loss"].to_dict()


def read_embedded(folder: Path) -> dict[str, str]:
    """SHA-256 of every array of the embedded file, and what lies beside it."""
    found = {f"beside {path.name}": "" for path in folder.iterdir() if path.name.startswith(".")}

    def add(name: str, member: Any) -> None:
        if isinstance(member, h5py.Dataset):
            values = member[()]
            data = (
                values.tobytes() if isinstance(values, np.ndarray) and values.dtype != object else repr(values).encode()
            )
            found[name] = hashlib.sha256(data).hexdigest()

    with h5py.File(folder / "out.h5ad") as file:
        file.visititems(add)
    return found


def read_evaluation(folder: Path) -> dict[str, Any]:
    """Every score that is no time and no memory, and the names of all files."""
    output = folder / "outputs" / "evaluation"
    table = pd.read_csv(output / "scores.csv")
    scores = table[~table["metric"].isin(COSTS)]
    names = scores["table"] + ", " + scores["method"] + ", " + scores["metric"]
    found: dict[str, Any] = dict(zip(names, scores["value"].map(repr), strict=True))
    return found | {"files": sorted(path.name for path in output.iterdir())}


def kinds() -> list[Kind]:
    """Every command that writes, in the ways in which it is used."""
    prepare = (*PREPARE, BOTH, "output=store")
    shares = tuple((*prepare, f"share={number}/2") for number in (1, 2, 1, 2))
    append = (
        (*PREPARE, "input=../base/a.h5ad", "output=store"),
        ("prepare", "append=true", "input=../base/b.h5ad", "output=store"),
    )
    heads = {
        "triplet": (
            "head=integration/triplet",
            "head.batch_key=batch",
            "head.width=4",
            "head.hidden=16",
            "data.group=null",
        ),
        "prototype": ("head=annotation/prototype", "head.width=8"),
        "ordinal": ("head=trajectory/ordinal", "head.label=stage", "head.stages=[s0,s1,s2]"),
    }
    found = [
        Kind("prepare", (prepare,), checksum_store),
        Kind("prepare, shuffle", ((*prepare, "shuffle=true"),), checksum_store),
        Kind("prepare, append", append, checksum_store),
        Kind("prepare, share", (*shares, prepare), checksum_store),
        Kind("prepare, duplicates", ((*prepare, "duplicates=drop"),), checksum_store),
    ]
    for objective in ("mlm", "ar"):
        for workers in (0, 2):
            line = (*TRAIN, *EVERY, f"objective={objective}", f"data.workers={workers}")
            found.append(Kind(f"train {objective}, {workers} workers", (line,), read_run, "checkpoints/last.ckpt"))
    for name, options in heads.items():
        found.append(Kind(f"finetune {name}", ((*FINETUNE, *options),), read_run, "checkpoints/last.ckpt"))
    embed = (
        "embed", "init_from=../base/outputs/base/checkpoints/last.ckpt", "input=../base/a.h5ad", "output=out.h5ad",
        "part_size=20", "tokens_per_batch=1024", "block_size=10",
    )  # fmt: skip
    evaluate = (
        "evaluate", "input=../base/out.h5ad", "label=cell_type", "batch=batch", "baselines=[pca]",
        "draws=10", "folds=2",
    )  # fmt: skip
    return [*found, Kind("embed", (embed,), read_embedded), Kind("evaluate", (evaluate,), read_evaluation)]


def make_base(folder: Path) -> None:
    """Cells, a store, a checkpoint and an embedded file, from which the commands begin."""
    from scfm.datasets.synthetic import synthetic_cells

    folder.mkdir()
    cells = synthetic_cells(n_cells=300, n_genes=120, n_types=3, n_batches=2, n_donors=4, depth=300, seed=3)
    cells.obs["stage"] = pd.Categorical.from_codes((cells.obs["pseudotime"] * 3).astype(int), ["s0", "s1", "s2"])
    cells[:170].write_h5ad(folder / "a.h5ad", compression="gzip")
    cells[150:].write_h5ad(folder / "b.h5ad")  # 20 cells occur twice
    run(folder, *PREPARE, "input=[a.h5ad,b.h5ad]", "output=store", "on_duplicate_cells=refuse")
    run(
        folder,
        "train",
        "store=store",
        *MODEL,
        "data.max_length=32",
        "callbacks.progress=null",
        "trainer.max_steps=12",
        "name=base",
    )
    run(folder, "embed", "init_from=outputs/base/checkpoints/last.ckpt", "input=a.h5ad", "output=out.h5ad")


@dataclass(frozen=True)
class Undisturbed:
    """What a kind gives when it is left alone.

    Attributes:
        result: see :class:`Kind`.
        losses: of training, by step; empty for other commands.
        seconds, n_lines: wall time and printed lines of each command line.
        rest: seconds between the last save of training and the end; 0 for other commands.
    """

    result: Any
    losses: dict[int, float]
    seconds: list[float]
    n_lines: list[int]
    rest: float


def run_undisturbed(kind: Kind, folder: Path) -> Undisturbed:
    """Run the lines, each to its end.

    Raises:
        RuntimeError: one fails.
    """
    seconds, n_lines, rest = [], [], 0.0
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for line in kind.lines:
        began = time.time()
        ended = run(folder, *line)
        seconds.append(ended.seconds)
        n_lines.append(ended.text.count("\n"))
        if kind.last:
            rest = max(0.0, began + ended.seconds - (folder / "outputs" / "run" / kind.last).stat().st_mtime)
    losses = read_losses(folder) if kind.result is read_run else {}
    return Undisturbed(kind.result(folder), losses, seconds, n_lines, rest)


def choose_moment(kind: Kind, line: int, alone: Undisturbed, draw: random.Random, log: Path) -> Callable[[float], bool]:
    """When to stop: at a random time, after a random printed line, or between the last step and the report."""
    how = draw.choice(["time", "line", "end"] if kind.last else ["time", "line"])
    after, part = draw.uniform(0, alone.seconds[line]), draw.random()
    if how == "time":
        return lambda seconds: seconds >= after
    wanted, last = draw.randint(1, max(1, alone.n_lines[line])), log.parent / "outputs" / "run" / kind.last
    seen: list[float] = []

    def reached(seconds: float) -> bool:
        there = last.exists() if how == "end" else log.read_bytes().count(b"\n") >= wanted
        if there and not seen:
            seen.append(seconds)
        return bool(seen) and seconds >= seen[0] + (part * alone.rest if how == "end" else part * 0.05)

    return reached


def stop_once(kind: Kind, alone: Undisturbed, folder: Path, number: int, draw: random.Random) -> Count:
    """One try: the lines before, a line that is stopped up to three times, and the rest."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    target = draw.choices(range(len(kind.lines)), alone.seconds)[0]
    for line in kind.lines[:target]:
        run(folder, *line)
    tried, printed = 0, ""
    for _ in range(STOPS):
        command = Command(folder, kind.lines[target])
        ended = command.wait(choose_moment(kind, target, alone, draw, command.log))
        if not ended:
            command.stop(number)
        got = command.end()
        printed += got.text
        tried += not ended and got.status != 0
        done = got.status == 0 or _is_there(got)
        if done:
            break
        if (fault := _fault_of_stop(got, number)) is not None:
            return Count(tried, lost=tried, notes=(f"{kind.name}: {fault}",))
    for line in kind.lines[target + done :]:
        ended_run = Command(folder, line).end()
        if ended_run.status != 0 and not _is_there(ended_run):
            last = ended_run.text.strip()[-400:]
            refused = ended_run.is_sentence
            return Count(tried, refused=tried * refused, lost=tried * (not refused), notes=(f"{kind.name}: {last}",))
    difference = compare(kind, alone, folder)
    if difference:
        return Count(tried, lost=tried, notes=(f"{kind.name} after {signal.Signals(number).name}: {difference}",))
    return Count(tried, survived=tried)


def _is_there(ended: Ended) -> bool:
    """Whether a command refuses because its output is there: the stop came after all was done, and it is compared."""
    return ended.is_sentence and "exists; choose another output" in ended.text


def _fault_of_stop(ended: Ended, number: int) -> str | None:
    """What is wrong with the way in which a stopped command ended; None for nothing."""
    if ended.status is None:
        return f"hung after {signal.Signals(number).name}"
    if number == signal.SIGKILL:  # its workers may still write what they think of it
        return None if ended.status in (0, -number) else f"ended with {ended.status} at SIGKILL"
    if "Traceback (most recent call last)" in ended.text:
        return f"a traceback at {signal.Signals(number).name}: {ended.text.strip()[-1500:]}"
    said = number == signal.SIGINT and ended.status == 1 and "Ctrl-C: stopped" in ended.text
    if ended.status not in (0, -number, 75, 128 + number) and not said:
        return f"ended with {ended.status} at {signal.Signals(number).name}: {ended.text.strip()[-300:]}"
    return None


def compare(kind: Kind, alone: Undisturbed, folder: Path) -> str:
    """The first difference from the undisturbed run; empty where there is none."""
    result = kind.result(folder)
    for name in {**alone.result, **result}:
        if alone.result.get(name) != result.get(name):
            return f"{name} is {str(result.get(name))[:200]}, was {str(alone.result.get(name))[:200]}"
    if alone.losses:
        losses = read_losses(folder)
        wrong = [step for step, loss in losses.items() if alone.losses.get(step) != loss]
        if wrong:
            return f"the loss of step {wrong[0]} is {losses[wrong[0]]}, was {alone.losses.get(wrong[0])}"
    return ""
