"""A whole training step, ours and that of transformers' Trainer, and how it is timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from scfm.batch import Batch
from scfm.model.backbone import Backbone
from scfm.objective.mlm import MLM
from scfm.objective.score import IGNORE
from scfm.optim.groups import parameter_groups


@dataclass
class Run:
    """Where and how long."""

    device: torch.device
    dtype: torch.dtype
    compile: bool
    seconds: float
    deadline: float

    @property
    def toy(self) -> bool:
        """Whether there is no GPU, and sizes are those of a toy."""
        return self.device.type == "cpu"

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if not self.toy:
            torch.cuda.synchronize()

    def autocast(self) -> torch.autocast:
        """The run's precision."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def ours(run: Run, backbone: Backbone, task: nn.Module) -> Callable[[Batch], torch.Tensor]:
    """Packed row, loss at the targets alone."""
    backbone.config._attn_implementation = "scfm_packed"
    if run.compile:
        backbone.compile_layers()

    def loss(batch: Batch) -> torch.Tensor:
        return task(backbone, batch.to(run.device))["loss"]

    return with_optimizer(run, backbone, loss)


def theirs(run: Run, backbone: Backbone, task: nn.Module, batches: list[Batch]) -> Callable[[Batch], torch.Tensor]:
    """Rows padded to the longest of the batch, under a mask, labels for all tokens: transformers' Trainer's step."""
    backbone.config._attn_implementation = "sdpa"
    inputs = {}
    for batch in batches:
        ids, labels = batch.ids, batch.ids
        if isinstance(task, MLM):
            masked, picked, targets = task.cpu().mask(batch)
            ids, labels = masked.ids, torch.full_like(batch.ids, IGNORE).index_copy(0, picked, targets)
        values = {"input_ids": (ids, 0), "attention_mask": (torch.ones_like(ids), 0), "labels": (labels, IGNORE)}
        cells = batch.lengths.tolist()
        inputs[batch.seed] = {
            key: pad_sequence(value.split(cells), batch_first=True, padding_value=fill)
            for key, (value, fill) in values.items()
        }
        if not run.toy:
            inputs[batch.seed] = {key: value.pin_memory() for key, value in inputs[batch.seed].items()}

    def loss(batch: Batch) -> torch.Tensor:
        rows = {key: value.to(run.device, non_blocking=True) for key, value in inputs[batch.seed].items()}
        return backbone.model(**rows).loss

    return with_optimizer(run, backbone, loss)


def with_optimizer(
    run: Run, backbone: Backbone, loss: Callable[[Batch], torch.Tensor]
) -> Callable[[Batch], torch.Tensor]:
    optimizer = torch.optim.AdamW(parameter_groups(backbone), lr=1e-5, fused=True)

    def step(batch: Batch) -> torch.Tensor:
        with run.autocast():
            value = loss(batch)
        value.backward()
        nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.detach()

    return step


def timed(run: Run, step: Callable[[Batch], torch.Tensor], batches: list[Batch]) -> tuple[int, float]:
    """Number of steps and all their wall seconds, after every batch was seen once."""
    if not run.toy:
        batches[:] = [batch.pin_memory() for batch in batches]
    for batch in batches:
        value = step(batch)
    run.synchronize()
    if not torch.isfinite(value):
        raise RuntimeError(f"the loss is {float(value)}")
    if not run.toy:
        torch.cuda.reset_peak_memory_stats()
    steps, start = 0, time.perf_counter()
    while steps < 4 or time.perf_counter() - start < run.seconds:
        for batch in batches:
            step(batch)
        run.synchronize()
        steps += len(batches)
    return steps, time.perf_counter() - start
