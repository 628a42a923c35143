"""The change of mean expression under a perturbation, for groups that were never perturbed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.genes.table import table
from scfm.head.base import OBS, Arrays, Head, Outputs, Written
from scfm.head.gene_components import DEPTH, GeneComponents
from scfm.head.perturbation.shift_fit import Means, ShiftFit, fit_shift, group_means, unseen_shift
from scfm.head.phenotype.sample_columns import code_types, name_samples
from scfm.head.ranges import check_not_negative, check_positive
from scfm.head.survey import Survey
from scfm.metrics.shift import shift_scores
from scfm.types import Backbone, Metrics, Spec

log = logging.getLogger(__name__)


class Shift(Head):
    """Predicts δ, treated less control mean of log-normalized expression, of a group from its control cells alone.

    δ̂ = mean shift of the training groups + λ (their mean control − this control), λ by leaving out groups
    (:mod:`scfm.head.perturbation.shift_fit`): all that two to ten groups can carry. A gene that was never perturbed
    (``unseen``) gets the mean over perturbations and what a ridge of the genes' codes adds, the codes being their
    loadings on the linear components of expression; ``A+B`` is the sum of both where both were perturbed. Everything
    has a closed
    form: training steps change nothing, take ``adapt=frozen``.

    Args:
        spec: vocabulary and classes.
        label: obs column of the conditions, the control among them.
        control: its name.
        group: obs column of the groups (patients, types).
        unseen: conditions to predict that no cell has: genes by symbol or token, or sums ``A+B``.
        genes: of the largest mean that are predicted, at most.
        gene_components: width of the genes' codes.
        min_cells: of a group in a condition; fewer do not count.
        energy: weight of the energy distance in the reported loss.

    Raises:
        ValueError: no such column or control, an unknown gene, or a number out of its range.
    """

    metric: ClassVar[str] = "loss"
    shift: Tensor
    base: Tensor
    back: Tensor
    chosen: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        label: str,
        control: str,
        group: str,
        unseen: Sequence[str] = (),
        genes: int = 1000,
        gene_components: int = 32,
        min_cells: int = 10,
        energy: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive(genes=genes, gene_components=gene_components)
        check_not_negative(energy=energy)
        if min_cells < 2:
            raise ValueError(f"head.min_cells={min_cells}; expected at least 2 cells of a group in a condition")
        self.conditions = spec.categories("head.label", label)
        if control not in self.conditions:
            raise ValueError(f"head.control={control!r} is not in {label!r}; it has {', '.join(self.conditions)}")
        if len(self.conditions) < 2:
            raise ValueError(f"head.label={label!r} has the control alone; expected a perturbation")
        self.groups = spec.categories("head.group", group)
        self.label, self.group, self.control = label, group, self.conditions.index(control)
        self.min_cells, self.energy, self.unseen = min_cells, energy, tuple(unseen)
        self.labels, self.learned, self.counts = (label, group), (label,), True
        self.file_columns = (group, label)
        self.vocab = spec.vocab
        parts = {part for name in self.unseen for part in name.split("+")}.difference(self.conditions)
        self.tokens = {name: _gene_token(name, spec) for name in sorted(parts)}
        self.components = GeneComponents(spec.vocab, gene_components, "counts")
        n = len(self.conditions) + len(self.unseen)
        g = min(genes, len(spec.vocab.gene_ids))
        self.rest = nn.Parameter(torch.zeros(()))  # a term that stays 0, for an optimizer that wants a parameter
        for name, value in (("shift", torch.full((n, g), torch.nan)), ("base", torch.full((n, g), torch.nan)),
                            ("back", torch.zeros(())), ("chosen", torch.zeros(g, dtype=torch.int64))):  # fmt: skip
            self.register_buffer(name, value)
        self._means: Means | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Conditions that are predicted, the control's place included."""
        return (*self.conditions, *self.unseen)

    def prepare(self, survey: Survey) -> None:
        """Choose genes, fit their codes and the shift on the training cells.

        Raises:
            ValueError: a group on both sides of the split, or none with controls and treated cells.
        """
        groups = survey.obs[self.group]
        both = np.intersect1d(groups[survey.train & (groups >= 0)], groups[~survey.train & (groups >= 0)])
        if len(both):
            raise ValueError(
                f"{len(both)} group(s) have cells in training and outside of it, so that their own response would be "
                f"known: keep them whole with data.group={self.group}"
            )
        self.components.prepare(survey)
        places = np.arange(len(survey.rows))
        x = self._log_matrix(survey, places[survey.train])
        order = np.argsort(-x.mean(axis=0), kind="stable")[: len(self.chosen)]
        self.chosen.copy_(torch.from_numpy(self.vocab.gene_ids[np.sort(order)].astype(np.int64)))
        every = self._log_matrix(survey, places)[:, np.sort(order)]
        self._means = self._group(every, survey.obs)
        self._learn(every[survey.train], {name: values[survey.train] for name, values in survey.obs.items()})

    def _log_matrix(self, survey: Survey, places: np.ndarray) -> np.ndarray:
        """(n, genes) log-normalized expression of all genes of the vocabulary."""
        assert survey.tokens is not None, "the head asks for tokens"
        assert survey.counts is not None, "the head asks for counts"
        cells, counts = survey.tokens(places), survey.counts(places)
        column = np.full(len(self.vocab), -1)
        column[self.vocab.gene_ids] = np.arange(len(self.vocab.gene_ids))
        x = np.zeros((len(places), len(self.vocab.gene_ids)), dtype=np.float32)
        cell, ids = np.repeat(np.arange(len(places)), cells.lengths), column[cells.values.astype(np.int64)]
        x[cell[ids >= 0], ids[ids >= 0]] = counts[ids >= 0]
        return np.log1p(DEPTH * x / np.maximum(x.sum(axis=1, keepdims=True), 1e-12))

    def refit(self, outputs: Arrays, targets: Arrays) -> None:
        """Fit the shift on all groups that may be learned from."""
        self._learn(outputs["expression"], targets)

    def _group(self, x: np.ndarray, obs: Arrays) -> Means:
        return group_means(
            x, obs[self.group], obs[self.label], self.control, len(self.groups), len(self.conditions), self.min_cells
        )

    def _learn(self, x: np.ndarray, obs: Arrays) -> None:
        found = fit_shift(self._group(x, obs))
        shift = np.concatenate([found.shift, self._unseen_shifts(found.shift)])
        base = np.concatenate([found.base, np.tile(np.nanmean(found.base, axis=0), (len(self.unseen), 1))])
        self.shift.copy_(torch.from_numpy(shift).to(self.shift))
        self.base.copy_(torch.from_numpy(base).to(self.base))
        self.back.fill_(found.back)
        log.info("Fitted the shift of %d condition(s); λ = %.2f.", int(np.isfinite(shift[:, 0]).sum()), found.back)

    def _unseen_shifts(self, shift: np.ndarray) -> np.ndarray:
        """(unseen, G): sums of single perturbations, or what the genes' codes tell."""
        if not self.unseen:
            return np.zeros((0, shift.shape[1]))
        known = {name: shift[i] for i, name in enumerate(self.conditions) if np.isfinite(shift[i]).all()}
        loadings = self.components.loadings.cpu().numpy()
        coded = {name: token for name in known if (token := _find_token(name, self.vocab.tokens)) is not None}
        codes = np.array([loadings[token] for token in coded.values()]).reshape(len(coded), loadings.shape[1])
        seen = np.array([known[name] for name in coded]) if coded else np.array(list(known.values()))
        rows = []
        for name in self.unseen:
            parts = name.split("+")
            each = [
                known[part]
                if part in known
                else unseen_shift(codes, seen, loadings[self.tokens[part]])
                if coded
                else seen.mean(axis=0)
                for part in parts
            ]
            rows.append(np.sum(each, axis=0))
        return np.array(rows)

    def expression(self, batch: Batch) -> Tensor:
        """(B, G) log-normalized expression of the chosen genes."""
        counts = batch.counts
        assert counts is not None, "the head asks for counts"
        counts = counts.float() * self.components.gene[batch.ids]
        total = counts.new_zeros(batch.n_cells).index_add(0, batch.token_cell, counts)
        column = torch.full((len(self.vocab),), -1, dtype=torch.int64, device=counts.device)
        column[self.chosen] = torch.arange(len(self.chosen), device=counts.device)
        place = column[batch.ids]
        inside = place >= 0
        x = counts.new_zeros(batch.n_cells, len(self.chosen))
        x[batch.token_cell[inside], place[inside]] = counts[inside]
        return (DEPTH * x / total.clamp(min=1e-12)[:, None]).log1p()

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss`` of the groups of a batch, ‖δ̂ − δ‖² / ‖δ‖² and the energy distance, and ``n_targets``."""
        x, total, n = self.expression(batch), batch.ids.new_zeros((), dtype=torch.float32), 0
        groups, conditions = batch.obs[self.group], batch.obs[self.label]
        for group in groups[groups >= 0].unique():
            if self._means is None or not np.isfinite(self._means.control[int(group)]).all():
                continue
            control = torch.from_numpy(self._means.control[int(group)]).to(x)
            own = x[(groups == group) & (conditions == self.control)]
            for code in range(len(self.conditions)):
                measured = torch.from_numpy(self._means.change[int(group), code]).to(x)
                predicted = self.shift[code] + self.back * (self.base[code] - control)
                if not (measured.isfinite().all() and predicted.isfinite().all()):
                    continue
                loss = (predicted - measured).square().sum() / measured.square().sum().clamp(min=1e-12)
                treated = x[(groups == group) & (conditions == code)]
                if self.energy and min(len(own), len(treated)) > 1:
                    loss = loss + self.energy * energy(own + predicted, treated)
                total, n = total + loss, n + 1
        return {"loss": total / max(n, 1) + 0.0 * self.rest, "n_targets": torch.tensor(n, device=x.device)}

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> Outputs:
        """``expression`` (B, G) of each cell; the change of a group follows from all its controls, in :meth:`write`."""
        return {"expression": self.expression(batch)}

    def summarize(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """Means over groups and conditions of :func:`~scfm.metrics.shift.shift_scores`, and ``mse_mean_shift``."""
        means, fit = self._group(outputs["expression"], targets), self._fit()
        rows: list[dict[str, float]] = []
        for group, condition in np.argwhere(np.isfinite(means.change).all(axis=2)):
            shift = fit.shift[condition]
            if np.isfinite(shift).all():
                measured = means.change[group, condition]
                scores = shift_scores(fit.predict(means.control[group])[condition], measured)
                rows.append({**scores, "mse_mean_shift": float(((shift - measured) ** 2).mean())})
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else {}

    def _fit(self) -> ShiftFit:
        shift, base = (value.cpu().numpy().astype(np.float64) for value in (self.shift, self.base))
        return ShiftFit(shift, base, float(self.back))

    def write(self, outputs: Arrays) -> Written:
        """``scfm_shift_NAME`` of each cell: 0 at the mean control, 1 at the mean treated cell, along the change.

        ``uns`` has ``genes``, ``groups``, ``conditions`` and ``change`` (groups · conditions, G), row by row.
        Controls are the cells whose column ``head.label`` names the control; without that column, all cells of a
        group.
        """
        x = outputs["expression"]
        known = np.asarray(np.isfinite(x).all(axis=1))
        names, place = name_samples(outputs, self.group, known)
        named = outputs.get(OBS + self.label)
        controls = known if named is None else known & (code_types(named, self.conditions) == self.control)
        fit = self._fit()
        told = [i for i in range(len(self.names)) if np.isfinite(fit.shift[i]).all()]
        columns = {f"scfm_shift_{self.names[i]}": np.full(len(x), np.nan, dtype=np.float32) for i in told}
        change, rows = [], []
        for group, name in enumerate(names):
            own = (place == group) & controls
            if own.sum() < self.min_cells:
                log.warning(
                    "%s has %d control cells, fewer than %d: no change is predicted.", name, own.sum(), self.min_cells
                )
                continue
            control = x[own].mean(axis=0)
            predicted = fit.predict(control)
            cells = place == group
            for i in told:
                along = predicted[i] / max(float(predicted[i] @ predicted[i]), 1e-12)
                columns[f"scfm_shift_{self.names[i]}"][cells] = (x[cells] - control) @ along
            change.append(predicted[told])
            rows.append(name)
        uns: dict[str, Any] = {
            "genes": [self.vocab.tokens[int(token)] for token in self.chosen.cpu()],
            "groups": rows,
            "conditions": [self.names[i] for i in told],
            "change": np.concatenate(change).astype(np.float32)
            if change
            else np.zeros((0, len(self.chosen)), np.float32),
            "back": float(self.back),
        }
        return Written(obs=columns, uns=uns)


def energy(x: Tensor, y: Tensor) -> Tensor:
    """2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖ of cells (n, G) and (m, G), at least two of each."""
    n, m = len(x), len(y)
    return (
        2 * torch.cdist(x, y).mean() - torch.cdist(x, x).sum() / (n * (n - 1)) - torch.cdist(y, y).sum() / (m * (m - 1))
    )


def _gene_token(name: str, spec: Spec) -> int:
    token = _find_token(name, spec.vocab.tokens)
    if token is None:
        raise ValueError(f"head.unseen names {name!r}, which is no gene of the vocabulary; give symbols or its tokens")
    return token


def _find_token(name: str, tokens: Sequence[str]) -> int | None:
    """Id of a gene by its token or, where tokens are Ensembl ids, its symbol."""
    for candidate in (name, table("human").by_symbol.get(name)):
        if candidate is not None and candidate in tokens:
            return list(tokens).index(candidate)
    return None
