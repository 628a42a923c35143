"""Order along development from a root type, and branches from the cells where they end."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sets import CellSet
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from scfm.evaluation.methods.expression import read_expression
from scfm.evaluation.trajectory import GRID
from scfm.head.trajectory.diffusion import absorption, diffusion_pseudotime, extreme_cell, neighbor_graph, scale_ranks
from scfm.metrics.trajectory import concordance
from tasks.bench import Bench, Measure, predicted

#: For a set, its clusters of each branch: where it ends, and those on the way.
BRANCHES = {
    "paul15": {
        "erythroid": ((1,), (2, 3, 4, 5, 6)),
        "myeloid": ((15, 16), (9, 10, 11, 12, 13, 14)),
    }
}


def pseudotime(bench: Bench, measure: Measure, one: CellSet, seed: int) -> None:
    """Agreement with the truth of pseudotimes that know the root type alone, over all cells that have a truth.

    ``concordance`` asks for no order inside a stage and decides. The root type is that of the lowest truth; diffusion
    pseudotime is also shown at the best of ``GRID``, by the truth.

    The head learns from all cells but a few for validation, as the methods beside it do; and once more without 30 %
    of them, which then are new to it.
    Where branches are known, macro-F1 of the likeliest end of the cells on the way, from the names of the ends alone.
    """
    cells, name = bench.cells(one), one.name
    truth = cells.obs[one.truth].to_numpy(dtype=float)
    true = truth >= 0
    first = truth[true].min()
    cells.obs["stage"] = [f"{value:g}" for value in truth]
    ends, way = branches(cells, name)
    columns = ["stage"]
    if name in BRANCHES:
        cells.obs["end"] = np.array([*BRANCHES[name], None], dtype=object)[ends]
        columns.append("end")
    store = bench.store(name, cells, columns, f"genes.species={one.species}", "genes.max_dropped=0.6")
    key = {"task": "pseudotime", "set": name, "setting": "root type known", "seed": seed}

    def judged(time: np.ndarray, fates: np.ndarray | None) -> dict[str, float]:
        reached = true & np.isfinite(time)
        found = {
            "concordance": concordance(time[reached], truth[reached]),
            "spearman": float(spearmanr(time[reached], truth[reached]).statistic),
        }
        return found if fates is None else found | {"branch F1": branch_f1(fates.argmax(axis=1))}

    def branch_f1(called: np.ndarray) -> float:
        return float(f1_score(way[way >= 0], called[way >= 0], average="macro"))

    def ours(mark: str, val: float, test: float) -> dict[str, float]:
        options = [
            "head.root_label=stage",
            f"head.root_type='{first:g}'",
            *(["head.fate=end"] if name in BRANCHES else []),
        ]
        parts = [f"data.val={val}", f"data.test={test}"]
        folder = bench.finetune(f"{name}{mark}-{seed}", "trajectory_pseudotime", store, seed, *options, *parts)
        outputs = predicted(folder, store)[0]
        return judged(outputs["pseudotime"], outputs.get("fates"))

    components = cached_components(cells, seed)

    def theirs(neighbors: int, width: int) -> dict[str, float]:
        graph = neighbor_graph(components()[:, :width], neighbors)
        found = diffusion_pseudotime(graph, extreme_cell(graph, truth == first))
        if name not in BRANCHES:
            return judged(found, None)
        return judged(found, absorption(graph.obsp["connectivities"], scale_ranks(found), ends, len(BRANCHES[name])))

    def best() -> dict[str, float]:
        return max((theirs(*point) for point in GRID), key=lambda found: found["concordance"])

    def nearest_end() -> dict[str, float]:
        values = components()
        model = KNeighborsClassifier(15).fit(values[ends >= 0], ends[ends >= 0])
        return {"branch F1": branch_f1(model.predict(values))}

    measure({**key, "method": "scfm, learned diffusion", "role": "ours"}, partial(ours, "", 0.05, 0.0))
    measure({**key, "method": "scfm, 30% of cells new to it", "role": "ours"}, partial(ours, "-new", 0.1, 0.2))
    measure({**key, "method": "DPT on PCA", "role": "rival"}, partial(theirs, 15, 50))
    measure({**key, "method": f"DPT on PCA, best of {len(GRID)}", "role": "rival"}, best)
    if name in BRANCHES:
        measure({**key, "method": "15 nearest ends on PCA", "role": "rival"}, nearest_end)


def cached_components(cells: Any, seed: int) -> Callable[[], np.ndarray]:
    """50 principal components of expression, computed at the first call."""
    return cache(lambda: read_expression(cells).principal_components(seed=seed))


def branches(cells: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the branch that a cell ends, and (n,) the one it is on the way of; -1 where it does neither."""
    ends, way = np.full(cells.n_obs, -1), np.full(cells.n_obs, -1)
    for code, (last, before) in enumerate(BRANCHES.get(name, {}).values()):
        cluster = cells.obs["cluster"].astype(int)
        ends[cluster.isin(last)], way[cluster.isin(before)] = code, code
    return ends, way
