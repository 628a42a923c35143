"""What a model makes of cells of a store, outside of training."""

from collections.abc import Mapping

import numpy as np
import torch

from scfm.data.module import CellData
from scfm.module import CellModule


def predictions(module: CellModule, data: CellData, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What ``module.predict_step`` says of some cells, in the order of ``rows``.

    Args:
        module: backbone and head; put into evaluation mode.
        data: the store.
        rows: (n,) int64, ascending.

    Returns:
        ``embedding`` (n, D) and the head's outputs; without ``index``. Empty where there are no rows.
    """
    if len(rows) == 0:
        return {}
    module.eval()
    with torch.inference_mode():
        parts = [module.predict_step(batch.to(module.device), 0) for batch in data.loader(rows, alone=True)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(found.pop("index"), kind="stable")
    return {name: values[order] for name, values in found.items()}


def targets(data: CellData, rows: np.ndarray) -> Mapping[str, np.ndarray]:
    """The obs columns that the head names, of some cells."""
    return {label: data.store.obs(label)[rows] for label in data.plan.labels}
