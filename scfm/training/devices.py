"""The devices and processes of a run: what this machine has, and which rank this process is."""

import os

import torch
from omegaconf import DictConfig
from pytorch_lightning.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment


def is_first_process() -> bool:
    """Whether this is rank 0, before there is a process group, by the variables of torchrun, Slurm and Lightning."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"))


def require_devices(trainer: DictConfig) -> None:
    """Refuse devices, or a precision, that are not there.

    Args:
        trainer: the node of the config.

    Raises:
        ValueError: naming what is there.
    """
    n_gpus = torch.cuda.device_count()
    wants_gpu = trainer.accelerator in ("gpu", "cuda")
    devices = trainer.devices
    if wants_gpu and n_gpus == 0:
        raise ValueError("trainer.accelerator=gpu, but torch sees no GPU here (scfm-doctor says why); take trainer=cpu")
    if wants_gpu and isinstance(devices, int) and devices > n_gpus:
        raise ValueError(f"trainer.devices={devices}, but this machine has {n_gpus} GPU(s)")
    uses_gpu = n_gpus > 0 and trainer.accelerator in ("gpu", "cuda", "auto")
    if uses_gpu and str(trainer.precision).startswith("bf16") and not torch.cuda.is_bf16_supported():
        raise ValueError(
            f"trainer.precision={trainer.precision}, but {torch.cuda.get_device_name()} has no bfloat16; "
            "take trainer.precision=16-mixed or 32-true"
        )


def cluster() -> list[ClusterEnvironment]:
    """The environment that gives this process its rank: torchrun or DeepSpeed's launcher, or else ``srun``.

    Lightning does not know DeepSpeed's launcher, and its handling of Slurm's signals saves in the middle of a step.
    """
    if TorchElasticEnvironment.detect() or "CROSS_RANK" in os.environ:
        return [TorchElasticEnvironment()]
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
