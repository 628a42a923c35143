"""``data.auto_budget=true``: the largest micro-batch that fits the device, with the same optimizer step."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from scfm.batch import Batch
from scfm.data.module import CellData
from scfm.data.packing import pack
from scfm.io import write_text

log = logging.getLogger(__name__)


def choose_budget(
    data: CellData, folder: Path, world: int, fits: Callable[[Batch], bool], *, first: bool, seconds: float = 900.0
) -> int:
    """The largest ``tokens_per_batch`` that fits, the same on all ranks and in a resumed run.

    Candidates are the shares of an optimizer step: ``tokens_per_step / (world * k)`` for k = 1, 2, 4, ... The first
    rank tries them and leaves the answer in ``budget.json``; the others, and a resumed run, read it there.

    Args:
        data: the cells and the tokens of a step.
        folder: of the run.
        world: processes.
        fits: whether forward and backward pass of a batch fit the memory.
        first: whether this is the first rank.
        seconds: how long the others wait for it.

    Raises:
        ValueError: there is no ``tokens_per_step``, or not even the longest cell fits.
        FileNotFoundError: the first rank gave no answer in time.
    """
    if data.tokens_per_step is None:
        raise ValueError("data.auto_budget=true needs data.tokens_per_step: it is what stays the same")
    answer, deadline = folder / "budget.json", time.monotonic() + seconds
    if first and not answer.is_file():
        largest = _largest(data, world, fits)
        write_text(answer, json.dumps({"tokens_per_batch": largest, "tokens_per_step": data.tokens_per_step}))
    while not answer.is_file():
        if time.monotonic() > deadline:
            raise FileNotFoundError(f"rank 0 has not found a token budget within {seconds:.0f} seconds")
        time.sleep(0.2)
    budget = int(json.loads(answer.read_text())["tokens_per_batch"])
    log.info("Token budget: %d of the %d tokens of a step.", budget, data.tokens_per_step)
    return budget


def _largest(data: CellData, world: int, fits: Callable[[Batch], bool]) -> int:
    assert data.tokens_per_step is not None
    budget = data.tokens_per_step // world
    while budget >= data.longest:
        if data.tokens_per_step % (budget * world) == 0 and fits(worst_batch(data, budget)):
            return budget
        budget //= 2
    raise ValueError(
        f"not even {data.longest} tokens, the longest cell, fit the memory: cut the cells with data.max_length, take "
        "model.checkpointing=true or a smaller model"
    )


def worst_batch(data: CellData, budget: int) -> Batch:
    """A batch of the longest cells that fill a budget: attention costs most in them."""
    order = np.argsort(-data.lengths, kind="stable")
    rows = np.sort(order[: max(1, int(np.searchsorted(np.cumsum(data.lengths[order]), budget, side="right")))])
    repeated = np.resize(rows, max(len(rows), budget // max(1, data.longest)))
    counts = data.store.counts(repeated, data.max_length) if data.plan.counts else None
    return pack(data.store.gather(repeated, data.max_length), repeated, counts=counts)


def fits_memory(
    backbone: nn.Module, task: nn.Module, device: torch.device, precision: str, share: float = 0.9
) -> Callable[[Batch], bool]:
    """Make a function that tries a batch: forward, backward, and room for gradients and optimizer states.

    Args:
        backbone: moved to the device when it is tried.
        task: moved with it.
        device: where.
        precision: of the trainer.
        share: of a GPU's memory that may be used.
    """
    states = 3 * sum(parameter.numel() * 4 for parameter in backbone.parameters())  # gradients and two moments

    def fits(batch: Batch) -> bool:
        """Whether the batch fits."""
        backbone.to(device)
        task.to(device)
        reserved = torch.empty(states, dtype=torch.uint8, device=device) if device.type == "cuda" else None
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=precision.startswith("bf16")):
                loss = task(backbone, batch.to(device))["loss"]
            loss.backward()
        except torch.OutOfMemoryError:
            return False
        finally:
            used = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0
            del reserved
            backbone.zero_grad(set_to_none=True)
            task.zero_grad(set_to_none=True)
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
        return device.type != "cuda" or used <= share * torch.cuda.get_device_properties(device).total_memory

    return fits
