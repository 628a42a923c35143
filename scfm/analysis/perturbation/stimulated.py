"""Genes that really change between two states, and whether a model adds anything to what tells them anyway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scfm.analysis.cells import Cells, read_cells
from scfm.analysis.gene_classes.probe import fold_scores, gene_folds
from scfm.analysis.perturbation.tables import expression_baselines
from scfm.inference.cell_input import CellInput, open_input
from scfm.inference.model import Model
from scfm.metrics.perturbation import auroc, average_precision
from scfm.vocab import Vocab

#: ``stimulated=input``: the cells that are asked about are halved.
OWN = "input"
#: False discovery rate below which a gene changes, genes of either kind that are needed, folds, bootstrap draws.
FDR, FEWEST, FOLDS, DRAWS = 0.05, 10, 5, 500


@dataclass(frozen=True)
class Measured:
    """What was measured in cells that the model and the fold change do not see.

    Attributes:
        change: indexed by token; columns ``measured_logfc`` (goal over start), ``measured_fdr``, ``changes``.
        left: (N,) bool, rows of the input whose genes may be changed.
        source: where the truth is from, for the report.
    """

    change: pd.DataFrame
    left: np.ndarray
    source: str

    def by_name(self, vocab: Vocab) -> pd.DataFrame:
        """The table by the name of the token."""
        return self.change.set_index(pd.Index([vocab.tokens[token] for token in self.change.index], name="gene"))

    def require_both(self, tokens: np.ndarray, min_change: float) -> None:
        """Refuse perturbed genes of which too few change, or too few do not.

        Raises:
            ValueError: with the numbers.
        """
        known = self.change["changes"].reindex(tokens, fill_value=False)
        yes, no = int(known.sum()), int((~known).sum())
        if min(yes, no) < FEWEST:
            raise ValueError(
                f"of the genes to be perturbed {yes} change in {self.source} (FDR < {FDR}, |log2 fold change| >= "
                f"{min_change}) and {no} do not; {FEWEST} of either are needed: set analysis.min_change, or name more "
                "genes"
            )


def measure_change(
    model: Model, given: CellInput, path: str, *, state: str, names: tuple[str, str], donor: str | None,
    min_change: float, seed: int,
) -> Measured:  # fmt: skip
    """Fold changes and rank-sum tests between two states, in another file or in one half of the input.

    Args:
        model: brings the vocabulary.
        given: the input.
        path: a file of cells, or ``input``.
        state: obs column of the states.
        names: start and goal.
        donor: obs column of donors, which are kept whole where the input is halved.
        min_change: |log2 fold change| from which on a gene changes.
        seed: of the halves.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it lacks the column or a state.
    """
    everything = np.ones(given.cells.n_cells, dtype=bool)
    if path != OWN and not Path(path).exists():
        raise FileNotFoundError(
            f"stimulated={path} does not exist; expected a file of cells of both states, or {OWN} for a half of the "
            "input"
        )
    if path == OWN or Path(path).resolve() == Path(given.cells.path).resolve():
        truth = _truth_half(given, state, names, donor, seed)
        of = "cells" if donor is None else "donors"
        return Measured(
            _test(given, np.flatnonzero(truth), state, names, min_change), ~truth, f"other {of} of the input"
        )
    with open_input(path, model.checkpoint, given.reading, keep_counts=given.keep_counts) as other:
        have = _states(other, state)
        rows = np.flatnonzero(np.isin(have, names))
        _require_states(have, state, names, str(path))
        return Measured(_test(other, rows, state, names, min_change), everything, str(path))


def judge_addition(genes: pd.DataFrame, positive: np.ndarray, seed: int) -> pd.DataFrame:
    """Does the model add to expression? Logistic regressions over genes, out of fold, with and without its shift.

    Expression is the size of fold change and of its rank-sum test, mean rank and number of detections.

    Args:
        genes: of :func:`~scfm.analysis.perturbation.tables.gene_table` with its baselines.
        positive: (genes,) bool, those that really change.
        seed: of folds and bootstrap.

    Returns:
        A row for each set of features: AUROC and AP (average precision), each with a 95 % interval over genes, and
        their gains over expression, paired.
    """
    expression = np.column_stack(
        [
            genes["logfc"].abs(),
            -np.log10(genes["wilcoxon_p"].clip(lower=1e-300)),
            genes["mean_rank"],
            np.log(genes["n_cells"]),
        ]
    )
    own = [genes[name].abs().fillna(0).to_numpy() for name in ("shift", "residual")]
    features = {"expression": expression, "expression and shift": np.column_stack([expression, *own])}
    if "shift_random" in genes:
        drawn = genes["shift_random"].abs().fillna(0).to_numpy()
        features["expression and shift of random weights"] = np.column_stack([expression, drawn])
    folds = gene_folds(positive, np.arange(len(positive)), FOLDS, seed)
    each = np.arange(len(positive))
    scores = {name: fold_scores(values, each, positive, folds, seed) for name, values in features.items()}
    return _gains(scores, positive, "expression", seed)


def addition_sentence(added: pd.DataFrame, baselines: pd.DataFrame, n: int, source: str) -> str:
    """What the table of :func:`judge_addition` says, in one sentence."""
    row = added.set_index("features").loc["expression and shift"]
    alone = baselines.set_index("score")["auroc"]
    verdict = "adds to" if row["auroc_gain_low"] > 0 else "adds nothing sure to"
    if row["auroc_gain_high"] < 0:
        verdict = "takes from"
    return (
        f"The model {verdict} what expression tells of the {n} genes that change in {source}: AUROC "
        f"{row['auroc']:.3f} with its shift, {row['auroc'] - row['auroc_gain']:.3f} without (gain "
        f"{row['auroc_gain']:+.3f}, 95 % {row['auroc_gain_low']:+.3f} to {row['auroc_gain_high']:+.3f}); alone its "
        f"shift has {alone['shift']:.3f}, the fold change {alone['logfc']:.3f}, detections {alone['detections']:.3f}."
    )


def _gains(scores: Mapping[str, np.ndarray], positive: np.ndarray, reference: str, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    yes, no = np.flatnonzero(positive), np.flatnonzero(~positive)
    drawn = [np.r_[rng.choice(yes, len(yes)), rng.choice(no, len(no))] for _ in range(DRAWS)]
    measures = {"auroc": auroc, "ap": average_precision}
    found = {
        (name, key): np.array([measure(own[i], positive[i]) for i in drawn])
        for name, own in scores.items()
        for key, measure in measures.items()
    }
    rows = []
    for name, own in scores.items():
        row: dict[str, float | str] = {"features": name, "base_rate": float(positive.mean())}
        for key, measure in measures.items():
            row[key] = measure(own, positive)
            row[f"{key}_low"], row[f"{key}_high"] = np.quantile(found[name, key], [0.025, 0.975])
            row[f"{key}_gain"] = measure(own, positive) - measure(scores[reference], positive)
            gain = found[name, key] - found[reference, key]
            row[f"{key}_gain_low"], row[f"{key}_gain_high"] = np.quantile(gain, [0.025, 0.975])
        rows.append(row)
    return pd.DataFrame(rows)


def _test(cells: CellInput, rows: np.ndarray, state: str, names: tuple[str, str], min_change: float) -> pd.DataFrame:
    read: Cells = read_cells(cells, rows)
    code = np.where(read.obs[state].astype(str) == names[1], 1, 0)
    tokens = np.flatnonzero(np.asarray((read.counts > 0).sum(axis=0)).ravel())
    found = expression_baselines(read, code, tokens)
    changes = (found["logfc_fdr"] < FDR) & (found["logfc"].abs() >= min_change)
    return pd.DataFrame(
        {"measured_logfc": found["logfc"], "measured_fdr": found["logfc_fdr"], "changes": changes}
    ).set_index(pd.Index(tokens, name="token"))


def _truth_half(given: CellInput, state: str, names: tuple[str, str], donor: str | None, seed: int) -> np.ndarray:
    """(N,) bool: half of the cells of each state, or of the donors that have the same states, whole."""
    have, rng = _states(given, state), np.random.default_rng(seed)
    if donor is None:
        units = np.arange(len(have)).astype(str)
    else:
        given.cells.require_obs([donor])
        units = given.cells.obs[donor].astype(str).to_numpy()
    table = pd.crosstab(units, have)
    table = table.reindex(columns=list(names), fill_value=0) > 0
    chosen: list[str] = []
    for _, alike in table[table.any(axis=1)].groupby(list(names)):
        order = rng.permutation(len(alike))
        chosen += alike.index[order[: len(alike) // 2]].tolist()
    truth = np.isin(units, chosen) & np.isin(have, names)
    what = "the half of the input that says which genes change" + ("" if donor is None else f" (donors {chosen})")
    _require_states(np.where(truth, have, ""), state, names, what)
    _require_states(np.where(truth, "", have), state, names, "the half of the input that is asked about")
    return truth


def _states(cells: CellInput, state: str) -> np.ndarray:
    cells.cells.require_obs([state])
    return cells.cells.obs[state].astype(str).to_numpy()


def _require_states(have: np.ndarray, state: str, names: tuple[str, str], where: str) -> None:
    for name in names:
        n = int((have == name).sum())
        if n < FEWEST:
            raise ValueError(f"{where} has {n} cell(s) of {state} == {name!r}; {FEWEST} or more are needed")
