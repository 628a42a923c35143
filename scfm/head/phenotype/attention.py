"""The phenotype of a sample from its cells, by attention over them (CLAM, WIT; Ilse et al. 2018)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from scfm.batch import Batch
from scfm.head.base import OBS, Arrays, Outputs, Written
from scfm.head.cell_state import CellState, StateHead
from scfm.head.phenotype.bags import Samples, find_samples, make_bags, require_donors, require_no_batch
from scfm.head.phenotype.fit import Fit, fit_networks, load_parameters
from scfm.head.phenotype.kinds import KINDS, Kind, bag_loss, n_outputs, prediction
from scfm.head.phenotype.network import BagNetwork, Pooling
from scfm.head.phenotype.sample_columns import first_values, name_samples, read_types
from scfm.head.phenotype.space import SampleSpace
from scfm.head.ranges import check_not_negative, check_positive
from scfm.head.survey import Survey
from scfm.metrics.samples import concordance, sample_scores
from scfm.types import Backbone, Metrics, Sampling, Spec

log = logging.getLogger(__name__)


class Attention(StateHead):
    """Names the phenotype of samples (donors, conditions) and the cells that it rests on.

    Cells are read by the backbone and by linear components of their genes, projected onto few directions
    (:class:`~scfm.head.phenotype.space.SampleSpace`) and pooled by gated attention
    (:class:`~scfm.head.phenotype.network.BagNetwork`). The network is fitted on whole bags before the first step and,
    on the fine-tuned backbone, once more after the last; the steps between train the backbone, on micro-batches of one
    sample each. Units are samples, and donors are never on both sides of a split.

    Args:
        spec: classes, width, vocabulary.
        label: obs column of the phenotype, constant in a sample; of the time with ``kind=survival``.
        sample: obs column of the samples.
        donor: obs column of the donors, where samples are not donors.
        kind: ``class``, ``ordinal`` (classes in the order of their names), ``survival`` (Cox) or ``value``.
        event: obs column of numbers, 1 where the event was seen and 0 where censored, with ``kind=survival``.
        batch_key: obs column of batches: a label that follows it is refused.
        within: obs column of cell types whose means are subtracted, so that composition cannot help.
        pool: ``attention``, or ``mean`` of the cells as the baseline.
        branches: an attention for each class.
        inducing: inducing vectors of a set-attention layer before pooling; 0 for none.
        cells: of a sample that a step of the fit draws, at most.
        min_cells: samples of fewer cells take no part.
        width: directions of the states, at most 64.
        hidden: width of the attention network, at most 64.
        gene_components: linear components of the cell's genes beside the embedding; 0 for none.
        max_tokens: tokens of a cell that the backbone reads, at most; the components read all. None: no limit.
        instances: cells of CLAM's instance term at each end of the attention; 0 for none.
        steps: of the fit.
        decay: penalty of the fit.
        seed: of the fit.

    Raises:
        ValueError: an unknown column or kind, or a number out of its range.
    """

    metric: ClassVar[str] = "loss"

    def __init__(
        self,
        spec: Spec,
        *,
        label: str,
        sample: str = "donor",
        donor: str | None = None,
        kind: Kind = "class",
        event: str | None = None,
        batch_key: str | None = None,
        within: str | None = None,
        pool: Pooling = "attention",
        branches: bool = False,
        inducing: int = 0,
        cells: int = 512,
        min_cells: int = 10,
        width: int = 24,
        hidden: int = 16,
        gene_components: int = 64,
        max_tokens: int | None = None,
        instances: int = 0,
        steps: int = 120,
        decay: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_kind(kind, event)
        _check_sizes(width, hidden, min_cells)
        check_positive(cells=cells, steps=steps)
        check_not_negative(decay=decay, inducing=inducing, instances=instances)
        self.names = spec.categories("head.sample", sample)
        self.classes: Sequence[str] = spec.categories("head.label", label) if kind in ("class", "ordinal") else ()
        if self.classes and len(self.classes) < 2:
            raise ValueError(f"head.label={label!r} has the class(es) {list(self.classes)}; expected two or more")
        self.types: Sequence[str] = spec.categories("head.within", within) if within else ()
        for key, column in (("donor", donor), ("batch_key", batch_key)):
            if column is not None:
                spec.categories(f"head.{key}", column)
        self.kind, self.label, self.sample, self.donor, self.event = kind, label, sample, donor, event
        self.batch_key, self.within, self.min_cells = batch_key, within, min_cells
        self.labels = tuple(dict.fromkeys(name for name in (label, sample, donor, event, batch_key, within) if name))
        self.learned = (label,)
        self.file_columns = tuple(name for name in (sample, within, label) if name)
        self.sampling = None if kind == "survival" else Sampling(by=sample, micro_batches="equal")
        self.state = CellState(spec, gene_components, max_tokens, score="log")
        self.space = SampleSpace(self.state.width, width, len(self.types))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = BagNetwork(
                width,
                n_outputs(kind, len(self.classes)),
                hidden=hidden,
                pool=pool,
                branches=branches,
                inducing=inducing,
                ordinal=kind == "ordinal",
            )
        self.fit = Fit(kind, steps=steps, decay=decay, cells=cells, instances=instances, seed=seed)
        self.register_buffer("trained", torch.zeros(len(self.names), dtype=torch.bool))
        self.register_buffer("scale", torch.tensor([0.0, 1.0]))  # mean and deviation of numbers

    trained: Tensor
    scale: Tensor

    def prepare(self, survey: Survey) -> None:
        """Check the samples and fit the network on those of training.

        Raises:
            ValueError: too few donors of a class, a label that is not constant in a sample or follows the batch, bags
                of one cell, or a donor on both sides of the split.
        """
        donors = survey.obs[self.donor or self.sample]
        samples = self._samples(survey.obs)
        both = np.intersect1d(donors[survey.train & (donors >= 0)], donors[~survey.train & (donors >= 0)])
        if len(both):
            raise ValueError(
                f"{len(both)} donor(s) have cells in training and outside of it, so that a head could know them again: "
                f"keep donors whole with data.group={self.donor or self.sample}"
            )
        if self.classes:
            require_donors(samples, self.classes)
            if self.batch_key:
                require_no_batch(samples, survey.obs[self.batch_key], self.batch_key)
        super().prepare(survey)
        states = self.state.from_survey(survey)[survey.train]
        self._learn(states, {name: values[survey.train] for name, values in survey.obs.items()})

    def refit(self, outputs: Arrays, targets: Arrays) -> None:
        """Fit the network on the fine-tuned backbone."""
        self._learn(outputs["state"], targets)

    def _samples(self, obs: Arrays) -> Samples:
        truth = obs[self.label]
        if self.event is not None:
            truth = np.stack([truth, obs[self.event]], axis=1)
        return find_samples(
            obs[self.sample], truth, obs[self.donor] if self.donor else None, min_cells=self.min_cells, names=self.names
        )

    def _learn(self, states: np.ndarray, obs: Arrays) -> None:
        """Fit the space and the network on all samples of some cells."""
        samples = self._samples(obs)
        if len(samples) < 2 or (self.classes and len(np.unique(samples.truth)) < 2):
            raise ValueError(
                f"{len(samples)} training sample(s) of {len(np.unique(samples.truth))} label(s); expected two labels "
                "or more: change the split (data.split_seed, data.val, data.test)"
            )
        types = obs[self.within] if self.within else None
        device = self.scale.device
        self.space.fit(states, samples.cells, types)
        truth = torch.from_numpy(samples.truth.astype(np.float32)).to(device)
        if self.kind == "value":
            self.scale.copy_(torch.stack([truth.mean(), truth.std().clamp(min=1e-6)]))
        bags = make_bags(
            self.space(torch.from_numpy(states).to(device), _on(types, device)),
            torch.from_numpy(samples.cells).to(device), len(samples),
        )  # fmt: skip
        used = torch.ones(1, len(samples), dtype=torch.bool, device=device)
        load_parameters(self.network, fit_networks(self.network, bags, self._scaled(truth)[None], used, self.fit))
        self.trained.zero_()
        self.trained[torch.from_numpy(samples.codes).to(device)] = True
        log.info(
            "Fitted the phenotype network on %d cells of %d samples.", int((samples.cells >= 0).sum()), len(samples)
        )

    def _scaled(self, truth: Tensor) -> Tensor:
        return (truth - self.scale[0]) / self.scale[1] if self.kind == "value" else truth

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss`` over the bags of a batch, and ``n_targets``, their number."""
        types = batch.obs[self.within] if self.within else None
        low = self.space(self.state(backbone, batch), types)
        samples, label = batch.obs[self.sample], batch.obs[self.label].float()
        known = (samples >= 0) & label.isfinite() & ((label >= 0) | (self.kind in ("value", "survival")))
        codes, place = samples[known].unique(return_inverse=True)
        whole = torch.full_like(samples, -1)
        whole[known] = place
        bags = make_bags(low, whole, len(codes))
        truth = low.new_zeros(len(codes)).scatter_(0, place, label[known])
        weight = torch.ones_like(truth)
        if self.event is not None:
            seen = low.new_zeros(len(codes)).scatter_(0, place, batch.obs[self.event].float()[known])
            truth = torch.stack([truth, seen], -1)
        logits, _ = self.network(bags.values, bags.mask)
        loss = bag_loss(self.kind, logits.float(), self._scaled(truth), weight) if len(codes) else low.sum() * 0.0
        return {"loss": loss, "n_targets": torch.tensor(len(codes), device=low.device)}

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> Outputs:
        """``state`` (B, D) of each cell; what is said of a sample follows from all its cells, in :meth:`write`."""
        return {"state": self.state(backbone, batch)}

    def summarize(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """Scores of whole samples: ``auc``, ``balanced_accuracy``, ``brier``; ``concordance``; or ``spearman``."""
        samples = self._samples(targets)
        if len(samples) == 0:
            return {}
        types = targets[self.within] if self.within else None
        said, _, _ = self.read_samples(outputs["state"], samples.cells, len(samples), types)
        if self.kind == "survival":
            return {"concordance": concordance(said[:, 0], samples.truth[:, 0], samples.truth[:, 1])}
        if self.kind == "class":
            return sample_scores(samples.truth, said)
        number = said[:, 0] if self.kind == "value" else said @ np.arange(said.shape[1])
        few = len(samples) < 3 or np.ptp(number) == 0 or np.ptp(samples.truth) == 0
        return {"spearman": float("nan") if few else float(spearmanr(number, samples.truth).statistic)}

    @torch.no_grad()
    def read_samples(
        self, states: np.ndarray, place: np.ndarray, n_samples: int, types: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the network says of samples and of their cells.

        Args:
            states: (n, D') of cells.
            place: (n,) sample of each, -1 for cells that take no part.
            n_samples: S.
            types: (n,) type of each where the head subtracts types, -1 where unknown.

        Returns:
            Predictions (S, C or 1); attention (n, A), of which the mean of a sample's cells is 1; and contributions
            (n, K or 1), what a cell adds to the logits beyond the mean training cell. NaN for cells without a sample.
        """
        device = self.scale.device
        low = self.space(torch.from_numpy(states).to(device), _on(types, device))
        said, attention, score = [], None, np.full((len(states), self.network.weight.shape[0]), np.nan, np.float32)
        for sample in range(n_samples):
            rows = np.flatnonzero(place == sample)
            cells = low[torch.from_numpy(rows).to(device)].unsqueeze(0)
            mask = torch.ones(cells.shape[:2], dtype=torch.bool, device=device)
            logits, weights = self.network(cells, mask)
            if attention is None:
                attention = np.full((len(states), weights.shape[2]), np.nan, np.float32)
            attention[rows] = (weights[0] * len(rows)).cpu().numpy()
            score[rows] = self.network.contributions(self.network.read(cells, mask))[0].cpu().numpy()
            said.append(prediction(self.kind, logits)[0].cpu().numpy())
        values = np.stack(said) if said else np.zeros((0, max(len(self.classes), 1)), np.float32)
        if self.kind == "value":
            values = values * float(self.scale[1]) + float(self.scale[0])
        return values, np.full((len(states), 1), np.nan, np.float32) if attention is None else attention, score

    def write(self, outputs: Arrays) -> Written:
        """``scfm_attention`` (1 = average cell of its sample), ``scfm_phenotype_score``, and the table of samples.

        The samples are those of the obs column ``head.sample`` of the file; where it has none, all cells are one
        sample.
        """
        states = outputs["state"]
        if OBS + self.sample not in outputs:
            log.warning("The cells have no obs column %r: they are read as one sample.", self.sample)
        names, place = name_samples(outputs, self.sample, np.asarray(np.isfinite(states).all(axis=1)))
        types = read_types(outputs, self.within, self.types, len(states)) if self.within else None
        said, attention, score = self.read_samples(np.nan_to_num(states), place, len(names), types)
        obs = {"scfm_attention": attention.mean(axis=1), **self._score_columns(score)}
        seen = {self.names[i] for i in np.flatnonzero(self.trained.cpu().numpy())}
        truth = outputs.get(OBS + self.label)
        about = {
            "sample": np.array(names, dtype=object),
            "n_cells": np.bincount(place[place >= 0], minlength=len(names)),
            "trained_on": np.array([name in seen for name in names]),
            **({} if truth is None else {"truth": first_values(truth, place, len(names))}),
            **{self._name(i): said[:, i] for i in range(said.shape[1])},
        }
        return Written(obs=obs, uns={"samples": about, "kind": self.kind, "label": self.label})

    def _score_columns(self, score: np.ndarray) -> dict[str, np.ndarray]:
        if self.kind == "class" and len(self.classes) == 2:
            return {"scfm_phenotype_score": score[:, 1] - score[:, 0]}
        if score.shape[1] == 1:
            return {"scfm_phenotype_score": score[:, 0]}
        return {f"scfm_phenotype_score_{name}": score[:, i] for i, name in enumerate(self.classes)}

    def _name(self, i: int) -> str:
        if self.classes:
            return f"probability_{self.classes[i]}"
        return "risk" if self.kind == "survival" else "predicted"


def _on(codes: np.ndarray | None, device: torch.device) -> Tensor | None:
    return None if codes is None else torch.from_numpy(codes).to(device)


def _check_sizes(width: int, hidden: int, min_cells: int) -> None:
    check_positive(width=width, hidden=hidden)
    if max(width, hidden) > 64 or min_cells < 2:
        raise ValueError(
            f"head.width={width}, hidden={hidden}, min_cells={min_cells}; expected widths up to 64 (samples are "
            "few) and bags of at least 2 cells"
        )


def _check_kind(kind: str, event: str | None) -> None:
    if kind not in KINDS:
        raise ValueError(f"head.kind={kind!r}; expected one of {', '.join(KINDS)}")
    if (kind == "survival") != (event is not None):
        raise ValueError(f"head.kind={kind}, event={event}; expected head.event with head.kind=survival and only there")
