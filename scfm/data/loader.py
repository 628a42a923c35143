"""The loader of a rank: it reads micro-batches and keeps its position."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.queues import Queue
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from scfm.batch import Batch
from scfm.data.order import HELD_OUT, TRAIN, Order, batch_seed
from scfm.data.packing import pack
from scfm.store.token_store import TokenStore
from scfm.types import field_key


class PackedCells(Dataset[Batch]):
    """Turns (store rows, seed) into a packed batch; in a worker process or in this one."""

    def __init__(
        self,
        store: TokenStore,
        labels: Sequence[str] = (),
        max_length: int | None = None,
        *,
        counts: bool = False,
        fields: Sequence[str] = (),
    ) -> None:
        self.store, self.max_length, self.counts, self.fields = store, max_length, counts, tuple(fields)
        self._obs = {label: store.obs(label) for label in labels}

    def __getitem__(self, item: tuple[np.ndarray, int]) -> Batch:
        rows, seed = item
        obs = {label: values[rows] for label, values in self._obs.items()}
        obs |= {field_key(kind): self.store.field(kind, rows) for kind in self.fields}
        counts = self.store.counts(rows, self.max_length) if self.counts else None
        batch = pack(self.store.gather(rows, self.max_length, np.int64), rows, obs=obs, seed=seed, counts=counts)
        # torch itself would do so later in a thread, whose errors nobody hears: the training would wait for ever
        return batch if get_worker_info() is None else batch.share_memory()


class MicroBatches(Sampler[tuple[np.ndarray, int]]):
    """The micro-batches of one rank from a position on: (rows, seed) each.

    Attributes:
        epoch: the epoch to iterate next.
        step: micro-batches of that epoch that all ranks together have already taken.
    """

    def __init__(self, order: Order, *, rank: int, world: int, held_out: bool) -> None:
        self.order, self.rank, self.world = order, rank, world
        self.stream = HELD_OUT if held_out else TRAIN
        self.epoch = self.step = 0

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        plan = self.order.epoch(self.epoch)
        for step in range(self.step + self.rank, len(plan), self.world):
            yield plan[step], batch_seed(self.order.seed, self.stream, self.epoch, step)


#: Why processes that read ahead may fail, and what helps.
_ALONE = (
    "it was killed, memory or /dev/shm is full or may not be written to, or too many files are open (ulimit -n); with "
    "data.workers=0 the training process reads batches itself"
)


def _require_shared_memory() -> None:
    """Refuse to start processes where they could share nothing: torch would leave a traceback beside the error.

    Raises:
        OSError: /dev/shm cannot be written to.
    """
    try:
        get_context("fork").Lock()
    except OSError as error:
        raise OSError(f"no process can be started that reads batches ahead ({error}): {_ALONE}") from error


def _end_with_lost_batch(worker: int) -> None:
    """In a process that reads ahead: end where a batch cannot be sent, for which training would wait for ever."""
    Queue._on_queue_feeder_error = staticmethod(lambda error, batch: os._exit(1))  # type: ignore[attr-defined]


def _in_sentences(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Batches that other processes read, with their errors in one sentence, as where this process reads them.

    Raises:
        OSError: one of the processes was ended, or memory that processes share is full.
        Exception: what one of them raised, without its traceback in the text.
    """
    try:
        yield from batches
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        shared = any(word in lines[-1] + lines[0] for word in ("shared memory", "torch_", "is killed", "exited"))
        if isinstance(error, ConnectionError | EOFError) or (isinstance(error, RuntimeError) and shared):
            with contextlib.suppress(RuntimeError):  # of torch's signal handler, which would else raise later, anywhere
                getattr(batches, "_shutdown_workers", lambda: None)()
            cause = (lines[-1] if lines[0].startswith("Caught ") else lines[0]) or type(error).__name__
            raise OSError(f"a process that reads batches ahead has ended ({cause}): {_ALONE}") from error
        if lines[0].startswith("Caught ") and isinstance(error, ValueError | OSError):
            raise type(error)(lines[-1].partition(": ")[2]) from error
        raise


class CellLoader(DataLoader[Batch]):
    """A DataLoader whose position is training state: the epoch and the micro-batches taken from it.

    Its state is the same on every rank and for any number of workers; Lightning stores it with each checkpoint.

    Args:
        cells: where micro-batches come from.
        order: which cells they are.
        rank: this process among ``world``.
        world: processes that share each optimizer step; ``len(order)`` is a multiple of it.
        held_out: every pass is the same (validation); otherwise each pass is the next epoch.
        workers: processes that read ahead.
        pin: page-locked memory, for transfer to a GPU.
    """

    def __init__(
        self,
        cells: PackedCells,
        order: Order,
        *,
        rank: int = 0,
        world: int = 1,
        held_out: bool = False,
        workers: int = 0,
        pin: bool = False,
    ) -> None:
        assert len(order) % world == 0, f"{len(order)} micro-batches do not divide over {world} ranks"
        self.place = MicroBatches(order, rank=rank, world=world, held_out=held_out)
        self.held_out = held_out
        super().__init__(
            cells,
            batch_size=None,
            sampler=self.place,
            num_workers=workers,
            pin_memory=pin,
            multiprocessing_context="fork" if workers else None,
            worker_init_fn=_end_with_lost_batch,
        )

    def __len__(self) -> int:
        return len(self.place.order) // self.place.world

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        place = self.place
        if self.held_out:
            place.step = 0
        elif place.step >= len(place.order):
            place.epoch, place.step = place.epoch + 1, 0
        # torch's iterator costs as much as a small batch: it is used only with workers or pinned memory
        elsewhere = self.num_workers > 0 or self.pin_memory
        if self.num_workers:
            _require_shared_memory()
        for batch in _in_sentences(super().__iter__()) if elsewhere else map(self.dataset.__getitem__, place):
            place.step += place.world
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Epoch and micro-batches taken from it by all ranks; also the division and the order they refer to."""
        place, order = self.place, self.place.order
        counted = {"n_batches": len(order), "world": place.world, "order": order.name}
        return {"epoch": place.epoch, "step": place.step, **counted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the next cell.

        Raises:
            ValueError: the order of the cells, or their division into micro-batches, has changed.
        """
        if state["n_batches"] != len(self.place.order):
            raise ValueError(
                f"the checkpoint was written when an epoch had {state['n_batches']} micro-batches, now it has "
                f"{len(self.place.order)}: resume on the same store with the same data.tokens_per_batch, "
                "data.max_length and split, and give data.tokens_per_step where the number of devices changes"
            )
        before, now = state.get("order", self.place.order.name), self.place.order.name
        if before != now:
            raise ValueError(
                f"the checkpoint was written in another order of the cells ({before}; now {now}): resume with the same "
                "seed, data.shuffle and store.weights"
            )
        self.place.epoch, self.place.step = state["epoch"], state["step"]
