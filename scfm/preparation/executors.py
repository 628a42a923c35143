"""Executors of tasks: this process, threads or processes of this machine, or a dask cluster."""

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from typing import Any


class Serial(Executor):
    """Runs each task when it is submitted."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Run it now; the future holds its result or its error."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Local:
    """This machine. One worker is this process itself.

    Decompression, ranking and writing release the interpreter lock, so a few workers are threads, which start at once
    and share their memory; more workers are processes.

    Args:
        threads: the largest number of workers that are threads.
    """

    def __init__(self, threads: int = 4) -> None:
        self.threads = threads

    @contextlib.contextmanager
    def open(self, workers: int) -> Iterator[Executor]:
        """An executor with this number of workers."""
        if workers == 1:
            yield Serial()
            return
        executor: Executor
        if workers <= self.threads:
            executor = ThreadPoolExecutor(workers)
        else:
            context = multiprocessing.get_context("spawn")
            executor = ProcessPoolExecutor(workers, context, initializer=_end_with_parent, initargs=(os.getpid(),))
        try:
            yield executor
        finally:
            executor.shutdown(cancel_futures=True)


class Dask:
    """A ``dask.distributed`` cluster whose workers see the same files. Other workers repeat the tasks of a lost one.

    Args:
        scheduler: its address, ``tcp://host:8786``; None starts a cluster of ``workers`` processes on this machine.
    """

    def __init__(self, scheduler: str | None = None) -> None:
        self.scheduler = scheduler

    @contextlib.contextmanager
    def open(self, workers: int) -> Iterator[Executor]:
        """An executor on the cluster.

        Raises:
            ImportError: dask is not installed.
        """
        try:
            from distributed import Client
        except ImportError:
            raise ImportError('executor=dask needs dask; pip install "scfm-framework[dask]"') from None
        local = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
        with Client(self.scheduler) if self.scheduler else Client(**local) as client:
            yield client.get_executor(pure=False)


def run_all(
    executor: Executor, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], ahead: int
) -> Iterator[tuple[int, "Future[Any]"]]:
    """Run tasks and yield (number, finished future) as they finish, with at most ``ahead`` of them submitted.

    The bound matters for :class:`Serial`: the caller gets each result before the next task starts.
    """
    waiting: dict[Future[Any], int] = {}
    numbers = iter(range(len(tasks)))
    while True:
        for number in numbers:
            waiting[executor.submit(function, *tasks[number])] = number
            if len(waiting) >= ahead:
                break
        if not waiting:
            return
        done = next(iter(as_completed(waiting)))
        yield waiting.pop(done), done


def _end_with_parent(parent: int) -> None:
    """End this worker soon after its parent was killed: its results would not be used."""

    def watch() -> None:
        """End the process once it has another parent."""
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
