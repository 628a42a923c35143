"""A corpus of many files with unlike genes, its vocabulary fitted: by step, beside the published tokenizer.

python benchmarks/corpus.py [--repeats 3] [--files 200] [--made-up] [--fixed] [--profile]

Takes 13 human files of ../shared/data where they are (29,974 cells, no two with the same genes), else made-up files.
Counts CPU-seconds of this process and its children; the two ways alternate and the page cache is warm. Ours resolves
the genes, fits the vocabulary and the medians, and tokenizes. The restatement of the published tokenizer (see
prepare.py) gets vocabulary, medians, the tokens of each file's genes and the totals of the cells for nothing.

--fixed prints the CPU-seconds that a file and a run cost without cells, from files of 16 cells; --profile where the
time goes, by function.
"""

import argparse
import cProfile
import functools
import json
import pstats
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import datasets
import numpy as np
import one_thread  # noqa: F401
import pandas as pd
import scipy.sparse as sp
from prepare import SPECIALS, cpu, timed

from scfm.preparation import job
from scfm.preparation.api import prepare
from scfm.store.token_store import TokenStore
from scfm.tokenizer import MedianTokenizer, from_dict

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
#: Human files of raw counts with 6,900 genes or more, without the two that are kept for judging.
NAMES = (
    "breast_tnbc_cid4465",
    "crohn_gut_scp1884_1020",
    "nsclc_dendritic_rogue",
    "pbmc3k",
    "placenta_cellxgene_220",
    "pbmc_4protocol",
    "pbmc_7study",
    "sc_mixology_cell_lines",
    "skin_ctcl_hc",
    "celltypist_sample",
    "hcl_fetal_thymus2",
    "pbmc_frozen_donor_a",
    "pisces_pbmc",
)
#: Steps of a run, by the function of scfm.preparation.job that does them.
STEPS = ("survey_files", "fix_corpus", "save_tokenizer", "check_genes", "encode_parts", "assemble_store")


def unfitted() -> MedianTokenizer:
    """Geneformer V2's scheme without a vocabulary."""
    return MedianTokenizer(name="geneformer_v2", max_length=4096, specials=SPECIALS)


def make_up(folder: Path, n_files: int, n_cells: int, seed: int = 0) -> list[Path]:
    """Files of ``n_cells`` cells, each with 15,000 to 25,000 genes of its own choice: symbols, or Ensembl ids."""
    from scfm.genes.table import table

    rng = np.random.default_rng(seed)
    known = [(gene, symbol) for gene, symbol in table("human").symbols.items() if symbol]
    paths = []
    for number in range(n_files):
        chosen = rng.choice(len(known), rng.integers(15_000, 25_000), replace=False)
        names = list(dict.fromkeys(known[i][number % 2] for i in chosen))
        chances = 0.3 / np.arange(1, len(names) + 1) ** 0.35
        counts = sp.csr_matrix(rng.poisson(rng.permutation(chances), (n_cells, len(names))).astype(np.float32))
        obs = pd.DataFrame(index=[f"f{number}c{i}" for i in range(n_cells)])
        paths.append(folder / f"made_up_{number:04d}.h5ad")
        ad.AnnData(counts, obs, pd.DataFrame(index=names)).write_h5ad(paths[-1], compression="gzip")
    return paths


def restated(paths: list[Path], columns: list[np.ndarray], output: Path, tokenizer: MedianTokenizer) -> None:
    """The published tokenizer over several files, restated."""
    cells: list[np.ndarray] = []
    for path, tokens in zip(paths, columns, strict=True):
        data = ad.read_h5ad(path)
        data.obs["n_counts"] = np.asarray(data.X.sum(axis=1)).ravel()
        known = np.flatnonzero(tokens >= 0)
        for start in range(0, data.n_obs, 512):
            part = data[start : start + 512]
            totals = part.obs["n_counts"].to_numpy()[:, None]
            values = sp.csr_matrix(part.X[:, known] / totals * 10_000 / tokenizer.medians[tokens[known]])
            for i in range(values.shape[0]):
                row = values[i]
                cells.append(tokens[known][row.indices][np.argsort(-row.data)])

    def generate() -> Iterator[dict[str, object]]:
        for cell in cells:
            yield {"input_ids": cell}

    def crop(example: dict[str, list[int]]) -> dict[str, object]:
        ids = [2, *example["input_ids"][:4094], 3]
        return {"input_ids": ids, "length": len(ids)}

    datasets.Dataset.from_generator(generate).map(crop).save_to_disk(str(output))


def by_step(run: Callable[[], object]) -> dict[str, float]:
    """CPU-seconds of each step of one call of ``prepare``; what lies between them is ``other``."""
    spent = dict.fromkeys(STEPS, 0.0)

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            began = cpu()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += cpu() - began

        return call

    before = {name: getattr(job, name) for name in STEPS}
    try:
        for name, function in before.items():
            setattr(job, name, watched(name, function))
        began = cpu()
        run()
        total = cpu() - began
    finally:
        for name, function in before.items():
            setattr(job, name, function)
    return {**spent, "other": total - sum(spent.values()), "total": total}


def compare(paths: list[Path], repeats: int) -> dict[str, Any]:
    """Both ways in turn; prints the figures."""
    with tempfile.TemporaryDirectory() as folder:
        store = prepare(paths, Path(folder) / "store", unfitted(), workers=1)
        assert isinstance(store, TokenStore)
        fitted, n_cells, n_tokens = from_dict(store.tokenizer), len(store), int(store.lengths.sum())
    assert isinstance(fitted, MedianTokenizer)
    columns = [fitted.harmonize(gene_names(path)).columns for path in paths]
    steps: list[dict[str, float]] = []
    theirs: list[float] = []

    def own(out: Path) -> None:
        steps.append(by_step(lambda: prepare(paths, out, unfitted(), workers=1)))

    for _ in range(repeats):
        theirs.append(timed(lambda out: restated(paths, columns, out, fitted))[0])
        timed(own)
    ratios = [a / b["total"] for a, b in zip(theirs, steps, strict=True)]
    median = {name: statistics.median(step[name] for step in steps) for name in steps[0]}
    print(f"\n{len(paths)} files, {n_cells:,} cells, {n_tokens / n_cells:,.0f} tokens each, vocabulary fitted")
    print(f"  restated  {n_cells / statistics.median(theirs):10,.0f} cells/CPU-s (its vocabulary and genes given)")
    print(f"  scfm      {n_cells / median['total']:10,.0f} cells/CPU-s, {median['total']:.2f} CPU-s")
    print(f"  ratio     {statistics.median(ratios):10.1f}  ({min(ratios):.1f} to {max(ratios):.1f}, {repeats} repeats)")
    for name, seconds in median.items():
        print(f"    {name:16s} {seconds:7.3f} CPU-s")
    return {"cells": n_cells, "ratios": ratios, "steps": steps}


def gene_names(path: Path) -> list[str]:
    """The genes of a file, as ``prepare`` reads them."""
    from scfm.cells.file import open_cells

    with open_cells(path) as cells:
        return cells.genes


def fixed_costs(folder: Path, repeats: int) -> dict[str, float]:
    """CPU-seconds of a file and of a run, from corpora of 4 and of 52 files with 16 cells each."""
    paths = make_up(folder, 52, 16)
    few = statistics.median(
        timed(lambda out: prepare(paths[:4], out, unfitted(), workers=1))[0] for _ in range(repeats)
    )
    many = statistics.median(timed(lambda out: prepare(paths, out, unfitted(), workers=1))[0] for _ in range(repeats))
    one = (many - few) / 48
    print(f"\nfiles of 16 cells and about 20,000 genes: {one:.3f} CPU-s a file, {few - 4 * one:.3f} CPU-s a run")
    return {"file": one, "run": few - 4 * one}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--files", type=int, default=200, help="made-up files")
    parser.add_argument("--made-up", action="store_true", help="made-up files although the real ones are there")
    parser.add_argument("--fixed", action="store_true", help="only the costs of a file and of a run")
    parser.add_argument("--profile", action="store_true", help="only where the time of one run goes")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        timed(lambda out: prepare(make_up(folder, 1, 64, seed=9), out, unfitted(), workers=1))  # compiles
        if args.fixed:
            found = fixed_costs(folder, args.repeats)
        else:
            real = [DATA / f"{file}.h5ad" for file in NAMES]
            is_real = not args.made_up and all(path.is_file() for path in real)
            paths = real if is_real else make_up(folder, args.files, 150)
            if args.profile:
                profile(paths)
            else:
                found = compare(paths, args.repeats)
    if args.json:
        args.json.write_text(json.dumps(found))


def profile(paths: list[Path]) -> None:
    """Print the functions that take most time of one run."""
    with tempfile.TemporaryDirectory() as folder, cProfile.Profile() as taken:
        prepare(paths, Path(folder) / "store", unfitted(), workers=1)
    for order in ("tottime", "cumtime"):
        pstats.Stats(taken).sort_stats(order).print_stats(40)


if __name__ == "__main__":
    main()
