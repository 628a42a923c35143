"""A run that tests stop at any moment, and what it saw."""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

import pytorch_lightning as pl
import torch

import scfm.commands.train  # noqa: F401 - so that a fork server imports it once
from support import SMALL, command

#: A run that changes its number of ranks: the same two micro-batches in every optimizer step.
CHANGING = (
    "data.tokens_per_step=512",
    "trainer.log_every_n_steps=1",
    "model.dropout=0.1",
    "schedule=constant",
    "validate_every=3",
)


class Recorder(pl.Callback):
    """Writes the cells of every micro-batch: one line of (optimizer step, rank, cells)."""

    def __init__(self, *, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        with (self.folder / f"cells-{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps([trainer.global_step, trainer.global_rank, batch.index.tolist()]) + "\n")


def run(store: str, output: str, *overrides: str) -> None:
    torch.set_num_threads(1)
    Path(output).mkdir(parents=True, exist_ok=True)
    command(
        "train",
        f"store={store}",
        f"output={output}",
        *SMALL,
        "extensions=[stoppable]",
        "+callbacks.recorder._target_=stoppable.Recorder",
        f"+callbacks.recorder.folder={output}",
        *overrides,
    )


def run_quietly(store: str, output: str, *overrides: str) -> None:
    """In a forked process: its output goes to a file."""
    Path(output).mkdir(parents=True, exist_ok=True)
    log = os.open(f"{output}/said.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import logging

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, force=True)
    run(store, output, *overrides)


def run_and_die_saving(store: str, output: str, *overrides: str) -> None:
    """Killed while the second checkpoint is being written: its bytes are on their way to the disk."""
    sync = os.fsync

    def deadly(file: int) -> None:
        if ".step-10.ckpt." in os.readlink(f"/proc/self/fd/{file}"):
            os.kill(os.getpid(), signal.SIGKILL)
        sync(file)

    os.fsync = deadly
    run(store, output, *overrides)


if __name__ == "__main__":
    try:
        run_and_die_saving(*sys.argv[2:]) if sys.argv[1] == "--die" else run(*sys.argv[1:])
    except SystemExit as error:
        os._exit(error.code)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
