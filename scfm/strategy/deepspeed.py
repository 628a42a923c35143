"""DeepSpeed's ZeRO, on GPUs and, for tests and small trials, on CPU."""

import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import nn

from scfm.strategy.init_on_rank0 import allocate, build_on_first_rank, send_buffers
from scfm.strategy.sharded import atomic_folder, describe_checkpoint


class DeepSpeed(DeepSpeedStrategy):
    """ZeRO stages 1 (optimizer states divided), 2 (gradients too) and 3 (weights too).

    A checkpoint is a folder; each rank writes its part. The last one of a run also holds the weights as a single file,
    so that it is read like any other; ``scfm-consolidate`` makes that file for the others.

    Args:
        stage: 1, 2 or 3.
        offload_optimizer: keep the optimizer states in host memory.
        offload_parameters: keep the weights in host memory (stage 3).
        bucket_size: elements that are communicated at once.
        persistence_threshold: stage 3 leaves smaller parameters undivided.
        timeout_minutes: how long a collective may take.

    Raises:
        ModuleNotFoundError: DeepSpeed is not installed.
    """

    def __init__(
        self,
        *,
        stage: int = 2,
        offload_optimizer: bool = False,
        offload_parameters: bool = False,
        bucket_size: int = 200_000_000,
        persistence_threshold: int = 100_000,
        timeout_minutes: float = 30.0,
    ) -> None:
        if find_spec("deepspeed") is None:
            raise ModuleNotFoundError(
                'this strategy needs DeepSpeed, which is not installed: pip install "scfm-framework[deepspeed]"'
            )
        if not torch.cuda.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        super().__init__(
            stage=stage,
            offload_optimizer=offload_optimizer,
            offload_parameters=offload_parameters,
            allgather_bucket_size=bucket_size,
            reduce_bucket_size=bucket_size,
            timeout=timedelta(minutes=timeout_minutes),
        )
        self._engine: Any = None
        self.kind = f"deepspeed_zero{stage}"
        assert isinstance(self.config, dict)
        self.config["zero_force_ds_cpu_optimizer"] = False
        if stage == 3:
            self.config["zero_optimization"]["stage3_param_persistence_threshold"] = persistence_threshold

    @property
    def _on_cpu(self) -> bool:
        return self.root_device.type == "cpu"

    def building(self) -> AbstractContextManager[None]:
        """The context in which to build the model: at stage 3 only the first rank builds it."""
        return build_on_first_rank(self.global_rank) if self.zero_stage_3 else nullcontext()

    def shard(self, module: nn.Module) -> None:
        """At stage 3, divide a built module over the ranks, one parameter after the other.

        The module is built outside ``deepspeed.zero.Init``, which breaks the initialization of transformers' models.
        """
        if not self.zero_stage_3 or any(hasattr(parameter, "ds_id") for parameter in module.parameters()):
            return
        import deepspeed

        self._init_config_if_needed()
        send_buffers(module, self.root_device)
        divide = deepspeed.zero.Init(config_dict_or_path=self.config, remote_device=self.remote_device, enabled=True)
        for parameter in module.parameters():
            allocate(parameter, self.root_device)
            parameter.data = parameter.data.to(self.root_device, divide.dtype)
            divide._zero_init_param(parameter)

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """None: :meth:`shard` divides what is already built."""
        yield

    def setup_environment(self) -> None:
        """Like Lightning's, which refuses everything except CUDA."""
        if self._on_cpu:
            super(DeepSpeedStrategy, self).setup_environment()
        else:
            super().setup_environment()

    def setup_distributed(self) -> None:
        """Like Lightning's, which needs CUDA devices."""
        if self._on_cpu:
            self.set_world_ranks()
            self._init_deepspeed_distributed()
        else:
            super().setup_distributed()

    def _auto_select_batch_size(self) -> int:
        return 1  # only for the log lines of DeepSpeed; batches are counted in tokens here

    def _get_process_group_backend(self) -> str:
        return "gloo" if self._on_cpu else super()._get_process_group_backend()

    def _setup_model_and_optimizer(self, model: nn.Module, optimizer: Any, lr_scheduler: Any = None) -> tuple[Any, Any]:
        """Like Lightning's, whose ``device_rank`` is None on a CPU."""
        import deepspeed

        self._engine, optimizer, _, _ = deepspeed.initialize(
            args=Namespace(device_rank=self.root_device.index or 0),
            config=self.config,
            model=model,
            model_parameters=[parameter for parameter in model.parameters() if parameter.requires_grad],
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        return self._engine, optimizer

    def _initialize_deepspeed_inference(self, model: nn.Module) -> None:
        """Evaluate with the engine of training; without one, the model is not divided and needs none."""
        self.model = self._engine or model
        if not self.zero_stage_3:
            self.model.to(self.root_device)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write the folder, and rename it when the part of every rank is on disk."""
        final = Path(self.broadcast(filepath))
        about = describe_checkpoint(checkpoint, self.kind, self.world_size)
        with atomic_folder(final, first=self.is_global_zero, barrier=self.barrier, about=about) as aside:
            super().save_checkpoint(checkpoint, aside, storage_options)

    def skip_step(self) -> None:
        """Have the engine drop the gradients of this optimizer step, on every rank."""
        zero = self.deepspeed_engine.optimizer
        update = zero._update_scale

        def overflow(found: bool) -> None:
            """Report an overflow once, then give the engine its own method back."""
            zero.overflow, zero._update_scale = True, update

        zero._update_scale = overflow  # every stage calls it before it decides whether to drop the step
