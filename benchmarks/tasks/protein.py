"""Surface proteins, predicted from genes alone."""

from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem
from sets import CellSet
from sklearn.cluster import KMeans

from scfm.evaluation.methods.expression import read_expression
from scfm.evaluation.protein import RIVALS, predict_proteins
from scfm.metrics.modality.protein import protein_scores
from tasks.bench import Bench, Measure, predicted, split_of

#: Groups within which predictions are judged.
GROUPS = 10


def protein(bench: Bench, measure: Measure, one: CellSet, seed: int) -> None:
    """Scores over the proteins of a panel, isotype controls left out, on test cells; a seed is a new split."""
    name = one.name
    cells = stained_cells(bench.data / f"{one.files[0]}.h5mu")
    store = bench.store(name, cells, [], "side.protein=protein")
    key = {"task": "protein", "set": name, "setting": "test cells", "seed": seed}
    run = f"{name}-{seed}"
    folder = bench.output / "runs" / run
    found: dict[str, Any] = {}

    def ours() -> dict[str, float]:
        if not (folder / "checkpoints/best.ckpt").is_file():
            bench.finetune(run, "multimodal_protein", store, seed)
        outputs, head = predicted(folder, store)
        found["names"] = list(head.names)
        return judge(*(outputs[part] for part in ("protein", "low", "high")))

    def judge(
        values: np.ndarray, low: np.ndarray | None = None, high: np.ndarray | None = None, names: Any = None
    ) -> dict[str, float]:
        truth = np.log1p(cells.obsm["protein"][list(names or found["names"])].to_numpy(dtype=float))
        parts = split_of(folder, cells.obs_names)
        test = parts["test"]
        train = np.sort(np.concatenate([rows for part, rows in parts.items() if part != "test"]))
        kinds = KMeans(GROUPS, n_init=3, random_state=0).fit(components(train)[train])
        ends = [None if one is None else one[test] for one in (low, high)]
        table = protein_scores(
            truth[test], values[test], *ends, sd=truth[train].std(axis=0), groups=kinds.predict(components(train)[test])
        )
        means = {score: float(np.nanmean(of)) for score, of in table.items()}
        return means | dict(zip(names or found["names"], table["r"].tolist(), strict=True))

    def components(train: np.ndarray) -> np.ndarray:
        if "components" not in found:
            found["components"] = read_expression(cells).principal_components(train).astype(np.float64)
        return found["components"]

    measure({**key, "method": "scfm, fine-tuned", "role": "ours"}, ours)
    names = [protein for protein in cells.obsm["protein"] if not protein.startswith("IgG")]
    parts = split_of(folder, cells.obs_names)
    train = np.sort(np.concatenate([rows for part, rows in parts.items() if part != "test"]))
    truth = np.log1p(cells.obsm["protein"][names].to_numpy(dtype=float))
    depth = np.log1p(np.asarray(cells.X.sum(axis=1)).ravel())
    for method in RIVALS:

        def theirs(method: str = method) -> dict[str, float]:
            return judge(predict_proteins(method, components(train), depth, truth, train), names=names)

        measure({**key, "method": method, "role": "rival"}, theirs)


def stained_cells(path: Path) -> ad.AnnData:
    """Cells of a MuData whose modality ``prot`` becomes a table in obsm."""
    with h5py.File(path) as file:
        cells, panel = read_elem(file["mod/rna"]), read_elem(file["mod/prot"])
    panel = panel[cells.obs_names]
    names = [str(name).removesuffix("_control_TotalSeqC") for name in panel.var_names]
    cells.obsm["protein"] = pd.DataFrame(panel.X.toarray(), index=cells.obs_names, columns=names)
    return cells
