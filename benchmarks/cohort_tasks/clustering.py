"""Clusters without labels: self-training beside the Leiden clusters of the same and of other spaces."""

import json
from collections.abc import Callable

import numpy as np
from sklearn.metrics import adjusted_rand_score
from tasks.bench import FINETUNE, Bench, Measure, call, embedded, predicted

from cohort_tasks.base import Set, read
from scfm.evaluation.methods.expression import read_expression
from scfm.metrics.clusters import leiden_clusters
from scfm.metrics.neighbors import find_neighbors

RESOLUTIONS = (0.25, 0.5, 1.0)


def clustering(bench: Bench, measure: Measure, name: str, one: Set, seed: int) -> None:
    """ARI with the known types by resolution, and the number of clusters."""
    cells = read(bench, one)
    truth = np.unique(cells.obs[one.label].astype(str), return_inverse=True)[1]
    store = bench.store(f"{name}-clusters", cells, [one.label])
    spaces: dict[str, Callable[[], np.ndarray]] = {
        "Leiden on PCA": lambda: read_expression(cells).principal_components(),
        "Leiden on X_scfm": lambda: embedded(bench, name, cells, bench.checkpoint),
    }
    for resolution in RESOLUTIONS:
        key = {"task": "clustering", "set": name, "setting": f"resolution {resolution}", "seed": seed}
        for method, space in spaces.items():

            def simple(space: Callable[[], np.ndarray] = space, resolution: float = resolution) -> dict[str, float]:
                called = leiden_clusters(find_neighbors(space(), 15).connectivities(), resolution, seed)
                return {"ari": adjusted_rand_score(truth, called), "clusters": float(called.max() + 1)}

            measure({**key, "method": method}, simple)
        folder = bench.output / "runs" / f"{name}-clusters-{resolution}-{seed}"

        def ours(steps: int, resolution: float = resolution, folder=folder) -> dict[str, float]:  # noqa: ANN001
            path = folder.with_name(f"{folder.name}-{steps}")
            call(["finetune", "experiment=clustering_self_training", f"init_from={bench.checkpoint}", f"store={store}",
                  f"output={path}", f"head.resolution={resolution}", f"head.seed={seed}", f"seed={seed}",
                  f"trainer.max_steps={steps}", "validate_every=20", "data.val=0.1", "data.test=0.0", "data.group=null",
                  *(["optim.lr=1e-12"] if steps == 1 else []), *FINETUNE])  # fmt: skip
            json.loads((path / "metrics.json").read_text())
            outputs, _ = predicted(path, store)
            called = outputs["q"].argmax(axis=1)
            np.save(path / "called.npy", called)
            return {"ari": adjusted_rand_score(truth, called), "clusters": float(len(np.unique(called)))}

        measure({**key, "method": "scfm, before self-training"}, lambda ours=ours: ours(1))
        measure({**key, "method": "scfm, self_training"}, lambda ours=ours: ours(60))
