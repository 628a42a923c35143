"""``scfm-doctor``: what a bug report needs to know of a machine."""

import importlib.metadata
import logging
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from omegaconf import DictConfig
from packaging.requirements import Requirement
from torch import distributed

from scfm import __version__
from scfm.io import write_text
from scfm.model import attention

log = logging.getLogger(__name__)

#: Bytes of disk below which a run would not get far.
SPACE = 2**30

_PACKAGES = (
    "torch", "pytorch-lightning", "transformers", "datasets", "hydra-core", "anndata", "numpy", "pandas", "numba",
    "deepspeed", "wandb", "tensorboard", "peft", "scanpy", "hydra-submitit-launcher",
)  # fmt: skip


def run(cfg: DictConfig) -> str:
    """Write the text to the screen and, where ``cfg.output`` names one, to a file."""
    text = f"{report()}\n\n{conclusion(faults())}"
    log.info("%s", text)
    if cfg.output is not None:
        write_text(cfg.output, text + "\n")
    return text


def report() -> str:
    """One text; nothing in it names a user or a host."""
    parts = {
        "Versions": _versions(),
        "Devices": _devices(),
        "Attention": _attention(),
        "Communication": _communication(),
        "DeepSpeed": _deepspeed(),
        "Machine": _machine(),
    }
    return "\n\n".join("\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in parts.items())


def conclusion(found: Sequence[str]) -> str:
    """The last line: ready, or the first thing to do."""
    if found:
        return f"Not ready. Do this first: {found[0]}" + (f" ({len(found) - 1} more after that)" if found[1:] else "")
    if torch.cuda.is_available():
        return f"Ready: {torch.cuda.device_count()} GPU(s); take trainer=gpu. Try it: scfm-train trainer=gpu name=first"
    return f"Ready: {os.cpu_count()} cores, no GPU. Try it: scfm-train name=first"


def faults() -> list[str]:
    """What keeps scfm from running here, each with what to do, the most important first."""
    found = [f"pip install '{requirement}' (installed: {version})" for requirement, version in outdated()]
    if not torch.cuda.is_available() and shutil.which("nvidia-smi") and torch.version.cuda is None:
        found.append("this machine has an NVIDIA GPU and a torch without CUDA: pip install --force-reinstall torch")
    elif not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        found.append(f"torch (CUDA {torch.version.cuda}) does not see the GPU: update its driver, see nvidia-smi")
    if not os.access(Path.cwd(), os.W_OK):
        found.append("change to a folder that you may write to; runs are written to outputs/ in it")
    elif shutil.disk_usage(Path.cwd()).free < SPACE:
        found.append("free some disk: less than 1 GiB is left where runs are written")
    return found


def outdated() -> Iterator[tuple[str, str]]:
    """Requirements of scfm that the installed packages do not meet, and what is installed."""
    try:
        required = importlib.metadata.requires("scfm-framework") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout that was never installed
        return
    for requirement in map(Requirement, required):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield f"{requirement.name}{requirement.specifier}", "none"
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name}{requirement.specifier}", version


def _versions() -> Iterator[str]:
    yield f"scfm {__version__}, Python {platform.python_version()}, {platform.platform()}"
    for name in _PACKAGES:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{name}: not installed"


def _devices() -> Iterator[str]:
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        yield f"no GPU that torch can use (torch is built for {built or 'CPU only'})"
    for i in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(i)
        free, total = torch.cuda.mem_get_info(i)
        memory = f"{free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        yield f"GPU {i}: {device.name}, sm_{device.major}{device.minor}, {memory}"
    if torch.cuda.is_available():
        bf16 = torch.cuda.is_bf16_supported()
        yield f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, bf16 {bf16}"
    capability = torch.backends.cpu.get_cpu_capability()
    yield f"CPU: {os.cpu_count()} cores, {torch.get_num_threads()} threads of torch, {capability}"


def _attention() -> Iterator[str]:
    kinds = [("cuda", torch.bfloat16), ("cuda", torch.float32)] if torch.cuda.is_available() else []
    for device, dtype in [*kinds, ("cpu", torch.float32)]:
        path, reason = attention.attention_path(torch.device(device), dtype, 64)
        yield f"{device}, {str(dtype).removeprefix('torch.')}: {path} ({reason})"


def _communication() -> Iterator[str]:
    yield f"gloo: {distributed.is_gloo_available()}"
    yield f"nccl: {distributed.is_nccl_available()}" + (
        f", version {'.'.join(map(str, torch.cuda.nccl.version()))}" if torch.cuda.is_available() else ""
    )
    wanted = (
        "NCCL_",
        "GLOO_",
        "MASTER_",
        "WORLD_SIZE",
        "SLURM_JOB_ID",
        "SLURM_NTASKS",
        "CUDA_VISIBLE_DEVICES",
        "OMP_NUM",
    )
    for name in sorted(os.environ):
        if name.startswith(wanted) and name != "MASTER_ADDR":
            yield f"{name}={os.environ[name]}"


def _deepspeed() -> Iterator[str]:
    if find_spec("deepspeed") is None:
        yield 'not installed: pip install "scfm-framework[deepspeed]"'
        return
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.accelerator import get_accelerator
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    yield f"accelerator {get_accelerator()._name}"
    for name in ("cpu_adam", "fused_adam", "async_io"):
        if name in ALL_OPS:
            fits = ALL_OPS[name].is_compatible(verbose=False)
            yield f"op {name}: {'can be built here' if fits else 'cannot be built here'}"


def _machine() -> Iterator[str]:
    here = shutil.disk_usage(Path.cwd())
    yield f"disk of the working folder: {here.free / 2**30:.0f} of {here.total / 2**30:.0f} GiB free"
    shared = Path("/dev/shm")
    if shared.is_dir():
        yield f"/dev/shm: {shutil.disk_usage(shared).free / 2**30:.1f} GiB free (workers of the loader use it)"
    if hasattr(os, "sysconf") and sys.platform.startswith("linux"):
        yield f"memory: {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
