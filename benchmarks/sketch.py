"""Sketches and streaming projection: peak memory from 10,000 to 100,000 cells, and what sketches keep, beside others.

python benchmarks/sketch.py [--init_from CHECKPOINT] [--cells 10000 100000] [--data ../shared/data]

Every command runs in a process of its own, whose peak resident memory is told. The files are made up (a thousand
genes a cell). With --data, sketches of a tenth of the cells of pbmc3k: the share of the rarest type beside
that of a uniform sample, the partial Hausdorff distance (the 99th percentile of each cell's distance to the sketch,
on 30 components), the accuracy of labels carried by 5 neighbors from sketch to all cells, and the error of the
weighted shares of types.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
from made_up import write_h5ad
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from scfm.evaluation.methods.expression import read_expression
from scfm.sketch.sketch import SketchOptions, draw_sketch

COMMAND = "import sys; from scfm import cli; sys.argv = sys.argv[1:]; getattr(cli, sys.argv[0].removeprefix('scfm-'))()"


def peak(arguments: list[str]) -> float:
    """Peak resident memory of a command, in MB."""
    child = subprocess.Popen([sys.executable, "-c", COMMAND, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(arguments)} failed")
    return usage.ru_maxrss / 1024


def memory(sizes: list[int], init_from: Path | None) -> None:
    """Print the peak of each command at each size."""
    ways = {
        f"scfm-sketch method={method}": ["scfm-sketch", f"method={method}"]
        for method in ("leverage", "density", "uniform")
    }
    if init_from is not None:
        ways["scfm-embed"] = ["scfm-embed", f"init_from={init_from}", "max_dropped=1", "trainer.accelerator=cpu"]
    found: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            file = Path(folder) / f"{n}.h5ad"
            write_h5ad(file, n, 300, None)
            for name, words in ways.items():
                out = Path(folder) / ("out.h5ad" if name == "scfm-embed" else "out.csv")
                more = [] if name == "scfm-embed" else ["n=5000"]
                found[name].append(peak([*words, f"input={file}", f"output={out}", "overwrite=true", *more]))
            file.unlink()
    print("| command | " + " | ".join(f"{n:,} cells, MB" for n in sizes) + " | last / first |")
    print("|---" * (len(sizes) + 2) + "|")
    for name, values in found.items():
        print(f"| {name} | " + " | ".join(f"{value:.0f}" for value in values) + f" | {values[-1] / values[0]:.2f} |")


def geometric(values: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """A geometric sketch (Hie et al. 2019): boxes of equal side, about n of them filled, one cell of each."""
    low, high, rng = 1e-3, np.ptp(values, axis=0).max(), np.random.default_rng(0)
    for _ in range(40):
        side = (low + high) / 2
        boxes, place, sizes = np.unique(
            np.floor(values / side).astype(int), axis=0, return_inverse=True, return_counts=True
        )
        low, high = (side, high) if len(boxes) > n else (low, side)
    order = rng.permutation(len(values))
    _, first = np.unique(place.ravel()[order], return_index=True)
    chosen = np.sort(order[first])
    return chosen, sizes[place.ravel()[chosen]].astype(float)


def quality(data: Path) -> None:
    """Print what sketches of a tenth of the cells keep."""
    path = data / "pbmc3k.h5ad"
    cells = ad.read_h5ad(path)
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    names, counts = np.unique(labels, return_counts=True)
    rarest, n = names[counts.argmin()], cells.n_obs // 10
    values = read_expression(cells).principal_components()[:, :30]

    def drawn(method: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        found = draw_sketch(path, SketchOptions(n=n, method=method, seed=seed))  # type: ignore[arg-type]
        return found["row"].to_numpy(), found["weight"].to_numpy()

    ways: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {
        **{method: (lambda seed, m=method: drawn(m, seed)) for method in ("uniform", "leverage", "density")},
        "geometric sketch": lambda seed: geometric(values[:, :10], n),
    }
    print(f"\n| {n} of {cells.n_obs} cells | {rarest}, share ÷ all | Hausdorff | accuracy | error of weighted shares |")
    print("|---|---|---|---|---|")
    for name, way in ways.items():
        rows = []
        for seed in range(3):
            chosen, weight = way(seed)
            nearest = NearestNeighbors(n_neighbors=1).fit(values[chosen]).kneighbors(values)[0][:, 0]
            named = KNeighborsClassifier(5).fit(values[chosen], labels[chosen]).predict(values)
            shares = np.array([weight[labels[chosen] == one].sum() for one in names]) / weight.sum()
            rows.append((
                (labels[chosen] == rarest).mean() / (labels == rarest).mean(), np.quantile(nearest, 0.99),
                (named == labels).mean(), np.abs(shares - counts / counts.sum()).max(),
            ))  # fmt: skip
        mean, spread = np.mean(rows, axis=0), np.std(rows, axis=0)
        print(f"| {name} | " + " | ".join(f"{a:.3f} ± {b:.3f}" for a, b in zip(mean, spread, strict=True)) + " |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init_from", type=Path, help="a checkpoint, to measure scfm-embed as well")
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--data", type=Path, help="folder of the .h5ad files")
    asked = parser.parse_args()
    memory(asked.cells, asked.init_from)
    if asked.data is not None:
        quality(asked.data)


if __name__ == "__main__":
    main()
