"""Diffusion pseudotime from a root cell, learned so that new cells need one forward pass and no graph."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from scfm.batch import Batch
from scfm.head.base import Arrays, Outputs
from scfm.head.ranges import check_not_negative, check_positive
from scfm.head.survey import Survey, build_row_table, lookup_rows
from scfm.head.trajectory.base import Trajectory, TrajectoryOptions, regression_metrics
from scfm.head.trajectory.diffusion import absorption, diffusion_pseudotime, extreme_cell, neighbor_graph, scale_ranks
from scfm.head.trajectory.label import spearman
from scfm.metrics.neighbors import nearest
from scfm.types import Backbone, Metrics, Spec

log = logging.getLogger(__name__)

#: The head's steps before training: cells of one, learning rate, weight decay.
WARM_UP_CELLS, WARM_UP_RATE, WARM_UP_DECAY = 128, 2e-3, 0.1


class Pseudotime(Trajectory):
    """Diffusion pseudotime on the cells' gene components, regressed (DPT: Haghverdi et al. 2016, through scanpy).

    Before training, DPT from the root is computed on the training cells' neighbor graph, in the space of the gene
    components (of the frozen embedding where there are none), and scaled to ranks in [0, 1]; the loss is
    Huber(t̂, t) + ``order`` · mean log(1 + e^{−sign(t_i−t_j)(t̂_i−t̂_j)/s}). Held-out cells are compared with the mean of
    their nearest training cells. Cells not connected with the root are left out. With ``fate``, probabilities of
    ending in each terminal state are computed on the same graph and learned by cross-entropy.

    Args:
        spec: vocabulary, classes and widths of the run.
        root_cell: name of the cell where the process begins; either this or ``root_type``.
        root_type: a category of ``root_label``: its most extreme cell is the root.
        root_label: obs column of the root type.
        neighbors: neighbors of each cell in the graph.
        gene_components: dimensions of the space of the graph, also beside the backbone's embedding; 0 for the graph of
            the frozen embedding.
        warm_up: steps by which the head alone is trained before fine-tuning.
        hidden: width of the hidden layer; 0 for a linear network.
        order: weight of the pairwise term.
        softness: s.
        **options: see :class:`~scfm.head.trajectory.base.Trajectory`.

    Raises:
        ValueError: not exactly one root, an unknown column or type; in training, a root cell that does not exist.
    """

    times: Tensor
    ends: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        root_cell: str | None = None,
        root_type: str | None = None,
        root_label: str | None = None,
        neighbors: int = 50,
        gene_components: int = 50,
        warm_up: int = 300,
        hidden: int = 128,
        order: float = 0.1,
        softness: float = 0.1,
        **options: Unpack[TrajectoryOptions],
    ) -> None:
        super().__init__(spec, label=root_label, gene_components=gene_components, hidden=hidden, **options)
        if warm_up < 0:
            raise ValueError(f"head.warm_up={warm_up}; expected a number of steps, 0 or more")
        if neighbors < 2:
            raise ValueError(f"head.neighbors={neighbors}; expected at least 2")
        check_positive(softness=softness)
        check_not_negative(order=order)
        self.root_cell, self.root_type, self.warm_up = root_cell, root_type, warm_up
        self.learned = () if self.fate is None else (self.fate,)
        self.root_code = _root_code(spec, root_cell, root_type, root_label)
        self.neighbors, self.order, self.softness = neighbors, order, softness
        self.register_buffer("times", torch.zeros(0), persistent=False)
        self.register_buffer("ends", torch.zeros((0, max(len(self.fates), 1))), persistent=False)

    def prepare(self, survey: Survey) -> None:
        """Compute the pseudotime and fates that the head learns, and train the head alone.

        Raises:
            ValueError: the root cell does not exist, or no training cell is of the root type.
            ImportError: scanpy is not installed.
        """
        super().prepare(survey)
        train = np.flatnonzero(survey.train)
        space = self.state.search_space(survey)
        cells = neighbor_graph(space[train], self.neighbors)
        time = scale_ranks(diffusion_pseudotime(cells, self._root(survey, train, cells)))
        near = nearest(space[~survey.train], space[train], 5) if len(train) < len(survey.rows) else None
        self.times = torch.from_numpy(
            build_row_table(survey.rows, _fill_held_out(time[:, None], survey.train, near)[:, 0], missing=np.nan)
        )
        if self.fate is not None:
            terminal = survey.obs[self.fate][train]
            ends = absorption(cells.obsp["connectivities"], time, terminal, len(self.fates))
            self.ends = torch.from_numpy(
                build_row_table(survey.rows, _fill_held_out(ends, survey.train, near), missing=np.nan)
            )
        self._train_alone(torch.from_numpy(self.state.from_survey(survey)[train]), torch.from_numpy(survey.rows[train]))

    def _train_alone(self, states: Tensor, index: Tensor) -> None:
        """Train the head on the states of the pretrained backbone, so that it does not damage it (Kumar et al. 2022).

        Args:
            states: (m, D) of the training cells.
            index: (m,) their rows in the store.
        """
        trained = [parameter for name, parameter in self.named_parameters() if not name.startswith("state.")]
        optimizer = torch.optim.AdamW(trained, lr=WARM_UP_RATE, weight_decay=WARM_UP_DECAY)
        generator = torch.Generator().manual_seed(0)
        self.train()
        for _ in range(self.warm_up):
            rows = torch.randperm(len(states), generator=generator)[:WARM_UP_CELLS]
            optimizer.zero_grad()
            self._metrics(states[rows], index[rows])["loss"].backward()
            optimizer.step()
        self.zero_grad(set_to_none=True)

    def _root(self, survey: Survey, train: np.ndarray, cells: object) -> int:
        """Place of the root among the training cells."""
        if self.root_code is not None:
            candidates = survey.obs[str(self.label)][train] == self.root_code
            if not candidates.any():
                raise ValueError(f"no training cell is of the root type {self.root_type!r}; choose another one")
            return extreme_cell(cells, candidates)
        place = _find_cell(survey.names, str(self.root_cell))
        if survey.train[place]:
            return int(np.searchsorted(train, place))
        log.warning("The root cell %s is held out; its nearest training cell is used as root.", self.root_cell)
        return int(nearest(survey.embedding[[place]], survey.embedding[train], 1)[0, 0])

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``, ``error``, ``order_accuracy``, ``n_targets``: the cells connected with the root."""
        assert len(self.times), "prepare(survey) computes the pseudotime before the first step"
        return self._metrics(self.state(backbone, batch), batch.index)

    def _metrics(self, state: Tensor, index: Tensor) -> Metrics:
        truth = lookup_rows(self.times, index, missing=np.nan)
        metrics = regression_metrics(self.place(state), truth, order=self.order, softness=self.softness)
        if self.branches is None:
            return metrics
        fate_loss = self._fate_loss(state, index)
        return metrics | {"loss": metrics["loss"] + self.fate_weight * fate_loss, "fate_loss": fate_loss}

    def _fate_loss(self, state: Tensor, index: Tensor) -> Tensor:
        """Cross-entropy against the probabilities computed on the graph; 0 where no cell has any."""
        assert self.branches is not None, "the head has no fates"
        ends = lookup_rows(self.ends, index, missing=np.nan)
        known = ends.isfinite().all(1)
        log_fates = self.branches(state).float().log_softmax(1)
        return -(ends.nan_to_num() * log_fates).sum() / known.sum().clamp(min=1)

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> Outputs:
        """``pseudotime`` and ``fates``, see the base class; in training also ``diffusion``, the target."""
        outputs = super().predict(backbone, batch)
        if len(self.times):
            outputs["diffusion"] = lookup_rows(self.times, batch.index, missing=np.nan)
        return outputs

    def summarize(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """``spearman`` of pseudotime and diffusion pseudotime over a whole epoch."""
        if "diffusion" not in outputs:
            return {}
        return {"spearman": spearman(outputs["pseudotime"], outputs["diffusion"])}


def _root_code(spec: Spec, cell: str | None, kind: str | None, label: str | None) -> int | None:
    """Code of the root type, or None where the root is a cell."""
    if (cell is None) == (kind is None):
        raise ValueError(
            "pseudotime needs one root: head.root_cell=NAME, or head.root_type=TYPE with head.root_label=COLUMN"
        )
    if kind is None:
        return None
    names = spec.categories("head.root_label", str(label))
    if kind not in names:
        raise ValueError(f"head.root_type={kind!r} is no category of {label!r}; {_suggest(kind, names)}")
    return names.index(kind)


def _find_cell(names: Sequence[str], cell: str) -> int:
    """Row of a cell by its name.

    Raises:
        ValueError: no such cell.
    """
    try:
        return list(names).index(cell)
    except ValueError:
        raise ValueError(
            f"the root cell {cell!r} does not exist among the {len(names)} cells of the store; {_suggest(cell, names)}"
        ) from None


def _suggest(name: str, names: Sequence[str]) -> str:
    """The known name nearest to a wrong one, or some known names."""
    close = difflib.get_close_matches(name, names[:5000], n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(map(str, names[:5]))}, ..."


def _fill_held_out(values: np.ndarray, train: np.ndarray, near: np.ndarray | None) -> np.ndarray:
    """Values (m, k) of the training cells, and for the others the mean of their nearest training cells, (n, k)."""
    filled = np.full((len(train), values.shape[1]), np.nan, dtype=np.float32)
    filled[train] = values
    if near is not None:
        filled[~train] = values[near].mean(axis=1)
    return filled
