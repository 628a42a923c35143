"""Cells ranked per CPU-second: our exact kernel, and the published way (NumPy, row by row), on the same cells.

    python benchmarks/kernel.py [--cells 4000] [--genes 20000] [--repeats 7]

Made-up counts: about 1,950 genes a cell (5-95 %: 1,000 to 3,200), 60 % of them with a single count, the columns in
random order of token ids. One process, one thread; each repeat times all variants in turn, the median counts. The
tokens of both are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.sparse import csr_matrix

from scfm.tokenizer.kernel import rank


def made_up_cells(n_cells: int, n_genes: int, seed: int = 0) -> csr_matrix:
    """Counts (n_cells, n_genes) float32, as anndata keeps them."""
    rng = np.random.default_rng(seed)
    share = rng.lognormal(0, 1.6, n_genes)
    share /= share.sum()
    lengths = np.clip(rng.lognormal(np.log(1850), 0.34, n_cells), 300, n_genes // 3).astype(int)
    indices, data = [], []
    for length in lengths:
        genes = np.sort(np.argpartition(rng.exponential(size=n_genes) / share, length)[:length])
        mean = rng.gamma(0.6, 1.2, length) * (share[genes] * n_genes) ** 0.3
        indices.append(genes.astype(np.int32))
        data.append((1 + rng.poisson(mean)).astype(np.float32))
    indptr = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    return csr_matrix((np.concatenate(data), np.concatenate(indices), indptr), shape=(n_cells, n_genes))


def published(counts: csr_matrix, columns: np.ndarray, totals: np.ndarray, medians: np.ndarray, limit: int) -> list:
    """Geneformer's tokenizer restated: normalize 512 cells, then slice and argsort cell by cell."""
    tokens = []
    for start in range(0, counts.shape[0], 512):
        block = counts[start : start + 512].astype(np.float64)
        block = csr_matrix(block.multiply(10000.0 / totals[start : start + 512, None]).multiply(1 / medians[columns]))
        for row in range(block.shape[0]):
            cell = slice(block.indptr[row], block.indptr[row + 1])
            order = np.argsort(-block.data[cell])
            tokens.append(columns[block.indices[cell]][order][:limit])
    return tokens


def oracle(counts: csr_matrix, columns: np.ndarray, totals: np.ndarray, medians: np.ndarray, limit: int) -> list:
    """The contract in plain NumPy: float64, ties by ascending token."""
    tokens = []
    for row in range(counts.shape[0]):
        cell = slice(counts.indptr[row], counts.indptr[row + 1])
        ids = columns[counts.indices[cell]]
        value = counts.data[cell].astype(np.float64) / totals[row] * 10000.0 / medians[ids]
        tokens.append(ids[np.lexsort((ids, -value))][:limit])
    return tokens


def main() -> None:
    """Compare, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=4000)
    parser.add_argument("--genes", type=int, default=20000)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    counts = made_up_cells(args.cells, args.genes)
    rng = np.random.default_rng(1)
    columns = (4 + rng.permutation(args.genes)).astype(np.int32)
    medians = np.concatenate([np.ones(4), rng.lognormal(0.35, 0.6, args.genes)])
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel() * 1.05
    size = len(medians)
    blocks = [(counts[at : at + 1024], totals[at : at + 1024]) for at in range(0, args.cells, 1024)]

    def ours(limit: int, scaled: bool = True) -> Callable[[], object]:
        def run() -> None:
            for block, n in blocks:
                rank(block, columns, size, limit, medians=medians if scaled else None, totals=n)

        return run

    got, _ = rank(counts, columns, size, 4094, medians=medians, totals=totals)
    same = sum(np.array_equal(got[i], want) for i, want in enumerate(oracle(counts, columns, totals, medians, 4094)))
    variants = {
        "ours, value over median, 4094 genes": ours(4094),
        "ours, value over median, 2048 genes": ours(2048),
        "ours, counts, 126 genes": ours(126, scaled=False),
        "published way, 4094 genes": lambda: published(counts, columns, totals, medians, 4094),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(args.repeats + 1):
        for name, run in variants.items():
            start = time.process_time()
            run()
            if repeat:
                seconds[name].append(time.process_time() - start)
    lengths = np.diff(counts.indptr)
    print(f"{args.cells:,} cells, {lengths.mean():,.0f} genes a cell, {(counts.data == 1).mean():.0%} with one count;")
    print(f"{same:,} of {args.cells:,} cells equal the float64 oracle at every position")
    slowest = statistics.median(seconds["published way, 4094 genes"])
    for name, times in seconds.items():
        middle = statistics.median(times)
        span = f"{args.cells / max(times):,.0f} - {args.cells / min(times):,.0f}"
        rate = f"{args.cells / middle:10,.0f} cells / CPU-s ({span})"
        print(f"{name:40s} {rate}  {slowest / middle:5.1f} x the published way")


if __name__ == "__main__":
    main()
