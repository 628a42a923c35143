"""Whole runs of ``train.py`` by several strategies: loader, logging, health checks and checkpoints included."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from made import MODELS, TOY, made_vocab
from steps import Run

from scfm.store.from_cells import write_store
from scfm.store.writer import Cells
from scfm.types import Ragged

REPOSITORY = Path(__file__).parents[2]
STRATEGIES = ("single", "ddp", "fsdp2", "deepspeed_zero2")
COLUMNS = ("tokens_per_s", "cells_per_s", "mfu", "roof", "data_wait", "memory_gb")


def runs(run: Run) -> Iterator[dict[str, Any]]:
    """A row for each strategy on one device: what the last lines of its ``metrics.csv`` say."""
    yaml, vocab, tokens = next(iter((TOY if run.toy else MODELS).values()))
    with tempfile.TemporaryDirectory() as folder:
        store = made_store(Path(folder) / "store", vocab, 200 if run.toy else 16_000, 16 if run.toy else 2048)
        print(
            f"\n{'train.py':16s} {'tokens/s':>10s} {'MFU':>6s} {'roof':>6s} {'data wait':>9s} {'GB':>6s} {'loss':>13s}"
        )
        for strategy in STRATEGIES[:: 3 if run.toy else 1]:
            left = run.deadline - time.monotonic()
            if left < 20:
                yield {"strategy": strategy, "not run": "out of time"}
                continue
            row = {"strategy": strategy} | train(run, store, Path(folder) / strategy, strategy, yaml, tokens, left)
            show(row)
            yield row


def train(run: Run, store: Path, output: Path, strategy: str, yaml: str, tokens: int, left: float) -> dict[str, Any]:
    """One run in a process of its own."""
    options = {
        "trainer": "cpu" if run.toy else "gpu",
        "strategy": strategy,
        "model": yaml,
        "model.compile": str(run.compile).lower(),
        "model.dropout": 0.0,
        "store": store,
        "output": output,
        "data.tokens_per_batch": tokens,
        "data.workers": 0 if run.toy else 4,
        "optim": "adamw" if run.toy else "adamw_fused",
        "trainer.max_steps": 4 if run.toy else 300,
        "trainer.log_every_n_steps": 2 if run.toy else 50,
        "trainer.limit_val_batches": 2,
        "trainer.enable_progress_bar": "false",
        "callbacks.progress": "null",
    }
    command = [sys.executable, "train.py", *(f"{key}={value}" for key, value in options.items())]
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=left, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": "out of time"}
    if done.returncode != 0:
        return {"failed": done.stderr.strip()[-300:]}
    table = pd.read_csv(output / "metrics.csv")
    losses = table["train/loss"].dropna()
    # the first rates hold compilation; the last is that of the steady state
    last = {name: float(table[name].dropna().iloc[-1]) for name in COLUMNS if name in table}
    return last | {"first_loss": float(losses.iloc[0]), "last_loss": float(losses.iloc[-1])}


def show(row: dict[str, Any]) -> None:
    if "failed" in row:
        print(f"{row['strategy']:16s} {row['failed'][-100:]}")
        return
    shares = "".join(f" {row[key]:6.1%}" if key in row else "      -" for key in ("mfu", "roof"))
    print(
        f"{row['strategy']:16s} {row['tokens_per_s']:10.0f}{shares} {row['data_wait']:9.1%} "
        f"{row.get('memory_gb', 0):6.1f} {row['first_loss']:6.2f} {row['last_loss']:6.2f}"
    )


def made_store(path: Path, vocab: int, n_cells: int, length: int) -> Path:
    """Cells of about one length; which genes are in them does not change the work."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(length // 2, length + 1, n_cells)
    tokens = rng.integers(3, vocab, lengths.sum(), dtype=np.uint16)
    cells = Cells(
        Ragged(tokens, np.concatenate([[0], np.cumsum(lengths)])),
        names=np.array([f"cell{i}" for i in range(n_cells)]),
        file=np.zeros(n_cells, dtype=np.int64),
        hashes=np.arange(n_cells, dtype=np.uint64),
        obs={},
    )
    write_store(
        path, [cells], tokenizer={"name": "made_up", "vocab": made_vocab(vocab).to_dict()}, columns={}, group=None
    )
    return path
