"""Tables of scores of embeddings, and their scale between controls."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import pandas as pd

from scfm.evaluation.cells import Cells
from scfm.evaluation.correction import batch_components
from scfm.metrics.integration import integration_scores
from scfm.metrics.mixing.silhouette import to_codes
from scfm.metrics.structure import consensus_distances, ksim, neighbor_overlap, scgraph

log = logging.getLogger(__name__)


def score_embeddings(
    cells: Cells,
    embeddings: Mapping[str, np.ndarray],
    rows: np.ndarray,
    *,
    seed: int = 0,
    n_jobs: int = 1,
    leiden: bool = False,
) -> pd.DataFrame:
    """Embeddings × metrics, over the labeled ones of the given cells.

    Besides :func:`scfm.metrics.integration.integration_scores`: ``scgraph``, ``ksim`` and ``kept_neighbors``, the
    share of each cell's 30 nearest cells of its own batch that PCA has too.
    """
    rows, labels, batch = select_labeled(cells, rows)
    consensus = None
    if labels is not None and batch is not None:
        codes = to_codes(labels)
        parts = batch_components(cells.expression.select(rows), codes, batch)
        consensus = consensus_distances(parts, int(codes.max()) + 1)
    plain = embeddings["PCA"][rows]
    table = {}
    for name, values in embeddings.items():
        scores = integration_scores(values[rows], labels, batch, plain, seed=seed, n_jobs=n_jobs, leiden=leiden)
        scores["kept_neighbors"] = neighbor_overlap(plain, values[rows], batch)
        if labels is not None:
            scores["ksim"] = ksim(values[rows], labels)
        if consensus is not None and labels is not None:
            scores["scgraph"] = scgraph(values[rows], to_codes(labels), consensus)["scgraph"]
        table[name] = scores
    return pd.DataFrame.from_dict(table, orient="index")


def select_labeled(cells: Cells, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The labeled ones of some cells, their class codes and their batches; None where there are none, or one batch."""
    if cells.labels is not None:
        rows = rows[cells.codes[rows] >= 0]
    labels = cells.codes[rows] if cells.labels is not None else None
    batch = cells.batch[rows] if cells.batch is not None else None
    if batch is not None and len(set(batch)) < 2:
        log.warning("the scored cells are all of one batch: no batch scores")
        batch = None
    return rows, labels, batch


#: Controls that lie nearer than this give no scale: what divides by their distance is noise.
APART = 0.1


def scale_by_controls(scores: pd.DataFrame, controls: list[str]) -> pd.DataFrame:
    """(x − worst control) / (best control − worst control), metric by metric, as Open Problems scales.

    Args:
        scores: embeddings × metrics, larger is better.
        controls: rows that know nothing, or only the answer.

    Returns:
        The same without the controls: 0 is as bad as the worst control, 1 as good as the best. NaN where the controls
        differ by less than 0.1 (all of them mix batches, for instance).
    """
    low, high = scores.loc[controls].min(), scores.loc[controls].max()
    return (scores.drop(index=controls) - low) / (high - low).where(high - low >= APART, np.nan)
