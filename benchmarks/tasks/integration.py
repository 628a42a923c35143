"""Experimental batches brought together, beside the usual methods."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import anndata as ad
import numpy as np
from omegaconf import OmegaConf

from scfm.evaluation.methods.baselines import embed as baseline_embedding
from scfm.evaluation.methods.expression import Expression, read_expression
from scfm.metrics.integration import integration_scores
from scfm.metrics.structure import neighbor_overlap
from scfm.store.token_store import TokenStore
from tasks.bench import Bench, Measure, Set, predicted

HEADS = ("triplet", "contrastive_sampler", "batch_token", "distill", "adversarial", "cond_decoder")
#: scVI where scvi-tools is installed.
BASELINES = ("hvg", "harmony", "combat", *(["scvi"] if find_spec("scvi") else []))
#: These see the very labels that they are then judged by.
WITH_LABELS = " (with labels)"
LABELED_HEAD = "batch_token_prototype"
LABELED_BASELINES = ("scanvi",) if find_spec("scvi") else ()
#: (before, after) integration, (n, D) and (n, d).
Spaces = tuple[np.ndarray, np.ndarray]


def integration(bench: Bench, measure: Measure, name: str, one: Set, seed: int) -> None:
    """Scores of scIB over all cells, and neighbors that stay; then one batch cut at random, which should not move."""
    cells = bench.cells(one)
    cells.obs_names_make_unique()
    cells.obs["batch"] = cells.obs[str(one.group)].astype(str)
    _all_cells(bench, measure, name, cells, one.label, seed)
    largest = cells.obs["batch"].value_counts().index[0]
    part = cells[cells.obs["batch"] == largest].copy()
    _pseudo_batches(bench, measure, name, part, seed)


def _all_cells(bench: Bench, measure: Measure, name: str, cells: ad.AnnData, label: str, seed: int) -> None:
    expression, labels = read_expression(cells), cells.obs[label].astype(str).to_numpy()
    batch = cells.obs["batch"].to_numpy(dtype=object)
    plain = expression.principal_components(seed=seed)
    cells.obs["label"] = labels
    store = bench.store(name, cells, ["batch", "label"])
    key = {"task": "integration", "set": name, "setting": "all cells", "seed": seed}

    def scored(make: Callable[[], Spaces]) -> Callable[[], dict[str, float]]:
        def score() -> dict[str, float]:
            before, after = make()
            found = integration_scores(after, labels, batch, plain, seed=seed)
            kept = {
                "kept_of_own_start": neighbor_overlap(before, after, batch),
                "kept_of_PCA": neighbor_overlap(plain, after, batch),
            }
            return {name: found[name] for name in ("total", "bio", "batch")} | kept

        return score

    measure({**key, "method": "PCA, unintegrated"}, scored(lambda: (plain, plain)))
    theirs = {m: partial(_theirs, m, expression, batch, plain, seed) for m in BASELINES}
    ours = {f"scfm, {head}": partial(_ours, bench, name, head, store, seed) for head in HEADS}
    labeled = {m + WITH_LABELS: partial(_theirs, m, expression, batch, plain, seed, labels) for m in LABELED_BASELINES}
    labeled[f"scfm, {LABELED_HEAD}{WITH_LABELS}"] = partial(_ours, bench, name, LABELED_HEAD, store, seed)
    for method, make in {**theirs, **ours, **labeled}.items():
        measure({**key, "method": method}, scored(make))


def _pseudo_batches(bench: Bench, measure: Measure, name: str, cells: ad.AnnData, seed: int) -> None:
    """Cells of one batch that differ in nothing, cut at random into three: the share of 30 neighbors that stay."""
    pieces = np.random.default_rng(seed).permutation(cells.n_obs) % 3
    cells.obs["batch"] = np.array(["a", "b", "c"])[pieces]
    batch, expression = cells.obs["batch"].to_numpy(dtype=object), read_expression(cells)
    plain, own = expression.principal_components(seed=seed), f"{name}-pseudo-{seed}"
    store = bench.store(own, cells, ["batch"])
    key = {"task": "pseudo-batches", "set": name, "setting": "one batch cut into three", "seed": seed}

    def kept(make: Callable[[], Spaces]) -> Callable[[], dict[str, float]]:
        def score() -> dict[str, float]:
            before, after = make()
            return {
                "kept_of_own_start": neighbor_overlap(before, after),
                "kept_of_PCA": neighbor_overlap(plain, after),
                "PCA_kept_by_start": neighbor_overlap(plain, before),
            }

        return score

    theirs = {m: partial(_theirs, m, expression, batch, plain, seed) for m in BASELINES}
    ours = {f"scfm, {head}": partial(_ours, bench, own, head, store, seed) for head in HEADS}
    for method, make in {**theirs, **ours}.items():
        measure({**key, "method": method}, kept(make))


def _theirs(
    method: str,
    expression: Expression,
    batch: np.ndarray,
    plain: np.ndarray,
    seed: int,
    labels: np.ndarray | None = None,
) -> Spaces:
    return plain, baseline_embedding(method, expression, batch, labels, seed)


def _ours(bench: Bench, name: str, head: str, store: Path, seed: int) -> Spaces:
    """The gene components where a head's space begins, and that space after a fine-tune."""
    folder = bench.finetune(f"{name}-{head}-{seed}", f"integration_{head}", store, seed, "report=false")
    outputs, trained = predicted(folder, store)
    cells = TokenStore.open(store)
    length = OmegaConf.load(folder / "config.yaml").data.max_length
    return trained.state.components.transform(cells.gather(np.arange(len(cells)), length)), outputs["integrated"]
