"""Experimental batches brought together, beside the usual methods."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
from omegaconf import OmegaConf
from sets import CellSet

from scfm.evaluation.methods.baselines import BASELINES as SIMPLE
from scfm.evaluation.methods.baselines import embed as baseline_embedding
from scfm.evaluation.methods.expression import Expression, read_expression
from scfm.metrics.integration import integration_scores
from scfm.metrics.structure import neighbor_overlap
from scfm.store.token_store import TokenStore
from tasks.bench import Bench, Measure, predicted

log = logging.getLogger("heads")

#: The head that brings batches together; the others are controls.
MAIN_HEAD = "triplet"
HEADS = (MAIN_HEAD, "contrastive_sampler", "batch_token", "distill", "adversarial", "cond_decoder")
BASELINES = tuple(n for n in ("hvg", "harmony", "combat", "scanorama", "bbknn", "scvi") if SIMPLE[n].installed)
#: What is left out, and what would bring it in.
ABSENT = {one.title: one.install for one in SIMPLE.values() if not one.installed}
#: These see the very labels that they are then judged by.
WITH_LABELS = " (with labels)"
LABELED_HEAD = "batch_token_prototype"
LABELED_BASELINES = ("scanvi",) if SIMPLE["scanvi"].installed else ()
#: (before, after) integration, (n, D) and (n, d).
Spaces = tuple[np.ndarray, np.ndarray]


def integration(bench: Bench, measure: Measure, one: CellSet, seed: int) -> None:
    """Scores of scIB over all cells, and neighbors that stay; then one batch cut at random, which should not move."""
    for title, install in ABSENT.items():
        log.info("%s is left out: it needs pip install %s", title, install)
    cells, name = bench.cells(one), one.name
    cells.obs["batch"] = cells.obs[one.batch].astype(str)
    _all_cells(bench, measure, name, cells, one.truth, seed)
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

    measure({**key, "method": "PCA, unintegrated", "role": "control"}, scored(lambda: (plain, plain)))
    for method in BASELINES:
        measure({**key, "method": method, "role": "rival"}, scored(partial(_theirs, method, expression, batch, seed)))
    for head in HEADS:
        made = scored(partial(_ours, bench, name, head, store, seed))
        measure({**key, "method": f"scfm, {head}", "role": role_of(head)}, made)
    random = scored(partial(_ours, bench, name, MAIN_HEAD, store, seed, random=True))
    measure({**key, "method": f"scfm, {MAIN_HEAD}, random backbone", "role": "ablation"}, random)
    for method in LABELED_BASELINES:
        made = scored(partial(_theirs, method, expression, batch, seed, labels))
        measure({**key, "method": method + WITH_LABELS, "role": "labeled"}, made)
    made = scored(partial(_ours, bench, name, LABELED_HEAD, store, seed))
    measure({**key, "method": f"scfm, {LABELED_HEAD}{WITH_LABELS}", "role": "labeled"}, made)


def role_of(head: str) -> str:
    """The heads other than ``MAIN_HEAD`` have no term that brings batches together: they are controls."""
    return "ours" if head == MAIN_HEAD else "control"


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

    for method in BASELINES:
        measure({**key, "method": method, "role": "rival"}, kept(partial(_theirs, method, expression, batch, seed)))
    for head in HEADS:
        made = kept(partial(_ours, bench, own, head, store, seed))
        measure({**key, "method": f"scfm, {head}", "role": role_of(head)}, made)


def _theirs(
    method: str, expression: Expression, batch: np.ndarray, seed: int, labels: np.ndarray | None = None
) -> Spaces:
    before = SIMPLE[method].start(expression, batch, None, seed)
    return before, baseline_embedding(method, expression, batch, labels, seed)


def _ours(bench: Bench, name: str, head: str, store: Path, seed: int, *, random: bool = False) -> Spaces:
    """The gene components where a head's space begins, and that space after a fine-tune."""
    checkpoint, end = (bench.untrained, "-random") if random else (bench.checkpoint, "")
    folder = bench.finetune(
        f"{name}-{head}-{seed}{end}", f"integration_{head}", store, seed, "report=false", checkpoint=checkpoint
    )
    outputs, trained = predicted(folder, store)
    cells, state = TokenStore.open(store), trained.state
    rows, length = np.arange(len(cells)), OmegaConf.load(folder / "config.yaml").data.max_length
    components = state.components if state.variable is None else state.variable  # one of them is where the space begins
    before = components.transform(cells.gather(rows, length), cells.counts(rows, length))
    return before, outputs["integrated"]
