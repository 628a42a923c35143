"""The one LightningModule: a task on a backbone, whether it pretrains or fine-tunes."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint as recomputed

from scfm.batch import Batch
from scfm.checkpoint import TRAINED
from scfm.head.base import Head
from scfm.migrate import migrate_weights
from scfm.model.cached import CachedBackbone
from scfm.model.flops import Work, peak_of
from scfm.model.pooling import embed
from scfm.model.readout import reads_counts
from scfm.objective.base import Objective
from scfm.optim.groups import parameter_groups
from scfm.task import Task
from scfm.types import PEAKS, Backbone, Metrics, Spec, field_key

log = logging.getLogger(__name__)


class CellModule(pl.LightningModule):
    """Trains ``task(backbone, batch)["loss"]``.

    Everything random in a step is drawn from ``batch.seed``, a pure function of (seed, epoch, step): a resumed run
    repeats the uninterrupted one bit by bit, and no random state needs to be saved.

    Args:
        backbone: see :class:`scfm.types.Backbone`.
        task: an :class:`~scfm.objective.base.Objective` or a :class:`~scfm.head.base.Head`.
        spec: what only the run knows.
        about: plain values that make a checkpoint describe itself; stored under ``scfm``.
        optimizer: parameter groups -> optimizer; None for a module that only predicts.
        schedule: (optimizer, total optimizer steps) -> learning-rate schedule, stepped every optimizer step.
        n_steps: total optimizer steps of the run.
    """

    backbone: Any  # a Backbone and a Task: modules whose methods nn.Module's own typing hides
    task: Any

    def __init__(
        self,
        backbone: nn.Module,
        task: Task,
        spec: Spec,
        about: Mapping[str, Any],
        *,
        optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None = None,
        schedule: Callable[[torch.optim.Optimizer, int], Any] | None = None,
        n_steps: int = 0,
    ) -> None:
        super().__init__()
        self.backbone, self.task = backbone, task
        self.spec, self.about = spec, dict(about)
        self._optimizer, self._schedule, self.n_steps = optimizer, schedule, n_steps
        #: Learning rates of the config, by parameter group: restoring a checkpoint brings back those of its run.
        self.rates: list[float] = []
        #: Parts that each micro-batch is cut into: more than one after memory ran out.
        self.parts = 1
        self._step_batches: list[Batch] = []
        self._seen: list[dict[str, np.ndarray]] = []
        #: Whether a logger wants predictions to show, and those of the last validation (by the task's ``sample``).
        self.show_samples, self.samples = False, dict[str, np.ndarray]()

    @property
    def reads_counts(self) -> bool:
        """Whether batches for :meth:`predict_step` must carry counts: the embedding or the head reads them."""
        return reads_counts(self.backbone) or (isinstance(self.task, Head) and self.task.requirements().counts)

    def configure_model(self) -> None:
        """Let a sharding strategy divide the model over the devices."""
        shard = getattr(self.trainer.strategy, "shard", None)
        if shard is not None:
            shard(self)

    def configure_optimizers(self) -> Any:
        """The optimizer over decayed and undecayed parameters, and its schedule."""
        assert self._optimizer is not None, "a module made for prediction is not trained"
        optimizer = self._optimizer(parameter_groups(self))
        if self._schedule is None:
            return optimizer
        schedule = self._schedule(optimizer, self.n_steps)
        self.rates = [float(group["initial_lr"]) for group in optimizer.param_groups]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one micro-batch; in parts where it did not fit the memory whole."""
        if self.trainer.fit_loop.epoch_loop.batch_idx % self.trainer.accumulate_grad_batches == 0:
            self._step_batches.clear()
        self._step_batches.append(batch)
        metrics = self._fitting(batch)
        self._log("train", metrics, batch)
        for callback in self._judges():
            callback.note(batch, metrics["loss"])
        return metrics["loss"]

    def backward(self, loss: Tensor) -> None:
        """Backward; where memory runs out in it, the micro-batches of this optimizer step again, in smaller parts."""
        try:
            loss.backward()
        except torch.OutOfMemoryError as error:
            strategy: Any = self.trainer.strategy
            alone = self.trainer.world_size == 1 or getattr(strategy, "alone_in_backward", False)
            self._more_parts(error, alone=alone)
            self._redo_step()

    def _redo_step(self) -> None:
        """The gradients of the micro-batches of this optimizer step, from the first on."""
        while True:
            self.zero_grad(set_to_none=True)
            try:
                for batch in self._step_batches:
                    (self._fitting(batch)["loss"] / self.trainer.accumulate_grad_batches).backward()
                return
            except torch.OutOfMemoryError as error:
                self._more_parts(error, alone=True, cells=max(batch.n_cells for batch in self._step_batches))

    def _fitting(self, batch: Batch) -> Metrics:
        """What the task says of a batch, in as many parts as its memory asks for."""
        while True:
            try:
                return metrics_in_parts(lambda part: self.task(self.backbone, part), batch, self.parts)
            except torch.OutOfMemoryError as error:
                self._more_parts(error, alone=not hasattr(self.trainer.strategy, "shard"), cells=batch.n_cells)

    def _more_parts(self, error: torch.OutOfMemoryError, *, alone: bool, cells: int = 2**30) -> None:
        """Halve the parts, or say what to do where other ranks are in the middle of a collective, or none is left."""
        tokens = self._step_batches[-1].n_tokens
        if not alone or self.parts >= cells:
            raise ValueError(
                f"rank {self.trainer.global_rank} ran out of memory with {tokens} tokens in a micro-batch: lower "
                "data.tokens_per_batch, let data.auto_budget=true find it, or with strategy=ddp strategy.overlap=false"
            ) from error
        self.parts *= 2
        log.warning("Out of memory with %d tokens: splitting each micro-batch into %d parts.", tokens, self.parts)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _judges(self) -> list[Any]:
        trainer: Any = self.trainer
        return [callback for callback in trainer.callbacks if hasattr(callback, "judge")]

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of all gradients together and log it (Lightning's own refuses fused optimizers under bf16)."""
        engine = getattr(self.trainer.strategy, "deepspeed_engine", None)
        if engine is not None:  # it holds the gradients, and clips them in its step; its norm is that of the last step
            norm = engine.get_global_grad_norm()
        else:
            norm = nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val or float("inf"))
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if norm is not None:
            self.log("train/gradient_norm", norm)
        if engine is None or engine.is_gradient_accumulation_boundary():
            for callback in self._judges():
                callback.judge(self, optimizer, norm)

    def utilization(self, rate: float, mean_length: float) -> dict[str, float]:
        """``mfu`` and ``roof`` of one device, where its data sheet and the sizes of the model are known.

        Args:
            rate: real tokens per second of one device, over wall time.
            mean_length: sum of squared lengths / sum of lengths of the cells (Tbar).
        """
        peak, model = peak_of(torch.cuda.get_device_name(self.device)), self.about.get("config", {}).get("model", {})
        if peak is None or "feedforward" not in model:
            return {}
        causal = bool(self.about["causal"])
        predicted = self.task.predicted_share() if isinstance(self.task, Objective) else 0.0
        work = Work(model["layers"], model["width"], model["feedforward"], len(self.spec.vocab), not causal, predicted)
        share = peak / (peak_of("H200") or peak)
        roof = work.roof(mean_length, products=790e12 * share, attention=450e12 * share)
        return {"mfu": work.utilization(rate, mean_length, peak), "roof": rate / roof}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and metrics of held-out cells; a head's predictions are kept for the whole-epoch metrics."""
        self._evaluate("val", batch)
        if batch_idx == 0 and self.show_samples and "sample" in self.task.hooks:
            found = self.task.sample(self.backbone, batch)
            self.samples = {name: value.cpu().numpy() for name, value in found.items()}

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The same on the test cells."""
        self._evaluate("test", batch)

    def on_validation_epoch_end(self) -> None:
        """Metrics that need all cells at once (macro-F1)."""
        self._summarize("val")

    def on_test_epoch_end(self) -> None:
        """The same on the test cells."""
        self._summarize("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, np.ndarray]:
        """``index`` (B,), ``embedding`` (B, D) float32, and what the head predicts, for each cell."""
        try:
            return self._predict(batch)
        except torch.OutOfMemoryError:
            if batch.n_cells == 1:
                raise
        log.warning(
            "Out of memory with %d tokens: halving this batch; lower tokens_per_batch to avoid it.", batch.n_tokens
        )
        halves = [self.predict_step(half, batch_idx) for half in batch.split(2)]
        return {name: np.concatenate([half[name] for half in halves]) for name in halves[0]}

    def _predict(self, batch: Batch) -> dict[str, np.ndarray]:
        backbone: Any = CachedBackbone(self.backbone)  # a head mostly reads what was embedded
        head = self.task if isinstance(self.task, Head) else Head()
        embedding = embed(backbone, head.view(batch), self.spec.vocab)
        outputs = head.predict(backbone, batch)
        assert "embedding" not in outputs, f"{type(head).__name__}.predict gives 'embedding', the backbone's name"
        outputs = {"embedding": embedding, **outputs}
        arrays = {name: value.float().cpu().numpy() for name, value in outputs.items()}
        return {"index": batch.index.cpu().numpy(), **arrays}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give weights of earlier versions today's names, before they are loaded."""
        trained = checkpoint.get(TRAINED, {})
        for key in {"state_dict", "current_model_state"} & checkpoint.keys():  # the latter beside averaged weights
            checkpoint[key] = migrate_weights(checkpoint[key] | trained, checkpoint["scfm"]["config"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint describe itself."""
        checkpoint["scfm"] = self.about

    def _log(self, stage: str, metrics: Metrics, batch: Batch) -> None:
        """Log the scalars; averages over an epoch weigh each batch by what it averaged over."""
        scalars = {f"{stage}/{name}": value for name, value in metrics.items() if name != "n_targets"}
        if stage == "train":  # no look at n_targets here: it would make the GPU wait at every step
            self.log_dict(scalars, batch_size=batch.n_cells)
            self.log("loss", metrics["loss"].detach(), prog_bar=True, logger=False, batch_size=batch.n_cells)
        else:
            weight = max(int(metrics.get("n_targets", batch.n_cells)), 1)
            self.log_dict(scalars, batch_size=weight, on_step=False, on_epoch=True, sync_dist=True)

    def _evaluate(self, stage: str, batch: Batch) -> None:
        summed_up = "summarize" in self.task.hooks
        backbone: Any = CachedBackbone(self.backbone) if summed_up else self.backbone  # both read the same cells
        self._log(stage, self.task(backbone, batch), batch)
        if summed_up:
            self._seen.append(self.predict_labeled(backbone, batch))

    def _summarize(self, stage: str) -> None:
        if not self._seen:
            return
        summary = self.task.summarize(*self.join_labeled(self._seen))
        self._seen.clear()
        self.log_dict({f"{stage}/{name}": value for name, value in summary.items()}, sync_dist=False)

    def predict_labeled(self, backbone: Backbone, batch: Batch) -> dict[str, np.ndarray]:
        """The head's predictions, and the obs columns of the batch as ``target/NAME``; (B, ...) each, on the host.

        Open peaks are left out: their number differs between batches.
        """
        known = {name: values for name, values in batch.obs.items() if name != field_key(PEAKS)}
        values = self.task.predict(backbone, batch) | {f"target/{name}": values for name, values in known.items()}
        return {name: value.cpu().numpy() for name, value in values.items()}

    def join_labeled(
        self, parts: Sequence[Mapping[str, np.ndarray]]
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Predictions and obs columns of all cells on all devices, from the batches of this one (at least one)."""
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if self.trainer.world_size > 1:
            whole = {name: self._gather(value) for name, value in whole.items()}
        targets = {name.removeprefix("target/"): whole.pop(name) for name in list(whole) if name.startswith("target/")}
        return whole, targets

    def _gather(self, values: np.ndarray) -> np.ndarray:
        """The rows of all ranks, which may hold different numbers of them."""
        parts: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, values)
        return np.concatenate(parts)


def metrics_in_parts(task: Callable[[Batch], Metrics], batch: Batch, parts: int) -> Metrics:
    """The metrics of a batch, computed with the activations of one part in memory at a time.

    They are computed again in the backward pass: a third more work, for a memory that falls with the parts.

    Args:
        task: batch -> ``loss``, other means, and ``n_targets`` where they are not means over cells.
        batch: packed cells.
        parts: number of parts.
    """

    def run(part: Batch) -> Metrics:
        """The metrics of a part, with its own random numbers in both passes."""
        torch.manual_seed(part.seed)
        return task(part)

    pieces = batch.split(parts)
    if len(pieces) == 1:
        return run(batch)
    found = [recomputed(run, piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces]
    sizes = [part.get("n_targets", torch.tensor(piece.n_cells)) for part, piece in zip(found, pieces, strict=True)]
    total: Tensor = torch.stack([size.to(batch.ids.device) for size in sizes]).sum()
    means = {
        name: sum(part[name] * size for part, size in zip(found, sizes, strict=True)) / total.clamp(min=1)
        for name in found[0]
        if name != "n_targets"
    }
    return means | {"n_targets": total}
