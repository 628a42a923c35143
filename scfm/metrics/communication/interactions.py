"""Scores of ligand-receptor pairs between senders and receivers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scfm.metrics.communication.group_means import GroupMeans
from scfm.metrics.communication.rank_aggregation import aggregate_ranks

#: Scores of strength: they grow with expression.
MAGNITUDES = ("mean", "product", "geometric_mean", "sca")
#: Scores of specificity, beside the p value: they compare groups.
SPECIFICITIES = ("natmi", "log_fold")


@dataclass(frozen=True)
class Subunits:
    """Ligands and receptors as columns of genes; complexes have several, single genes one.

    Attributes:
        ligand: (P, S) gene columns of each pair's ligand, -1 where there are fewer than S.
        receptor: (P, S') of its receptor.
    """

    ligand: np.ndarray
    receptor: np.ndarray

    @classmethod
    def from_parts(cls, ligands: Sequence[Sequence[int]], receptors: Sequence[Sequence[int]]) -> Subunits:
        """Make the padded arrays from lists of gene columns, one for each pair."""
        return cls(_padded(ligands), _padded(receptors))


@dataclass(frozen=True)
class Interactions:
    """The interactions that pass the filters; ``n`` rows.

    Attributes:
        sender, receiver: (n,) groups.
        pair: (n,) which pair.
        ligand, receptor: (n,) the gene that stands for the complex: the subunit of smallest mean in that group.
    """

    sender: np.ndarray
    receiver: np.ndarray
    pair: np.ndarray
    ligand: np.ndarray
    receptor: np.ndarray

    def __len__(self) -> int:
        return len(self.pair)


def find_interactions(groups: GroupMeans, subunits: Subunits, *, min_share: float = 0.1) -> Interactions:
    """Every sender, receiver and pair whose subunits are all detected in enough cells.

    A complex is worth as much as its weakest subunit: its value in a group is the minimum of the subunits' means
    (CellPhoneDB, Efremova et al. 2020).

    Args:
        groups: expression of the groups.
        subunits: the pairs.
        min_share: smallest share of a group's cells that have each subunit.
    """
    ligand, ligand_share = _weakest(groups, subunits.ligand)
    receptor, receptor_share = _weakest(groups, subunits.receptor)
    kept = (ligand_share >= min_share)[:, None] & (receptor_share >= min_share)[None]
    sender, receiver, pair = np.nonzero(kept)
    return Interactions(sender, receiver, pair, ligand[sender, pair], receptor[receiver, pair])


def score_interactions(groups: GroupMeans, found: Interactions) -> pd.DataFrame:
    """Scores of expression alone; p values come from :mod:`scfm.metrics.communication.permutation`.

    With L the ligand's mean in the sender and R the receptor's in the receiver: ``mean`` (L + R) / 2, 0 where either is
    0 (CellPhoneDB); ``product`` L R (NATMI); ``geometric_mean`` √(L R); ``sca`` √(L R) / (√(L R) + μ) with μ the mean
    of the matrix (SingleCellSignalR, Cabello-Aguilar et al. 2020); ``natmi`` (L / ΣL) (R / ΣR), sums over groups (Hou
    et al. 2020); ``log_fold`` the mean of both one-against-rest log2 fold changes (LIANA, Dimitrov et al. 2022).

    Returns:
        ``ligand_mean, receptor_mean`` and the scores, one row for each interaction.
    """
    ligand, receptor = groups.mean[found.sender, found.ligand], groups.mean[found.receiver, found.receptor]
    product = ligand * receptor
    root = np.sqrt(product)
    sums = groups.mean.sum(axis=0)
    folds = groups.log_fold[found.sender, found.ligand] + groups.log_fold[found.receiver, found.receptor]
    return pd.DataFrame(
        {
            "ligand_mean": ligand,
            "receptor_mean": receptor,
            "mean": np.where(product > 0, (ligand + receptor) / 2, 0),
            "product": product,
            "geometric_mean": root,
            "sca": _ratio(root, root + groups.overall),
            "natmi": _ratio(ligand, sums[found.ligand]) * _ratio(receptor, sums[found.receptor]),
            "log_fold": folds / 2,
        }
    )


def rank_interactions(scores: pd.DataFrame) -> pd.DataFrame:
    """Consensus of the scores by robust rank aggregation.

    Args:
        scores: of :func:`score_interactions`, with the column ``p`` of the permutation test.

    Returns:
        ``magnitude_rank`` and ``specificity_rank`` in (0, 1], small where the scores agree that a pair is strong.
    """
    strong = -scores[list(MAGNITUDES)].to_numpy()
    specific = np.column_stack([scores["p"], -scores[list(SPECIFICITIES)].to_numpy()])
    ranks = {"magnitude_rank": aggregate_ranks(strong), "specificity_rank": aggregate_ranks(specific)}
    return pd.DataFrame(ranks, index=scores.index)


def _padded(parts: Sequence[Sequence[int]]) -> np.ndarray:
    width = max((len(part) for part in parts), default=1)
    table = np.full((len(parts), width), -1, dtype=np.int64)
    for row, part in enumerate(parts):
        assert len(part), f"pair {row} has no gene"
        table[row, : len(part)] = part
    return table


def _weakest(groups: GroupMeans, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(C, P) gene of the subunit of smallest mean, and (C, P) the smallest detected share of all subunits."""
    absent = parts < 0
    mean = np.where(absent, np.inf, groups.mean[:, parts])
    share = np.where(absent, np.inf, groups.detected[:, parts])
    weakest = mean.argmin(axis=2)
    return np.take_along_axis(np.broadcast_to(parts, mean.shape), weakest[..., None], axis=2)[..., 0], share.min(axis=2)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
