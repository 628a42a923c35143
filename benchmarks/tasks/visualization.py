"""A map that new cells land in."""

from dataclasses import dataclass

import numpy as np
from sets import CellSet
from sklearn.manifold import trustworthiness
from sklearn.neighbors import KNeighborsClassifier

from scfm.evaluation.methods.expression import read_expression
from tasks.bench import Bench, Measure, predicted, split_of


@dataclass(frozen=True)
class HeldOut:
    """Cells that a map was made without, and what is judged of them.

    Attributes:
        space: (n, 50) principal components of expression, fitted on training cells.
        kind: (n,) types.
        train: rows that the map was made of.
        test: rows that are judged.
    """

    space: np.ndarray
    kind: np.ndarray
    train: np.ndarray
    test: np.ndarray

    def judge(self, points: np.ndarray, own: np.ndarray) -> dict[str, float]:
        """Of a map (n, 2), made of ``own`` (n, D): do 15 neighbors stay, do types?

        ``trustworthiness`` in the components, the same for all methods and the very space that all but ours are made
        of; ``trustworthiness, own space``; ``type kept``: accuracy of the 15 nearest training cells in the map.
        """
        knows = KNeighborsClassifier(15).fit(points[self.train], self.kind[self.train])
        return {
            "trustworthiness": float(trustworthiness(self.space[self.test], points[self.test], n_neighbors=15)),
            "trustworthiness, own space": float(trustworthiness(own[self.test], points[self.test], n_neighbors=15)),
            "type kept": float(knows.score(points[self.test], self.kind[self.test])),
        }


def visualization(bench: Bench, measure: Measure, one: CellSet, seed: int) -> None:
    """Held-out cells in maps that were made without them."""
    cells, name = bench.cells(one), one.name
    store = bench.store(name, cells, [one.truth], f"genes.species={one.species}")
    folder = bench.output / "runs" / f"{name}-{seed}"
    key = {"task": "visualization", "set": name, "setting": "held-out cells", "seed": seed}

    def held_out() -> HeldOut:
        parts = split_of(folder, cells.obs_names)
        space = read_expression(cells).principal_components(parts["train"])
        return HeldOut(space, cells.obs[one.truth].astype(str).to_numpy(), parts["train"], parts["test"])

    def ours() -> dict[str, float]:
        bench.finetune(folder.name, "visualization_parametric_umap", store, seed)
        outputs = predicted(folder, store)[0]
        return held_out().judge(outputs["map"], outputs["state"])

    def transformed() -> dict[str, float]:
        from umap import UMAP

        cut = held_out()
        points = np.empty((len(cut.space), 2), dtype=np.float32)
        fitted = UMAP(n_neighbors=15, min_dist=0.5, random_state=seed).fit(cut.space[cut.train])
        points[cut.train], points[cut.test] = fitted.embedding_, fitted.transform(cut.space[cut.test])
        return cut.judge(points, cut.space)

    def linear() -> dict[str, float]:
        cut = held_out()
        return cut.judge(cut.space[:, :2], cut.space)

    measure({**key, "method": "scfm, parametric UMAP", "role": "ours"}, ours)
    measure({**key, "method": "umap-learn, transform", "role": "rival"}, transformed)
    measure({**key, "method": "2 principal components", "role": "control"}, linear)
