"""scfm-prepare beside a plain restatement of the published Geneformer tokenizer, on the same cells, in one run.

python benchmarks/prepare.py [--cells 40000] [--genes 1950] [--repeats 3] [--two-workers]

Counts cells per CPU-second: time of this process and of its children, user and system. The two alternate; the page
cache is warm. The restatement does what the published tokenizer does (ctheodoris/Geneformer,
transcriptome_tokenizer.py): reads the whole .h5ad, then chunk by chunk of 512 cells normalizes, divides by the medians,
and slices and argsorts row by row; then Dataset.from_generator, map of the cropping function, save_to_disk.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata as ad
import datasets
import h5py
import numpy as np
import scipy.sparse as sp
from made_up import GENES, gene_ids, write_h5ad

from scfm.preparation.api import prepare
from scfm.tokenizer import MedianTokenizer
from scfm.vocab import Vocab

SPECIALS = {"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"}


def made_up_tokenizer() -> MedianTokenizer:
    """Geneformer V2's scheme with the genes of the made-up file and random medians."""
    medians = np.random.default_rng(1).lognormal(0.3, 1.0, GENES + 4)
    vocab = Vocab((*SPECIALS.values(), *gene_ids()), {role: i for i, role in enumerate(SPECIALS)})
    return MedianTokenizer(vocab, {}, medians, name="geneformer_v2", max_length=4096, specials=SPECIALS)


def restated(path: Path, output: Path, tokenizer: MedianTokenizer, chunk: int = 512) -> None:
    """The published tokenizer, restated."""
    data = ad.read_h5ad(path)
    known = tokenizer.vocab.ids
    genes = np.array([gene in known for gene in data.var["ensembl_id"]])
    tokens = np.array([known[gene] for gene in data.var["ensembl_id"][genes]])
    factors = tokenizer.medians[tokens]
    cells = []
    for start in range(0, data.n_obs, chunk):
        part = data[start : start + chunk]
        totals = part.obs["n_counts"].to_numpy()[:, None]
        values = sp.csr_matrix(part.X[:, genes] / totals * 10_000 / factors)
        for i in range(values.shape[0]):
            row = values[i]
            cells.append(tokens[row.indices][np.argsort(-row.data)])
    labels = list(data.obs["cell_type"])

    def generate() -> Iterator[dict[str, object]]:
        for cell, label in zip(cells, labels, strict=True):
            yield {"input_ids": cell, "cell_type": label}

    def crop(example: dict[str, list[int]]) -> dict[str, object]:
        ids = [2, *example["input_ids"][:4094], 3]
        return {"input_ids": ids, "length": len(ids)}

    datasets.Dataset.from_generator(generate).map(crop).save_to_disk(str(output))


def cpu() -> float:
    """Seconds of CPU so far: this process and its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def timed(function: Callable[[Path], object]) -> tuple[float, float]:
    """CPU and wall seconds of ``function(a new folder)``."""
    with tempfile.TemporaryDirectory() as folder:
        began, wall = cpu(), time.perf_counter()
        function(Path(folder) / "out")
        return cpu() - began, time.perf_counter() - wall


def limits(path: Path, cells: int) -> dict[str, float]:
    """Cells per CPU-second if nothing were done but inflating the file, or copying it in memory."""
    with h5py.File(path) as file:
        raw = [
            file[f"X/{name}"].id.read_direct_chunk((start,))[1]
            for name in ("data", "indices")
            if file[f"X/{name}"].compression == "gzip"
            for start in range(0, file[f"X/{name}"].shape[0], file[f"X/{name}"].chunks[0])
        ]
        entries = file["X/data"].shape[0]
        sizes = [file[f"X/{name}"].chunks[0] * 4 for name in ("data", "indices")] if raw else []
    found = {}
    if raw:
        try:
            from deflate import zlib_decompress
        except ImportError:
            began = time.process_time()
            for chunk in raw:
                zlib.decompress(chunk)
        else:
            began = time.process_time()
            for number, chunk in enumerate(raw):
                zlib_decompress(chunk, sizes[number >= len(raw) // 2])
        found["inflate"] = cells / (time.process_time() - began)
    source, target = np.ones(entries * 2, np.float32), np.ones(entries * 2, np.float32)
    began = time.process_time()
    np.copyto(target, source)  # into memory that is there: asking the system for it costs more than the copy
    found["memory"] = cells / (time.process_time() - began)
    return found


#: Runs of ours in a repeat, of which the mean counts: one is over in a moment, which may be a bad one of the machine.
RUNS = 5


def compare(path: Path, cells: int, repeats: int, tokenizer: MedianTokenizer) -> list[float]:
    """Ratios of each repeat; prints the figures."""
    ours, theirs = [], []

    def own(out: Path) -> None:
        prepare(path, out, tokenizer, obs=["cell_type"], workers=1)

    for _ in range(repeats):
        theirs.append(timed(lambda out: restated(path, out, tokenizer))[0])
        ours.append(statistics.mean(timed(own)[0] for _ in range(RUNS)))
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    rate = cells / statistics.median(ours)
    print(f"  restated  {cells / statistics.median(theirs):10,.0f} cells/CPU-s")
    print(f"  scfm      {rate:10,.0f} cells/CPU-s")
    print(f"  ratio     {statistics.median(ratios):10.1f}  ({min(ratios):.1f} to {max(ratios):.1f}, {repeats} repeats)")
    for name, limit in limits(path, cells).items():
        print(f"  {rate / limit:.0%} of the {name} limit ({limit:,.0f} cells/CPU-s)")
    return ratios


#: Files of the comparison of workers: a corpus is many files, and takes longer than its plan and its report.
FILES = 8


def by_workers(path: Path, cells: int, workers: int, tokenizer: MedianTokenizer) -> float:
    """Wall seconds for several files with so many workers, from the call to the published store."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        files = [Path(folder) / f"{number}.h5ad" for number in range(FILES)]
        for file in files:
            os.link(path, file)
        options = {"workers": workers, "cells_per_part": -(-cells // 4)}
        return timed(lambda out: prepare(files, out, tokenizer, **options))[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=40_000)
    parser.add_argument("--genes", type=int, default=1950, help="genes of a cell, about")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--two-workers", action="store_true", help="also compare two workers with one, by wall time")
    parser.add_argument("--json", type=Path, help="also write the ratios here")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    tokenizer, results = made_up_tokenizer(), {}
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        small = Path(folder) / "small.h5ad"
        write_h5ad(small, 1000, args.genes, None)
        timed(lambda out: prepare(small, out, tokenizer, obs=["cell_type"], workers=1))  # compiles
        for compression in ("gzip", None):
            path = Path(folder) / f"{compression}.h5ad"
            entries = write_h5ad(path, args.cells, args.genes, compression)
            print(
                f"\n{args.cells:,} cells, {entries / args.cells:,.0f} genes each, {compression or 'uncompressed'} .h5ad"
            )
            results[compression or "none"] = compare(path, args.cells, args.repeats, tokenizer)
            if args.two_workers:
                pairs = [[by_workers(path, args.cells, n, tokenizer) for n in (1, 2)] for _ in range(args.repeats)]
                one, two = (statistics.median(times) for times in zip(*pairs, strict=True))
                print(f"  {FILES} such files: two workers are {one / two:.2f} times as fast ({one:.1f} s, {two:.1f} s)")
    if args.json:
        args.json.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
