"""Peaks from genes and genes from peaks, on test cells: the cross decoders beside nearest cells and means."""

from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from tasks.bench import Bench, Measure, call

from cohort_tasks.base import Set
from scfm.checkpoint import read as read_checkpoint
from scfm.config import build
from scfm.inference.load import restore_predictor
from scfm.inference.predict import predictions
from scfm.metrics.denoising import explained_deviance, gene_correlations
from scfm.store.token_store import TokenStore
from scfm.types import PEAKS

#: Genes and peaks that are decoded; nearest cells that are averaged, in so many components.
MOST, NEAREST, COMPONENTS = 1000, 50, 30
METHODS = ("scfm, multimodal/clip", f"{NEAREST} nearest", "means")


def decode(bench: Bench, measure: Measure, name: str, one: Set, seed: int) -> None:
    """AUC of open peaks, D² and gene-wise r of counts; a seed is a split with 20 % test cells."""
    store = bench.output / "stores" / name
    if not store.exists():
        call(["prepare", f"input={bench.data / one.file}.h5mu", f"output={store}", f"obs=[{one.label}]",
              "side.peaks=auto", "keep_counts=true", "workers=1", f"init_from={bench.checkpoint}"])  # fmt: skip
    folder = bench.output / "runs" / f"{name}-decode-{seed}"
    kept: dict[str, Any] = {}

    def values() -> dict[str, Any]:
        if not kept:
            if not (folder / "checkpoints/best.ckpt").is_file():
                bench.finetune(f"{name}-decode-{seed}", "multimodal_clip", store, seed, f"head.decode={MOST}")
            kept.update(_read(folder, store))
        return kept

    key = {"task": "decode", "set": name, "seed": seed}
    for method in METHODS:

        def peaks(method: str = method) -> dict[str, float]:
            found = values()
            return {"auc": roc_auc_score(found["peaks"].ravel(), found["peaks by"][method].ravel())}

        def genes(method: str = method) -> dict[str, float]:
            found, given = values(), values()["genes by"][method]
            r = float(np.median(gene_correlations(found["genes"], given)))
            return {"d2": explained_deviance(found["genes"], given, found["means"]), "r": r}

        measure({**key, "setting": "peaks from genes", "method": method}, peaks)
        measure({**key, "setting": "genes from peaks", "method": method}, genes)


def _read(folder: Path, store: Path) -> dict[str, Any]:
    """Truth and predictions of the test cells by each method."""
    module = restore_predictor(read_checkpoint(folder / "checkpoints/best.ckpt"))
    data = build(OmegaConf.load(folder / "config.yaml").data, TokenStore.open(store))
    data = data.planned(module.task.requirements())
    train, test = data.split.train, data.split.test
    found, decoded = predictions(module, data, test), module.task.decoded

    def truth(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cells, counts = data.store.gather(rows, data.max_length), data.store.counts(rows, data.max_length)
        shape = (len(rows), len(data.store.vocab))
        table = csr_matrix((counts, cells.values.astype(np.int64), cells.offsets), shape)
        given = data.store.field(PEAKS, rows)
        cell, slot = np.nonzero(given >= 0)
        opened = np.zeros((len(rows), len(decoded.features_all)), dtype=bool)
        opened[cell, given[cell, slot]] = True
        return table[:, decoded.genes.numpy()].toarray(), opened[:, decoded.chosen.numpy()]

    (x, opened), (x_test, open_test) = truth(train), truth(test)
    near = {}
    for kind, known, new in (("genes", x, x_test), ("peaks", opened, open_test)):
        scaled = [np.log1p(1e4 * part / np.maximum(part.sum(axis=1, keepdims=True), 1)) for part in (known, new)]
        axes = TruncatedSVD(COMPONENTS, random_state=0).fit(scaled[0])
        space = NearestNeighbors(n_neighbors=NEAREST).fit(axes.transform(scaled[0]))
        near[kind] = space.kneighbors(axes.transform(scaled[1]), return_distance=False)
    means = (x.sum(axis=0) + 1e-3) / (x.sum() + 1e-3 * x.shape[1])
    by_peaks = x[near["peaks"]].sum(axis=1) + 20 * means
    ours = found["decoded_genes"]
    ours = np.where(np.isfinite(ours), ours, means)
    frequency, ones = opened.mean(axis=0), np.ones((len(test), 1))
    by_genes = opened[near["genes"]].mean(axis=1) + 1e-3 * frequency
    peaks = (found["decoded_other"], by_genes, ones * frequency)
    genes = (ours, by_peaks, ones * means)
    return {
        "peaks": open_test, "genes": x_test, "means": means,
        "peaks by": dict(zip(METHODS, peaks, strict=True)), "genes by": dict(zip(METHODS, genes, strict=True)),
    }  # fmt: skip
