"""Order along development from a root type, and branches from the cells where they end."""

from functools import partial
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from scfm.evaluation.methods.expression import read_expression
from scfm.head.trajectory.diffusion import absorption, diffusion_pseudotime, extreme_cell, neighbor_graph, scale_ranks
from tasks.bench import Bench, Measure, Set, predicted

#: For a set, its clusters of each branch: where it ends, and those on the way.
BRANCHES = {
    "paul15_root": {
        "erythroid": ((1,), (2, 3, 4, 5, 6)),
        "myeloid": ((15, 16), (9, 10, 11, 12, 13, 14)),
    }
}


def pseudotime(bench: Bench, measure: Measure, name: str, one: Set, seed: int) -> None:
    """Spearman with the truth of pseudotimes that know the root type alone, over all cells that have a truth.

    The head learns from all cells but a few for validation, as the methods beside it do; and once more without 30 %
    of them, which then are new to it.
    Where branches are known, macro-F1 of the likeliest end of the cells on the way, from the names of the ends alone.
    """
    cells = bench.cells(one)
    truth = cells.obs[one.label].to_numpy(dtype=float)
    true = truth >= 0
    cells.obs["stage"] = [f"{value:g}" for value in truth]
    ends, way = branches(cells, name)
    cells.obs["end"] = np.array([*BRANCHES.get(name, ()), None], dtype=object)[ends]
    columns = ["stage", *(["end"] if name in BRANCHES else [])]
    store = bench.store(name, cells, columns, f"genes.species={one.species}", "genes.max_dropped=0.6")
    key = {"task": "pseudotime", "set": name, "setting": "root type known", "seed": seed}

    def judged(time: np.ndarray, fates: np.ndarray | None) -> dict[str, float]:
        reached = true & np.isfinite(time)
        found = {"spearman": float(spearmanr(time[reached], truth[reached]).statistic)}
        return found if fates is None else found | {"branch F1": branch_f1(fates.argmax(axis=1))}

    def branch_f1(called: np.ndarray) -> float:
        return float(f1_score(way[way >= 0], called[way >= 0], average="macro"))

    def ours(mark: str, val: float, test: float) -> dict[str, float]:
        options = ["head.root_label=stage", "head.root_type='0'", *(["head.fate=end"] if name in BRANCHES else [])]
        parts = [f"data.val={val}", f"data.test={test}"]
        folder = bench.finetune(f"{name}{mark}-{seed}", "trajectory_pseudotime", store, seed, *options, *parts)
        outputs = predicted(folder, store)[0]
        return judged(outputs["pseudotime"], outputs.get("fates"))

    def theirs(neighbors: int) -> dict[str, float]:
        graph = neighbor_graph(read_expression(cells).principal_components(seed=seed), neighbors)
        found = diffusion_pseudotime(graph, extreme_cell(graph, truth == 0))
        if name not in BRANCHES:
            return judged(found, None)
        return judged(found, absorption(graph.obsp["connectivities"], scale_ranks(found), ends, len(BRANCHES[name])))

    def nearest_end() -> dict[str, float]:
        values = read_expression(cells).principal_components(seed=seed)
        model = KNeighborsClassifier(15).fit(values[ends >= 0], ends[ends >= 0])
        return {"branch F1": branch_f1(model.predict(values))}

    measure({**key, "method": "scfm, learned diffusion"}, partial(ours, "", 0.05, 0.0))
    measure({**key, "method": "scfm, 30% of cells new to it"}, partial(ours, "-new", 0.1, 0.2))
    for neighbors, method in ((15, "DPT on PCA"), (50, "DPT on PCA, 50 neighbors")):
        measure({**key, "method": method}, partial(theirs, neighbors))
    if name in BRANCHES:
        measure({**key, "method": "15 nearest ends on PCA"}, nearest_end)


def branches(cells: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the branch that a cell ends, and (n,) the one it is on the way of; -1 where it does neither."""
    ends, way = np.full(cells.n_obs, -1), np.full(cells.n_obs, -1)
    for code, (last, before) in enumerate(BRANCHES.get(name, {}).values()):
        cluster = cells.obs["cluster"].astype(int)
        ends[cluster.isin(last)], way[cluster.isin(before)] = code, code
    return ends, way
