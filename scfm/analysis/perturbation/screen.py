"""A screen: one backward pass of a cell says about what each deletion does, and the first genes are read exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from scipy import stats

from scfm.analysis.attribution.gradients import Presence
from scfm.analysis.base import Work
from scfm.analysis.cell_batches import select_batches
from scfm.analysis.perturbation.design import Design
from scfm.analysis.perturbation.shifts import States
from scfm.batch import Batch
from scfm.inference.cell_input import CellInput
from scfm.inference.model import Model
from scfm.model.pooling import embed


def screen_genes(model: Model, given: CellInput, design: Design, states: States, work: Work) -> np.ndarray:
    """(V,) mean over the changed cells of -dS/dp: S the cosine to the goal, p how much a gene is there (1).

    A gene that is half there lies half way to the mask token, or to the mean gene where there is no mask: the slope is
    that of hiding a gene, and of deleting it as far as the two agree. NaN for genes of no cell.

    Args:
        model: that is asked.
        given: the open cells.
        design: cells and states, with a goal.
        states: embeddings and centroids; the cell itself is in none.
        work: says how many tokens a batch has.
    """
    assert states.centroids is not None, "a screen has a goal"
    presence = Presence(model.backbone, model.vocab)
    place = {int(design.cells.rows[cell]): int(cell) for cell in design.changed}
    total, count = np.zeros(len(model.vocab)), np.zeros(len(model.vocab))
    with work.bar("Screening", len(design.changed)) as advance:
        for batch in select_batches(given, design.cells.rows[design.changed], work, model.module.device):
            batch = batch.shortened(design.cells.limit + sum(map(len, given.tokenizer.roles)))
            cells = [place[row] for row in batch.index.tolist()]
            goal, middle = _directions(states, design, cells, batch.ids.device)

            def score(own: Batch, goal: torch.Tensor = goal, middle: torch.Tensor = middle) -> torch.Tensor:
                moved = embed(model.backbone, own, model.vocab).float() - middle
                return torch.nn.functional.cosine_similarity(moved, goal - middle)

            slope = -presence.gradient(score, batch).detach().double().cpu().numpy()
            ids = batch.ids.cpu().numpy()
            total += np.bincount(ids, slope, minlength=len(total))
            count += np.bincount(ids, minlength=len(count))
            advance(batch.n_cells)
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def keep_first(design: Design, tokens: np.ndarray, screened: np.ndarray, n: int, controls: int, seed: int) -> Design:
    """The design with the n of some genes that have the largest slope, and random others as their null."""
    order = np.argsort(-np.abs(np.nan_to_num(screened[tokens])), kind="stable")
    drawn = np.random.default_rng(seed).permutation(order[n:])[:controls]
    chosen = tokens[np.concatenate([order[:n], drawn])]
    return replace(
        design, sets=tuple((int(gene),) for gene in chosen), control=np.arange(len(chosen)) >= min(n, len(order))
    )


def screen_note(genes: pd.DataFrame, n_screened: int) -> str:
    """How far the screen may be believed: its rank correlation with exact shifts of the random genes."""
    drawn = genes[genes["control"] & genes["screened"].notna()]
    rho = stats.spearmanr(drawn["screened"], drawn["shift"]).statistic if len(drawn) > 2 else float("nan")
    read = int((~genes["control"]).sum())
    return (
        f"Screened: {n_screened:,} genes by one backward pass a cell; the {read:,} of largest slope and {len(drawn)} "
        f"random ones were read exactly. Slope and exact shift of the random ones have a rank correlation of "
        f"{rho:.2f}; genes that the screen left out have no p value."
    )


def _directions(
    states: States, design: Design, cells: list[int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, D) centroid of the goal, and the middle that is subtracted, without the cell itself."""
    assert states.centroids is not None
    goals, middles = [], []
    for cell in cells:
        embedding, own = states.embeddings[cell], int(design.state[cell])
        goals.append(states.centroids.without(embedding, own)[1])
        middles.append(states.centroids.middle(embedding, own) if states.center else np.zeros_like(embedding))
    goal, middle = (torch.from_numpy(np.stack(part)).float().to(device) for part in (goals, middles))
    return goal, middle
