"""Checkpoint files, written whole or not at all."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from scfm.io import atomic_write

log = logging.getLogger(__name__)


class SafeFiles(TorchCheckpointIO):
    """Writes checkpoint files, each whole or not at all.

    Args:
        asynchronous: write in the background while training goes on; costs a copy of the state in host memory.
    """

    def __init__(self, *, asynchronous: bool = False) -> None:
        self.asynchronous = asynchronous
        self._thread: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save; an error of a save in the background is raised by the next one."""
        if not self.asynchronous:
            write_checkpoint(checkpoint, Path(path))
            return
        self.wait()
        copy = apply_to_collection(checkpoint, Tensor, _on_host)
        self.run_in_background(lambda: write_checkpoint(copy, Path(path)))

    def run_in_background(self, work: Callable[[], None]) -> None:
        """Run a task in the background. Call :meth:`wait` before: there is one task at a time."""
        self._thread = self._thread or ThreadPoolExecutor(max_workers=1, thread_name_prefix="save")
        self._pending = self._thread.submit(work)

    def wait(self) -> None:
        """Wait for the task in the background, and raise its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def teardown(self) -> None:
        """Wait for the last save."""
        self.wait()


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint file, whole or not at all."""
    with atomic_write(path) as part, part.open("wb") as file:
        torch.save(checkpoint, file)


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
