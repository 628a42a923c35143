"""A map that new cells land in."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.neighbors import KNeighborsClassifier

from scfm.evaluate.expression import read_expression
from tasks.bench import Bench, Measure, Set, predicted, split_of


def visualization(bench: Bench, measure: Measure, name: str, one: Set, seed: int) -> None:
    """Held-out cells in maps that were made without them: do neighbours stay, do types?

    ``trustworthiness`` is that of 15 neighbours in 50 principal components of expression, the same for all methods and
    the very space that all but ours are made from; in the space that ours is made from, our own is
    ``trustworthiness, own space``. ``type kept``: accuracy of the majority of the 15 nearest training cells in the map.
    """
    cells = bench.cells(one)
    kind = cells.obs[one.label].astype(str).to_numpy()
    store = bench.store(name, cells, [one.label], f"genes.species={one.species}")
    folder = bench.output / "runs" / f"{name}-{seed}"
    key = {"task": "visualization", "set": name, "setting": "held-out cells", "seed": seed}

    def judged(points: np.ndarray, own: np.ndarray) -> dict[str, float]:
        knows = KNeighborsClassifier(15).fit(points[train], kind[train])
        return {
            "trustworthiness": float(trustworthiness(space[test], points[test], n_neighbors=15)),
            "trustworthiness, own space": float(trustworthiness(own[test], points[test], n_neighbors=15)),
            "type kept": float(knows.score(points[test], kind[test])),
        }

    bench.finetune(folder.name, "visualization_parametric_umap", store, seed)
    parts = split_of(folder, cells.obs_names)
    train, test = parts["train"], parts["test"]
    space = read_expression(cells).principal_components(train)

    def ours() -> dict[str, float]:
        outputs = predicted(folder, store)[0]
        return judged(outputs["map"], outputs["embedding"])

    def transformed() -> dict[str, float]:
        from umap import UMAP

        points = np.empty((len(space), 2), dtype=np.float32)
        fitted = UMAP(n_neighbors=15, min_dist=0.5, random_state=seed).fit(space[train])
        points[train], points[test] = fitted.embedding_, fitted.transform(space[test])
        return judged(points, space)

    def linear() -> dict[str, float]:
        return judged(PCA(2).fit(space[train]).transform(space), space)

    measure({**key, "method": "scfm, parametric UMAP"}, ours)
    measure({**key, "method": "umap-learn, transform"}, transformed)
    measure({**key, "method": "2 principal components"}, linear)
