"""PyTorch's fully sharded data parallelism (``fully_shard``), on GPUs and, for tests, on CPU."""

from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import distributed, nn
from torch.distributed.checkpoint import async_save
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from scfm.strategy.init_on_rank0 import build_on_first_rank, send_buffers
from scfm.strategy.sharded import atomic_folder, describe_checkpoint, finish_folder, make_part_folder

#: Lightning's name for what a folder of shards holds beside them.
METADATA = "meta.pt"
_STEPS = ("training_step", "validation_step", "test_step", "predict_step")


class FSDP2(ModelParallelStrategy):
    """Weights, gradients and optimizer states are divided over the devices; each layer is gathered when it runs.

    Use it if the optimizer states do not fit one device, above about a billion parameters; below, DDP is faster.
    Only the first rank holds the whole model, in host memory, so every strategy starts from the same weights.
    Checkpoints are single files like those of every other strategy, or with ``sharded_checkpoint`` a folder that each
    rank writes its part of (torch's distributed checkpoint).

    Args:
        sharded_checkpoint: save a folder of shards; ``scfm-consolidate`` makes a single file of it.
        reshard_after_forward: free a layer's gathered weights after its forward pass and gather them again in the
            backward pass: less memory, more communication.
        timeout_minutes: how long a collective may take.
    """

    #: Of its checkpoint folders; they are read by any number of ranks.
    kind = "fsdp2"

    def __init__(
        self, *, sharded_checkpoint: bool = False, reshard_after_forward: bool = True, timeout_minutes: float = 30.0
    ) -> None:
        super().__init__(
            data_parallel_size="auto",
            tensor_parallel_size=1,
            save_distributed_checkpoint=sharded_checkpoint,
            timeout=timedelta(minutes=timeout_minutes),
        )
        self.reshard_after_forward = reshard_after_forward
        self.sharded_checkpoint = sharded_checkpoint
        self._writers: Any = None  # a process group of their own: training uses the other at the same time

    def setup_environment(self) -> None:
        """Shard over all devices: one data-parallel dimension over nodes and devices."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def building(self) -> AbstractContextManager[None]:
        """The context in which to build the model: see :func:`scfm.strategy.init_on_rank0.build_on_first_rank`."""
        return build_on_first_rank(self.global_rank)

    def shard(self, module: nn.Module) -> None:
        """Divide a module over the devices, in place; called by its ``configure_model``.

        Args:
            module: the weights of the first rank are used.
        """
        if isinstance(module, FSDPModule):
            return  # a second stage of the trainer (test after fit)
        device = self.root_device
        whole = {name: value.cpu() for name, value in module.state_dict().items()} if self.global_rank == 0 else {}
        send_buffers(module, device)
        _empty(module)
        precision = self.precision_plugin.precision
        low = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(str(precision))
        policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32 if low else None)
        options: dict[str, Any] = {"mesh": self.device_mesh["data_parallel"], "mp_policy": policy}
        for layer in _layers(module):
            fully_shard(layer, reshard_after_forward=self.reshard_after_forward, **options)
        fully_shard(module, **options)
        for name in _STEPS:
            register_fsdp_forward_method(module, name)
        _allocate(module, device)
        set_model_state_dict(
            module, whole, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=True)
        )

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """A file as in other strategies; a folder is renamed when the part of every rank is on disk.

        With ``files.asynchronous`` torch's distributed checkpoint copies the shards to host memory, and writes them
        during training.
        """
        if not self.sharded_checkpoint:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        final = Path(self.broadcast(filepath))
        about = describe_checkpoint(checkpoint, self.kind, self.world_size)
        if getattr(self.checkpoint_io, "asynchronous", False):
            self._save_in_background(checkpoint, final, about)
            return
        with atomic_folder(final, first=self.is_global_zero, barrier=self.barrier, about=about) as aside:
            super().save_checkpoint(checkpoint, aside, storage_options)

    def _save_in_background(self, checkpoint: dict[str, Any], final: Path, about: dict[str, Any]) -> None:
        """Each rank waits for its own part; the first, whose write ends after all others, renames the folder."""
        files: Any = self.checkpoint_io
        files.wait()
        self._writers = self._writers or distributed.new_group(backend="gloo")
        self.barrier()  # the folder of the save before this one has its name
        aside = make_part_folder(final, first=self.is_global_zero)
        self.barrier()
        state = {"state_dict": checkpoint.pop("state_dict")}
        state |= {f"optimizer_{i}": part for i, part in enumerate(checkpoint.pop("optimizer_states", []))}
        if self.is_global_zero:
            torch.save(checkpoint, aside / METADATA)
        written: Any = async_save(state, checkpoint_id=aside, process_group=self._writers)

        def finish() -> None:
            """Wait for the shards, then give the folder its name."""
            written.result()
            if self.is_global_zero:
                finish_folder(aside, final, about)

        files.run_in_background(finish)


def _layers(module: nn.Module) -> list[nn.Module]:
    """The entries of the longest ``nn.ModuleList``: the transformer layers."""
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    return max((list(layers) for layers in lists), key=len, default=[])


def _empty(module: nn.Module) -> None:
    """Free every parameter; tied ones stay tied."""
    for parameter in module.parameters():
        if not parameter.is_meta:
            empty = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)
            torch.utils.swap_tensors(parameter, empty)


def _allocate(module: nn.Module, device: torch.device) -> None:
    """Allocate memory for the shards; tied parameters stay tied."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        for part in module.modules():
            for parameter in part._parameters.values():
                if parameter is not None and parameter.is_meta:
                    made = nn.Parameter(torch.empty_like(parameter, device=device), parameter.requires_grad)
                    torch.utils.swap_tensors(parameter, made)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
    module._apply(lambda tensor: tensor)
