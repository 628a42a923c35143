"""Checkpoint folders of shards, read without running what is pickled in them.

Torch's distributed checkpoint and DeepSpeed pickle what stands beside the weights, and their own readers run whatever
a pickle asks for. Here it may ask for the few classes that describe tensors, and for nothing else.
"""

import importlib
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from scfm.checkpoint import read_state
from scfm.strategy.fsdp2 import METADATA
from scfm.trust.archive import archive_fault

#: What ``.metadata`` of torch's distributed checkpoint is made of.
_LAYOUT = {
    "torch.distributed.checkpoint.metadata": (
        "Metadata TensorStorageMetadata BytesStorageMetadata ChunkStorageMetadata TensorProperties MetadataIndex "
        "StorageMeta _MEM_FORMAT_ENCODING"
    ),
    "torch.distributed.checkpoint.filesystem": "_StorageInfo",
    "torch.serialization": "_get_layout",
    "torch": "Size",
    "pathlib": "Path PosixPath PurePosixPath",
    "collections": "OrderedDict",
}
#: What DeepSpeed pickles beside tensors and plain values.
_DEEPSPEED = (
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.utils.tensor_fragment.fragment_address",
)


class _OnlyLayout(pickle._Unpickler):
    """Builds descriptions of tensors. Python's own unpickler: the compiled one makes room for any number of memos."""

    def find_class(self, module: str, name: str) -> Any:
        known = name in _LAYOUT.get(module, "").split()
        if not known and not (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return getattr(importlib.import_module(module), name)


class _Reader(dcp.FileSystemReader):
    """Torch's reader with metadata that were read already."""

    def __init__(self, folder: Path, metadata: Metadata) -> None:
        super().__init__(folder)
        self._metadata = metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What :func:`read_layout` found."""
        self._metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return self._metadata


def read_layout(folder: Path) -> Metadata:
    """Which tensors lie where in a folder of torch's distributed checkpoint.

    Raises:
        ValueError: it is damaged, asks for other classes, or names files outside the folder.
    """
    path = folder / ".metadata"
    try:
        with path.open("rb") as file:
            found = _OnlyLayout(file).load()
        names = {info.relative_path for info in found.storage_data.values()}
        packed = any(info.transform_descriptors for info in found.storage_data.values())
    except Exception as error:  # a file that was made to be wrong can be wrong in any way
        raise ValueError(f"{path} is damaged or not safe: {error}") from error
    for name in names:
        own = isinstance(name, str) and name == Path(name).name and name not in ("", "..")
        if packed or not own or (folder / name).is_symlink():
            raise ValueError(f"{path} is not safe: it names the file {name!r}, expected one of its own folder")
    return found


def read_shards(folder: Path) -> dict[str, Any]:
    """The weights of a folder of torch's distributed checkpoint, gathered, and what stands beside them.

    Raises:
        ValueError: a part is damaged or not safe.
    """
    layout, prefix = read_layout(folder), "state_dict."
    parts: dict[str, Any] = {name: part for name, part in layout.state_dict_metadata.items() if name.startswith(prefix)}
    held = sum(path.stat().st_size for path in folder.glob("*.distcp"))
    sizes = [
        part.properties.dtype.itemsize * part.size.numel() if isinstance(part, TensorStorageMetadata) else -1
        for part in parts.values()
    ]
    if not sizes or min(sizes) < 0 or sum(sizes) > held:
        raise ValueError(f"{folder} is damaged: its weights claim {sum(sizes):,} bytes, its shards hold {held:,}")
    weights = {name: torch.empty(part.size, dtype=part.properties.dtype) for name, part in parts.items()}
    try:
        dcp.load(weights, storage_reader=_Reader(folder, layout), no_dist=True)
    except Exception as error:
        raise ValueError(
            f"a shard of {folder} is damaged ({type(error).__name__}); use an earlier checkpoint"
        ) from error
    return {**read_state(folder / METADATA), "state_dict": {name.removeprefix(prefix): weights[name] for name in parts}}


@contextmanager
def plain_loads() -> Iterator[None]:
    """Inside, whoever calls ``torch.load`` gets tensors, plain values and the classes of DeepSpeed's shards alone."""
    known = [getattr(importlib.import_module(module), name) for module, name in _found_deepspeed()]
    with _forced("1"), torch.serialization.safe_globals(known):
        yield


@contextmanager
def trusted_loads() -> Iterator[None]:
    """Inside, whoever calls ``torch.load`` decides what is loaded, also after :func:`guard_resume`."""
    with _forced("0"):
        yield


@contextmanager
def _forced(value: str) -> Iterator[None]:
    """Have torch force plain loads (``1``) or not (``0``) for a while."""
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before


def guard_resume(folder: Path) -> None:
    """Before a run resumes from shards of another run: have this process run nothing that is pickled in them.

    Raises:
        ValueError: a part is damaged or not safe.
    """
    if (folder / ".metadata").exists():
        read_layout(folder)
    require_whole_shards(folder)
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    torch.serialization.add_safe_globals(
        [getattr(importlib.import_module(module), name) for module, name in _found_deepspeed()]
    )


def _found_deepspeed() -> Iterator[tuple[str, str]]:
    for path in _DEEPSPEED:
        module, _, name = path.rpartition(".")
        try:
            if hasattr(importlib.import_module(module), name):
                yield module, name
        except ImportError:
            return


def require_whole_shards(folder: Path) -> None:
    """Refuse shards of DeepSpeed that lie elsewhere or have changed since they were written.

    Raises:
        ValueError: naming the shard.
    """
    for path in sorted(folder.glob("checkpoint/*.pt")):
        fault = "it is a link" if path.is_symlink() else archive_fault(path)
        if fault is not None:
            raise ValueError(f"the shard {path} is damaged: {fault}; use an earlier checkpoint")
