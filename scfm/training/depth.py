"""How much of sequencing depth an embedding holds: a picture along depth is no picture of cell types."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import cross_val_predict

from scfm.data.module import CellData
from scfm.inference.predict import embeddings
from scfm.model.backbone import Backbone

#: Validation cells that are read, at most; fewer than the smaller number say nothing.
MOST, FEWEST = 1000, 50


def depth_r2(backbone: Backbone, data: CellData, device: torch.device) -> float | None:
    """R2 of the number of tokens of held-out cells, predicted linearly from their embeddings (5 folds).

    0 where the embedding tells nothing of it; principal components of log counts have about 0.9.

    Args:
        backbone: whole on this device; its mode is kept.
        data: at most :data:`MOST` of its validation cells are read.
        device: where it lies.

    Returns:
        None with fewer than :data:`FEWEST` cells, or where all have one length.
    """
    rows = np.sort(np.random.default_rng(0).permutation(data.split.val)[:MOST])
    depth = np.asarray(data.store.lengths)[rows].astype(np.float64)
    if len(rows) < FEWEST or depth.std() == 0:
        return None
    training = backbone.training
    values = embeddings(backbone, data, rows, device).astype(np.float64)
    backbone.train(training)
    return float(r2_score(depth, cross_val_predict(LinearRegression(), values, depth, cv=5)))
