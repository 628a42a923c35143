"""Experimental batches brought together, beside the usual methods."""

from collections.abc import Callable

import numpy as np

from scfm.evaluate.baseline import embed as baseline_embedding
from scfm.evaluate.expression import read_expression
from scfm.evaluate.structure import neighbor_overlap
from tasks.bench import Bench, Measure, Set, predicted


def integration(bench: Bench, measure: Measure, name: str, one: Set, seed: int) -> None:
    """Scores of scIB over all cells, and the share of a cell's neighbours in its own batch that stay."""
    cells = bench.cells(one)
    cells.obs_names_make_unique()
    cells.obs["batch"] = cells.obs[str(one.group)].astype(str)
    expression, labels = read_expression(cells), cells.obs[one.label].astype(str).to_numpy()
    batch = cells.obs["batch"].to_numpy(dtype=object)
    plain = expression.principal_components(seed=seed)
    store = bench.store(name, cells, ["batch"])
    key = {"task": "integration", "set": name, "setting": "all cells", "seed": seed}

    def scored(make: Callable[[], np.ndarray]) -> Callable[[], dict[str, float]]:
        from scfm.evaluate.integration import integration_scores

        def score() -> dict[str, float]:
            values = make()
            found = integration_scores(values, labels, batch, plain, seed=seed)
            kept = neighbor_overlap(plain, values, batch)
            return {name: found[name] for name in ("total", "bio", "batch")} | {"kept_neighbors": kept}

        return score

    measure({**key, "method": "PCA, unintegrated"}, scored(lambda: plain))
    for method in ("hvg", "harmony", "combat"):
        measure(
            {**key, "method": method},
            scored(lambda method=method: baseline_embedding(method, expression, batch, None, seed)),
        )
    for head in ("triplet", "contrastive_sampler"):

        def ours(head: str = head) -> np.ndarray:
            folder = bench.finetune(f"{name}-{head}-{seed}", f"integration_{head}", store, seed)
            return predicted(folder, store)[0]["integrated"]

        measure({**key, "method": f"scfm, {head}"}, scored(ours))
