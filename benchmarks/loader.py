"""Cells and tokens per CPU-second of packed batches out of a token store, and how well its files are mixed in them.

    python benchmarks/loader.py [--cells 100000] [--tokens 65536] [--repeats 3]
    python benchmarks/loader.py --plan 20000000

A made-up store of 16 files, about 1,900 tokens a cell (380 MB at 100,000 cells), in the page cache, and the same cells
written shuffled. One process, one thread; each repeat times all ways in turn, the median counts, planning the epoch
included. Every way ends in the same packed batch. Mixing: the entropy of the source files of a batch, averaged over
batches, as a share of what a true shuffle has. `--plan` reads nothing: it plans an epoch of so many cells and prints
what that costs.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import datasets
import numpy as np

from scfm.batch import Batch
from scfm.data.loader import CellLoader, PackedCells
from scfm.data.order import Order
from scfm.data.packing import pack
from scfm.data.shuffle import Shuffle
from scfm.store.from_cells import write_store
from scfm.store.token_store import TokenStore
from scfm.store.verify import verify
from scfm.store.writer import Cells
from scfm.types import Ragged
from scfm.vocab import Vocab

FILES, GENES, SPECIALS = 16, 20_000, {"pad": 0, "mask": 1, "cls": 2, "eos": 3}
POOL = Shuffle("blocks", block=64, pool=16_384)
Way = Callable[[], Iterator[Batch]]


def made_up(n_cells: int, seed: int) -> tuple[Ragged, np.ndarray]:
    """Tokens of cells of about 1,900 genes, and the files they come from, one after the other."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(1_830), 0.34, n_cells), 300, 4_096).astype(np.int64)
    offsets = np.concatenate([[0], lengths.cumsum()])
    tokens = rng.integers(len(SPECIALS), GENES, offsets[-1], dtype=np.uint16)
    return Ragged(tokens, offsets), np.arange(n_cells) * FILES // n_cells


def write(path: Path, cells: Ragged, file: np.ndarray) -> Path:
    """A store of 16 parts."""
    vocab = Vocab((*(f"<{name}>" for name in SPECIALS), *(f"G{i}" for i in range(GENES))), SPECIALS)
    names, edges = np.array([f"c{i}" for i in range(len(cells))], dtype=object), np.linspace(0, len(cells), FILES + 1)
    whole = Cells(cells, names, file, np.arange(len(cells), dtype=np.uint64), {})
    parts = (whole[int(low) : int(high)] for low, high in pairwise(edges))
    tokenizer = {"name": "made up", "vocab": vocab.to_dict()}
    return write_store(path, parts, tokenizer=tokenizer, columns={}, files=[f"f{i}" for i in range(FILES)]).path


def ours(path: Path, tokens: int, how: Shuffle) -> Way:
    """The loader that training uses."""

    def batches() -> Iterator[Batch]:
        store = TokenStore.open(path)
        order = Order(np.arange(len(store)), store.lengths, tokens=tokens, permutation=how)
        yield from CellLoader(PackedCells(store, ["file"]), order)

    return batches


def library(path: Path, tokens: int, at_once: bool) -> Way:
    """`datasets`' own access to the same directory: a batch of rows at once, or row by row as a DataLoader does it."""

    def batches() -> Iterator[Batch]:
        table = datasets.load_from_disk(str(path)).select_columns(["input_ids", "file"]).with_format("numpy")
        order = np.random.default_rng(0).permutation(len(table))
        size = tokens // 1_950
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            found = table[rows] if at_once else [table[int(row)] for row in rows]
            lists = found["input_ids"] if at_once else [row["input_ids"] for row in found]
            file = found["file"] if at_once else np.array([row["file"] for row in found])
            yield packed(lists, rows, file)

    return batches


def packed(lists: list[np.ndarray], rows: np.ndarray, file: np.ndarray) -> Batch:
    """A batch of token lists."""
    offsets = np.concatenate([[0], np.cumsum([len(tokens) for tokens in lists])])
    return pack(Ragged(np.concatenate(lists), offsets), rows, obs={"file": file})


def sc_dataset(path: Path, tokens: int) -> Way:
    """The package scDataset on the same directory: blocks of 64 rows, 16 batches fetched at a time."""
    from scdataset import BlockShuffling, scDataset

    def columns(found: dict[str, list[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        lists = np.empty(len(found["file"]), dtype=object)
        lists[:] = found["input_ids"]
        return lists, np.asarray(found["file"])

    def batches() -> Iterator[Batch]:
        table = datasets.load_from_disk(str(path)).select_columns(["input_ids", "file"]).with_format("numpy")
        cells = scDataset(
            table,
            BlockShuffling(block_size=64),
            batch_size=tokens // 1_950,
            fetch_factor=16,
            seed=0,
            fetch_transform=columns,
            batch_callback=lambda fetched, rows: (fetched[0][rows], rows, fetched[1][rows]),
        )
        for lists, rows, file in cells:
            yield packed(list(lists), np.asarray(rows), file)

    return batches


def measure(way: Way, n_batches: int) -> tuple[float, float, float]:
    """Cells and tokens per CPU-second, and the mean entropy of a batch's files as a share of a true shuffle's."""
    cells = tokens = 0
    entropies, sizes = [], []
    began = time.process_time()
    spent = 0.0
    for batch in islice(way(), n_batches):
        spent += time.process_time() - began
        cells, tokens = cells + batch.n_cells, tokens + batch.n_tokens
        entropies.append(entropy(batch.obs["file"].numpy()))
        sizes.append(batch.n_cells)
        began = time.process_time()
    return cells / spent, tokens / spent, statistics.mean(entropies) / true_entropy(sizes)


def entropy(codes: np.ndarray) -> float:
    """Of the composition of some cells, bits."""
    share = np.bincount(codes) / len(codes)
    return float(-(share[share > 0] * np.log2(share[share > 0])).sum())


def true_entropy(sizes: list[int]) -> float:
    """What batches of such sizes have on average when every cell is drawn by itself."""
    rng = np.random.default_rng(1)
    drawn = sizes * max(1, 2_000 // len(sizes))
    return statistics.mean(entropy(rng.integers(0, FILES, size)) for size in drawn)


def about(path: Path) -> str:
    """Size of a store, and how long it takes to open and to verify."""
    began = time.process_time()
    store = TokenStore.open(path)
    opened, size = time.process_time() - began, sum(file.stat().st_size for file in path.iterdir())
    beside = size - 2 * int(store.lengths.sum())
    began = time.process_time()
    assert verify(path) == []
    rate = size / (time.process_time() - began)
    return (
        f"{size / len(store):,.0f} bytes a cell, {beside / len(store):,.0f} of them beside the tokens; "
        f"opened in {opened * 1e3:,.0f} ms, verified at {rate / 1e9:.1f} GB / CPU-s"
    )


def plan(n_cells: int) -> None:
    """Print what planning an epoch costs."""
    lengths = np.random.default_rng(0).integers(300, 4_096, n_cells)
    rows = np.arange(n_cells)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for how in (Shuffle("stored"), Shuffle("blocks"), Shuffle()):
        began = time.process_time()
        Order(rows, lengths, tokens=131_072, permutation=how).epoch(0)
        spent = time.process_time() - began
        print(f"an epoch of {n_cells:,} cells planned in {spent:.1f} CPU-s (data.shuffle={how.by})")
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 + rows.nbytes + lengths.nbytes
    print(f"at most {more / n_cells:.0f} bytes of memory a cell, rows and lengths included")


def main() -> None:
    """Make the stores, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=65_536, help="budget of a micro-batch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for the made-up stores; else the temporary folder")
    parser.add_argument("--plan", type=int, metavar="CELLS")
    args = parser.parse_args()
    if args.plan:
        plan(args.plan)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        run(Path(folder), args)


def run(folder: Path, args: argparse.Namespace) -> None:
    """All ways on stores in a folder."""
    cells, file = made_up(args.cells, 0)
    plain = write(folder / "plain", cells, file)
    mixed = np.random.default_rng(2).permutation(len(cells))
    shuffled = write(folder / "shuffled", TokenStore.open(plain).gather(mixed), file[mixed])
    most = max(1, args.cells * 1_950 // args.tokens)
    few = max(1, min(most, 20_000_000 // args.tokens))  # of the slow ways
    ways = {
        "every cell by itself (data.shuffle=cells)": (ours(plain, args.tokens, Shuffle()), most),
        "blocks of 64, a pool of 16,384 (data.shuffle=blocks)": (ours(plain, args.tokens, POOL), most),
        "shuffled store from end to end (data.shuffle=stored)": (ours(shuffled, args.tokens, Shuffle("stored")), most),
        "datasets, a batch of rows at once": (library(plain, args.tokens, at_once=True), few),
        "datasets, row by row": (library(plain, args.tokens, at_once=False), few),
    }
    try:
        ways["scDataset over datasets, blocks of 64"] = (sc_dataset(plain, args.tokens), few)
    except ImportError as error:
        print(f"scDataset is not compared: {error} (pip install scdataset)")
    try:
        import annbatch  # noqa: F401
    except ImportError as error:
        print(f"annbatch is not compared: {error}; it needs Python 3.12, and reads counts, not tokens")
    length = float(cells.lengths.mean())
    print(f"{args.cells:,} cells of {length:,.0f} tokens, {FILES} files, {args.tokens:,} tokens a batch")
    print(about(plain))
    report(ways, args.repeats)


def report(ways: dict[str, tuple[Way, int]], repeats: int) -> None:
    """Time all ways in turn and print the medians."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, (way, n_batches) in ways.items():
            result = measure(way, n_batches if repeat else min(n_batches, 50))
            if repeat:  # the first round compiles and warms
                found[name].append(result)
    for name, results in found.items():
        rates = sorted(rate for rate, _, _ in results)
        tokens, mixing = statistics.median(r[1] for r in results), statistics.mean(r[2] for r in results)
        print(
            f"{name:52s} {statistics.median(rates):10,.0f} cells / CPU-s ({rates[0]:,.0f} - {rates[-1]:,.0f}), "
            f"{tokens / 1e6:6,.0f} M tokens / CPU-s, mixing {mixing:.1%}"
        )


if __name__ == "__main__":
    main()
