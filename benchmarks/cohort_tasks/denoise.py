"""Molecules that were not read, predicted by the head and by simple methods; and what harm each method does."""

from collections.abc import Callable

import anndata as ad
import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from tasks.bench import Bench, Measure, predicted

from cohort_tasks.base import Set, read
from scfm.genes.table import table
from scfm.metrics.denoising import (
    explained_deviance,
    false_positive_share,
    gene_correlations,
    marker_leak,
    mean_correlation,
    zero_auc,
)

#: Cells, genes of most counts, share of the molecules that is read.
CELLS, GENES, SHARE = 1000, 1000, 0.8
#: Genes that are permuted among cells of like depth, and the groups of like depth.
PERMUTED, DEPTHS = 150, 50
#: Random halves of the largest type.
HALVES = 3
#: Molecules of the mean profile that are added to every estimate.
PRIOR = 20.0

Method = Callable[[np.ndarray], np.ndarray]


def denoise(bench: Bench, measure: Measure, name: str, one: Set, seed: int) -> None:
    """D², gene-wise r and AUC among zeros on hidden molecules; false differences, leaked markers, false correlations.

    All methods read 80 % of the molecules of 1,000 cells, of the 1,000 genes of most counts among these.
    """
    rng = np.random.default_rng(seed)
    cells = read(bench, one)
    whole = (cells.X.toarray() if hasattr(cells.X, "toarray") else np.asarray(cells.X)).astype(np.int64)
    rows = np.sort(rng.choice(len(whole), min(CELLS, len(whole)), replace=False))
    seen = rng.binomial(whole[rows], SHARE)
    genes = np.sort(np.argsort(-seen.sum(axis=0), kind="stable")[:GENES])
    seen, hidden = seen[:, genes], whole[np.ix_(rows, genes)] - seen[:, genes]
    names, types = cells.var_names[genes], np.unique(cells.obs[one.label].astype(str), return_inverse=True)[1][rows]
    mixed, independent = permute_genes(seen, rng)
    key = {"task": "denoise", "set": name, "seed": seed}
    methods: dict[str, Method] = {
        "the input itself": lambda x: x, **{f"{k} nearest": lambda x, k=k: pooled(x, k) for k in (15, 50)},
        "diffusion, t = 3 (as MAGIC)": lambda x: pooled(x, 15, 3),
        "rank 10 (as ALRA)": low_rank,
        "gene means": lambda x: np.tile(x.sum(axis=0) / x.sum(), (len(x), 1)) * x.sum(axis=1, keepdims=True),
    }  # fmt: skip

    def ours(counts: np.ndarray, run: str) -> np.ndarray:
        given = ad.AnnData(counts.astype(np.float32), var={"gene": list(names)})
        given.var_names, given.obs_names = list(names), [f"c{i}" for i in range(len(counts))]
        store = bench.store(f"{name}-{run}-{seed}", given, [])
        folder = bench.output / "runs" / f"{name}-{run}-{seed}"
        if not (folder / "checkpoints/best.ckpt").is_file():
            more = ["head.genes_out=1000", "data.group=null", f"head.seed={seed}", "calibration=0"]
            bench.finetune(f"{name}-{run}-{seed}", "imputation_denoise", store, seed, *more)
        outputs, head = predicted(folder, store)
        tokens = [head.vocab.tokens[int(token)] for token in head.chosen]
        place = {token: i for i, token in enumerate(tokens)}
        symbols = table("human").by_symbol
        found = counts.sum(axis=0) / counts.sum() * np.ones((len(counts), 1))  # genes that the model does not know
        columns = [(i, place[t]) for i, g in enumerate(names) if (t := symbols.get(g, g)) in place]
        own, theirs = (np.array(part) for part in zip(*columns, strict=True))
        known = np.nan_to_num(outputs["denoised"][:, theirs])
        rest = found[:, own].sum(axis=1, keepdims=True)
        found[:, own] = known / np.maximum(known.sum(axis=1, keepdims=True), 1e-9) * rest
        return found * counts.sum(axis=1, keepdims=True)

    every: dict[str, Callable[[], np.ndarray]] = {"scfm, imputation_denoise": lambda: ours(seen, "seen")}
    for method, function in methods.items():
        every[method] = lambda function=function: smooth(function(seen), seen)
    kept: dict[str, np.ndarray] = {}
    for method, values in every.items():

        def scores(method: str = method, values: Callable[[], np.ndarray] = values) -> dict[str, float]:
            kept[method] = values()
            means = seen.sum(axis=0) / seen.sum()
            # halves are denoised one by one, as two samples are; the head reads cell by cell
            alone = methods.get(method)
            halves = [split_half(seen, types, alone, kept[method], draw) for draw in range(HALVES)]
            return {
                "d2": explained_deviance(hidden, kept[method], means),
                "r": float(np.median(gene_correlations(hidden, kept[method]))),
                "auc": zero_auc(hidden, kept[method], seen),
                "false differences": float(np.mean(halves)),
                "leaked markers": marker_leak(seen + hidden, kept[method], types),
            }

        measure({**key, "setting": "hidden molecules", "method": method}, scores)
    if seed:
        return
    for method in every:

        def raised(method: str = method) -> dict[str, float]:
            function = methods.get(method)
            values = ours(mixed, "mixed") if function is None else smooth(function(mixed), mixed)
            shares = values / np.maximum(values.sum(axis=1, keepdims=True), 1e-12)
            return {"correlation": mean_correlation(shares[:, independent])}

        measure({**key, "setting": f"{PERMUTED} genes permuted", "method": method}, raised)


def permute_genes(counts: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Counts of which some genes were permuted among cells of like depth, each by itself, and these genes."""
    genes = np.sort(rng.choice(counts.shape[1], min(PERMUTED, counts.shape[1]), replace=False))
    mixed, order = counts.copy(), np.argsort(counts.sum(axis=1), kind="stable")
    for gene in genes:
        for part in np.array_split(order, DEPTHS):
            mixed[part, gene] = counts[rng.permutation(part), gene]
    return mixed, genes


def smooth(estimate: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """An estimate with 20 molecules of the mean profile added."""
    return estimate + PRIOR * counts.sum(axis=0) / counts.sum()


def split_half(
    counts: np.ndarray, types: np.ndarray, method: Method | None, whole: np.ndarray, seed: int
) -> float:  # fmt: skip
    """Share of genes with p < 0.05 between two random halves of the largest type."""
    rows = np.flatnonzero(types == np.bincount(types).argmax())
    one = np.random.default_rng(seed).permutation(len(rows)) < len(rows) // 2
    values = whole[rows].astype(np.float64)
    if method is not None:
        for half in (one, ~one):
            values[half] = method(counts[rows[half]]) + PRIOR * counts.sum(axis=0) / counts.sum()
    return false_positive_share(values / values.sum(axis=1, keepdims=True), one)


def logged(counts: np.ndarray) -> np.ndarray:
    """ln(1 + 10,000 x / Σ x)."""
    return np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def pooled(counts: np.ndarray, k: int, t: int = 0) -> np.ndarray:
    """Summed counts of the k nearest cells in 30 components; with t, diffusion Wᵗ on the symmetric graph."""
    x = logged(counts)
    space = PCA(min(30, min(x.shape) - 1), random_state=0).fit_transform(x)
    near = NearestNeighbors(n_neighbors=min(k, len(x))).fit(space).kneighbors(space, return_distance=False)
    graph = np.zeros((len(x), len(x)))
    graph[np.arange(len(x))[:, None], near] = 1
    if not t:
        return graph @ counts
    graph = np.maximum(graph, graph.T)
    graph /= graph.sum(axis=1, keepdims=True)
    return np.linalg.matrix_power(graph, t) @ counts


def low_rank(counts: np.ndarray, rank: int = 10) -> np.ndarray:
    """Rank-10 log values, 0 below a gene's most negative one (Linderman et al. 2022), at the cell's total."""
    x = logged(counts)
    mean = x.mean(axis=0)
    u, s, v = np.linalg.svd(x - mean, full_matrices=False)
    low = (u[:, :rank] * s[:rank]) @ v[:rank] + mean
    shares = np.expm1(np.where(low > np.abs(np.minimum(low.min(axis=0), 0)), low, 0))
    return shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12) * counts.sum(axis=1, keepdims=True)
