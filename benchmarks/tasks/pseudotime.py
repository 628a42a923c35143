"""Order along development from a root type alone."""

from functools import partial

import numpy as np
from scipy.stats import spearmanr

from scfm.evaluate.expression import read_expression
from scfm.head.trajectory.diffusion import diffusion_pseudotime, extreme_cell, neighbour_graph
from tasks.bench import Bench, Measure, Set, predicted


def pseudotime(bench: Bench, measure: Measure, name: str, one: Set, seed: int) -> None:
    """Spearman with the truth of pseudotimes that know the root type alone, over all cells that have a truth."""
    cells = bench.cells(one)
    truth = cells.obs[one.label].to_numpy(dtype=float)
    true = truth >= 0
    cells.obs["stage"] = [f"{value:g}" for value in truth]
    store = bench.store(name, cells, ["stage"], f"genes.species={one.species}", "genes.max_dropped=0.6")
    key = {"task": "pseudotime", "set": name, "setting": "root type known", "seed": seed}

    def ours() -> dict[str, float]:
        options = ["head.root_label=stage", "head.root_type='0'"]
        folder = bench.finetune(f"{name}-{seed}", "trajectory_pseudotime", store, seed, *options)
        return {"spearman": float(spearmanr(predicted(folder, store)[0]["pseudotime"][true], truth[true]).statistic)}

    def theirs(neighbours: int) -> dict[str, float]:
        graph = neighbour_graph(read_expression(cells).principal_components(seed=seed), neighbours)
        found = diffusion_pseudotime(graph, extreme_cell(graph, truth == 0))
        reached = true & np.isfinite(found)
        return {"spearman": float(spearmanr(found[reached], truth[reached]).statistic)}

    measure({**key, "method": "scfm, learned diffusion"}, ours)
    for neighbours, method in ((15, "DPT on PCA"), (50, "DPT on PCA, 50 neighbours")):
        measure({**key, "method": method}, partial(theirs, neighbours))
