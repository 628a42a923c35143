"""Skips optimizer steps that would harm the model, and ends a run of many such steps."""

import logging
import math
from collections import deque
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from scfm.batch import Batch

log = logging.getLogger(__name__)

#: The smallest standard deviation that is believed, as a share of the mean.
SPREAD = {"loss": 0.05, "gradient norm": 0.25}


class Health(pl.Callback):
    """A step whose loss or gradient norm is not finite, or far above the last ones, is skipped on all ranks.

    "Far above" is ``sigma`` standard deviations of the last ``window`` steps (as in OLMo-core). A deviation counts as
    5 % of the mean loss and 25 % of the mean gradient norm at least (:data:`SPREAD`): early in a run both hardly vary,
    and a healthy step can be seven deviations above their mean. The loss is averaged over the ranks and the norm is
    that of the summed gradient, so that all ranks decide alike. A skipped step changes neither weights nor optimizer
    states; it is counted as ``train/skipped_steps`` and logged with its cells.

    Args:
        sigma: standard deviations above the mean; null checks for finite values only.
        window: steps for mean and deviation; before half of them are done, only values that are not finite are skipped.
        stop_after: skipped steps in a row that end the run.
    """

    def __init__(self, *, sigma: float | None = 6.0, window: int = 128, stop_after: int = 10) -> None:
        self.sigma, self.window, self.stop_after = sigma, window, stop_after
        self.skipped = self.in_a_row = 0
        self._past: dict[str, deque[float]] = {name: deque(maxlen=window) for name in SPREAD}
        self._losses: list[Tensor] = []
        self._cells: list[Tensor] = []

    def note(self, batch: Batch, loss: Tensor) -> None:
        """Keep the loss and the cells of a micro-batch; called by the module."""
        self._losses.append(loss.detach())
        self._cells.append(batch.index)

    def judge(self, module: pl.LightningModule, optimizer: torch.optim.Optimizer, norm: Tensor | None) -> None:
        """Skip the step where it is unhealthy; called by the module before the optimizer's step.

        Raises:
            ValueError: ``stop_after`` steps in a row were unhealthy.
        """
        trainer = module.trainer
        seen = {"loss": trainer.strategy.reduce(torch.stack(self._losses).mean(), reduce_op="mean")}
        scaled = str(trainer.precision) == "16-mixed"  # its scaler finds overflows, and skips them, itself
        if norm is not None and not scaled:
            seen["gradient norm"] = torch.as_tensor(norm)
        values = _read(seen)
        faults = [fault for name, value in values.items() if (fault := self._fault(name, value))]
        cells, self._cells, self._losses = self._cells, [], []
        if not faults:
            self.in_a_row = 0
            for name, value in values.items():
                self._past[name].append(value)
            return
        self._skip(trainer, module, optimizer)
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        rows = torch.cat(cells).tolist()
        log.warning(
            "Optimizer step %d is skipped: %s. Its cells on rank %d (rows of the store): %s",
            trainer.global_step, "; ".join(faults), trainer.global_rank, rows,
        )  # fmt: skip
        if self.in_a_row >= self.stop_after:
            raise ValueError(
                f"{self.in_a_row} optimizer steps in a row were unhealthy ({'; '.join(faults)}): lower optim.lr, "
                "lengthen schedule.warmup, or resume from an earlier checkpoint; the log has the cells of each step"
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Log the number of skipped steps once it is above zero."""
        if self.skipped:
            module.log("train/skipped_steps", float(self.skipped), batch_size=batch.n_cells)

    def state_dict(self) -> dict[str, Any]:
        """The values so far, so that a resumed run decides in the same way."""
        past = {name: list(values) for name, values in self._past.items()}
        return {"skipped": self.skipped, "in_a_row": self.in_a_row, "past": past}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue counting."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]
        for name, values in state["past"].items():
            self._past[name] = deque(values, maxlen=self.window)

    def _fault(self, name: str, value: float) -> str | None:
        if not math.isfinite(value):
            return f"{name} is {value}"
        past = self._past[name]
        if self.sigma is None or len(past) < max(2, self.window // 2):
            return None
        mean = sum(past) / len(past)
        deviation = math.sqrt(sum((x - mean) ** 2 for x in past) / (len(past) - 1))
        deviation = max(deviation, SPREAD[name] * abs(mean))
        if value > mean + self.sigma * deviation:
            return f"{name} {value:.4g} is {(value - mean) / deviation:.1f} sigma above {mean:.4g}"
        return None

    def _skip(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        skip = getattr(trainer.strategy, "skip_step", None)
        if skip is not None:
            skip()
        else:
            module.zero_grad(set_to_none=True)  # optimizers leave alone what has no gradient


def _read(values: dict[str, Tensor]) -> dict[str, float]:
    """The values of a step as numbers, by one transfer from the GPU."""
    device = values["loss"].device
    together = torch.stack([value.detach().to(device, torch.float32) for value in values.values()])
    return dict(zip(values, together.tolist(), strict=True))
