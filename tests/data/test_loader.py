"""What a rank is fed, and that its position is one integer."""

import errno
import os
import signal

import numpy as np
import pytest
import torch

from scfm.data.loader import CellLoader, PackedCells
from scfm.data.order import Order
from scfm.data.shuffle import Shuffle
from scfm.types import Ragged


class MadeUpStore:
    """Cells of known length whose tokens say which cell they are."""

    def __init__(self, n_cells: int = 60) -> None:
        self.lengths = np.random.default_rng(0).integers(3, 12, n_cells)
        self.labels = np.arange(n_cells) % 4

    def gather(self, rows, max_length=None, dtype=np.uint16):
        parts = [np.full(self.lengths[row], row, dtype=dtype)[:max_length] for row in rows]
        return Ragged(np.concatenate(parts), np.concatenate([[0], np.cumsum([len(part) for part in parts])]))

    def obs(self, name):
        return self.labels


BLOCKS = Shuffle("blocks", block=4, pool=16)


def loader(rank=0, world=1, workers=0, held_out=False, multiple=4, how=None):
    store = MadeUpStore()
    order = Order(
        np.arange(60), store.lengths, tokens=40, multiple=multiple, seed=1, shuffle=not held_out, permutation=how
    )
    return CellLoader(PackedCells(store, ["type"]), order, rank=rank, world=world, workers=workers, held_out=held_out)


def test_a_packed_batch():
    batch = next(iter(loader()))
    np.testing.assert_array_equal(batch.lengths, MadeUpStore().lengths[batch.index])
    for start, stop, row in zip(batch.boundaries, batch.boundaries[1:], batch.index, strict=False):
        assert (batch.ids[start:stop] == row).all()
        np.testing.assert_array_equal(batch.positions[start:stop], np.arange(stop - start))
    np.testing.assert_array_equal(batch.obs["type"], batch.index % 4)
    assert batch.longest == batch.lengths.max()


def steps(world, workers, how, epochs=2):
    """Cells of each optimizer step of 4 micro-batches, whatever the ranks."""
    found = []
    for rank in range(world):
        one = loader(rank, world, workers, how=how)
        found.append([tuple(batch.index.tolist()) for _ in range(epochs) for batch in one])
    per_step = 4 // world
    return [
        sorted(cells for rank in found for batch in rank[step : step + per_step] for cells in batch)
        for step in range(0, len(found[0]), per_step)
    ]


@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 0), (2, 2), (4, 0), (4, 2)])
@pytest.mark.parametrize("how", [None, BLOCKS])
def test_the_cells_of_each_step_are_the_same_for_any_ranks_and_workers(world, workers, how):
    assert steps(world, workers, how) == steps(1, 0, how)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("stop", "how"), [(1, None), (5, None), (7, None), (5, BLOCKS)])
def test_resume_continues_with_the_very_next_cell(workers, stop, how):
    whole = loader(workers=workers, how=how)
    n = len(whole)
    uninterrupted = [(batch.seed, *batch.index.tolist()) for _ in range(2) for batch in whole]
    one = loader(workers=workers, how=how)
    taken = []
    for batch in one:
        taken.append((batch.seed, *batch.index.tolist()))
        if len(taken) == stop:
            break
    other = loader(workers=workers, how=how)
    other.load_state_dict(one.state_dict())
    assert len(other) == n
    rest = [(batch.seed, *batch.index.tolist()) for _ in range(2) for batch in other]
    assert taken + rest == uninterrupted


class FaultyStore(MadeUpStore):
    """Fails at the third batch: with an error, or by the end of the process."""

    def __init__(self, fault) -> None:
        super().__init__()
        self.fault, self.asked = fault, 0

    def gather(self, rows, max_length=None, dtype=np.uint16):
        self.asked += 1
        if self.asked == 3:
            self.fault()
        return super().gather(rows, max_length, dtype)


def refuse():
    raise ValueError("the part 0.arrow is damaged: copy it again")


def end():
    os.kill(os.getpid(), signal.SIGKILL)


def shared_memory():
    raise RuntimeError("unable to open shared memory object </torch_71_0> in read-write mode: No space left (28)")


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (refuse, ValueError, "^the part 0.arrow is damaged: copy it again$"),
        (end, OSError, "a process that reads batches ahead has ended .*data.workers=0"),
        (shared_memory, OSError, "a process that reads batches ahead has ended .*/dev/shm is full"),
    ],
)
def test_a_fault_in_another_process_is_one_sentence(fault, error, message):
    store = FaultyStore(fault)
    order = Order(np.arange(60), store.lengths, tokens=40, multiple=4, seed=1)
    with pytest.raises(error, match=message) as caught:
        list(CellLoader(PackedCells(store), order, workers=1))
    assert "\n" not in str(caught.value)


def test_a_full_shared_memory_ends_the_run_and_does_not_stop_it_for_ever(monkeypatch):
    """torch shares a batch in a thread, whose error is printed and forgotten."""

    def full(storage):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    store = MadeUpStore()
    order = Order(np.arange(60), store.lengths, tokens=40, multiple=4, seed=1)
    with pytest.raises(OSError, match="a process that reads batches ahead has ended .*/dev/shm is full.*workers=0"):
        list(CellLoader(PackedCells(store), order, workers=2))
    assert len(list(CellLoader(PackedCells(store), order))) == len(order)


def test_a_batch_that_cannot_be_sent_ends_the_run_and_does_not_stop_it_for_ever(monkeypatch):
    """As where the process may open no more files."""

    def full(descriptor):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("multiprocessing.reduction.DupFd", full)
    store = MadeUpStore()
    order = Order(np.arange(60), store.lengths, tokens=40, multiple=4, seed=1)
    with pytest.raises(OSError, match=r"a process that reads batches ahead has ended .*ulimit -n.*data\.workers=0"):
        list(CellLoader(PackedCells(store), order, workers=2))


def test_a_shared_memory_that_cannot_be_written_to_is_one_sentence(monkeypatch):
    class NoLocks:
        def Lock(self):
            raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("scfm.data.loader.get_context", lambda method: NoLocks())
    store = MadeUpStore()
    order = Order(np.arange(60), store.lengths, tokens=40, multiple=4, seed=1)
    with pytest.raises(OSError, match=r"no process can be started .*Read-only.*data\.workers=0"):
        list(CellLoader(PackedCells(store), order, workers=2))


def test_a_finished_epoch_resumes_with_the_next():
    one = loader()
    list(one)
    other = loader()
    other.load_state_dict(one.state_dict())
    assert [batch.seed for batch in other] == [batch.seed for batch in one]


def test_validation_is_the_same_at_every_pass():
    one = loader(held_out=True)
    first, second = ([(batch.seed, *batch.index.tolist()) for batch in one] for _ in range(2))
    assert first == second
    assert [cell for batch in first for cell in batch[1:]] == list(range(60))
