"""Peak memory of scfm-prepare at two sizes of a corpus: it must not grow with the number of cells.

python benchmarks/prepare_memory.py [--cells 20000 200000] [--genes 1500] [--workers 2] [--bound 1.0]

Prints, for each size, wall and CPU seconds, and the peak resident memory of the process, of each worker, and of all
together (sampled; shared pages are divided among those who share them). Exits with 1 above the bound, in GB.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

from made_up import write_h5ad


def resident(pid: int) -> float:
    """Resident memory of a process in GB; pages that several processes share are divided among them (PSS)."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e6 for line in rollup.splitlines() if line.startswith("Pss:")), 0.0)


def children(pid: int) -> list[int]:
    """Processes below ``pid``."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found += [int(stat.parent.name), *children(int(stat.parent.name))]
    return found


class Watch(threading.Thread):
    """Samples the memory of this process and its children."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.own = self.largest_child = self.together = 0.0
        self._over = threading.Event()

    def run(self) -> None:
        """Until stopped."""
        while not self._over.wait(0.25):
            own, others = resident(os.getpid()), [resident(pid) for pid in children(os.getpid())]
            self.own = max(self.own, own)
            self.largest_child = max([self.largest_child, *others])
            self.together = max(self.together, own + sum(others))

    def stop(self) -> None:
        """End the sampling."""
        self._over.set()
        self.join()


def measure(path: str, output: str, workers: int, queue: "multiprocessing.Queue") -> None:
    """Prepare in a process of its own, so that sizes do not meet."""
    from prepare import made_up_tokenizer

    from scfm.preparation.api import prepare

    tokenizer = made_up_tokenizer()
    watch = Watch()
    watch.start()
    began = time.perf_counter()
    prepare(path, output, tokenizer, obs=["cell_type"], workers=workers)
    wall, times = time.perf_counter() - began, os.times()
    watch.stop()
    cpu = times.user + times.system + times.children_user + times.children_system
    queue.put((wall, cpu, watch.own, watch.largest_child, watch.together))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--genes", type=int, default=1500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--bound", type=float, default=1.0, help="GB, all processes together")
    args = parser.parse_args()
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for cells in args.cells:
            path = Path(folder) / f"{cells}.h5ad"
            write_h5ad(path, cells, args.genes, "gzip")
            context = multiprocessing.get_context("spawn")
            queue = context.Queue()
            process = context.Process(target=measure, args=(str(path), f"{folder}/{cells}", args.workers, queue))
            process.start()
            wall, cpu, own, child, together = queue.get()
            process.join()
            size = sum(p.stat().st_size for p in Path(folder, str(cells)).iterdir()) / 1e6
            peaks.append(together)
            print(
                f"{cells:>9,} cells  {wall:6.1f} s wall  {cpu:6.1f} CPU-s  {own:.2f} GB this process, "
                f"{child:.2f} GB a worker, {together:.2f} GB together  store {size:,.0f} MB",
                flush=True,
            )
            path.unlink()
    if max(peaks) > args.bound:
        sys.exit(f"{max(peaks):.2f} GB is above the bound of {args.bound} GB")


if __name__ == "__main__":
    main()
