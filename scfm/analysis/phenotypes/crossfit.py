"""Predictions of held-out samples, for the true labels and for permuted ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, vmap

from scfm.head.phenotype.bags import Bags, make_bags
from scfm.head.phenotype.fit import Fit, fit_networks
from scfm.head.phenotype.kinds import prediction
from scfm.head.phenotype.network import BagNetwork
from scfm.head.phenotype.space import SampleSpace

Fold = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Heldout:
    """What networks say of samples that they did not learn from.

    Attributes:
        probabilities: (M, S, C), mean over the folds that hold a sample out.
        attention: (n,) of the first network, mean over folds; the mean of a sample's cells is 1.
        other: (n,) the same of a second seed.
        contribution: (n,) margin of the last class that a cell adds, of the first network.
        falls: (M', S, 2) fall of the logit of the called class when a tenth of the cells is taken out: those of highest
            attention, and random ones (mean of several draws).
    """

    probabilities: np.ndarray
    attention: np.ndarray
    other: np.ndarray
    contribution: np.ndarray
    falls: np.ndarray


def fit_heldout(
    states: Callable[[np.ndarray], np.ndarray], place: np.ndarray, labels: np.ndarray, folds: Sequence[Fold], *,
    make: Callable[[int], BagNetwork], width: int, how: Fit, types: np.ndarray | None = None, n_null: int = 50,
    advance: Callable[[int], None] = lambda n: None,
) -> Heldout:  # fmt: skip
    """Fit networks on the training samples of each fold and read those held out.

    Args:
        states: of training samples (S,) bool -> (n, D') states of all cells, fitted on these samples.
        place: (n,) sample of each cell.
        labels: (M, S) the true labels first.
        folds: training and test samples.
        make: seed -> a new network.
        width: directions of the states.
        how: of the fit.
        types: (n,) codes of types whose means are subtracted; None for none.
        n_null: permuted networks whose attention is tested.
        advance: told of finished folds.
    """
    n_samples, n_classes = labels.shape[1], int(labels.max()) + 1
    total = np.zeros((len(labels), n_samples, n_classes))
    tests, n_tests = np.zeros(n_samples), min(len(labels), n_null + 1)
    falls = np.zeros((n_tests, n_samples, 2))
    cells = np.zeros((3, len(place)))
    truth = torch.from_numpy(labels)
    for number, (train, test) in enumerate(folds):
        values = states(train)
        space = SampleSpace(values.shape[1], width, 0 if types is None else int(types.max()) + 1)
        space.fit(values, np.where(train[place], place, -1), types)
        low = space(torch.from_numpy(values), None if types is None else torch.from_numpy(types))
        bags = make_bags(low, torch.from_numpy(place), n_samples)
        if make(how.seed).is_linear:  # the mean of the cells says all
            bags = bags.pooled()
        used = torch.from_numpy(np.tile(train, (len(labels), 1)))
        network, second = make(how.seed), make(how.seed + 1)
        found = fit_networks(network, bags, truth, used, how)
        held = np.flatnonzero(test)
        own = Bags(bags.values[held], bags.mask[held])
        logits, attention = read_bags(network, found, own)
        total[:, held] += prediction("class", logits).double().numpy()
        tests[held] += 1
        falls[:, held] += deletion_falls(network, found, own, n_tests, how.seed + number)
        again = fit_networks(second, bags, truth[:1], used[:1], replace(how, seed=how.seed + 1))
        _, other = read_bags(second, again, own)
        margin = own.values @ (found["weight"][0, -1] - found["weight"][0, 0])
        sizes = own.mask.sum(1, keepdim=True)
        for row, sample in enumerate(held):  # make_bags keeps the order of cells
            rows, there = np.flatnonzero(place == sample), own.mask[row]
            if int(there.sum()) != len(rows):  # pooled
                cells[:2, rows] += 1.0
                continue
            for i, each in enumerate((attention[0].mean(-1) * sizes, other[0].mean(-1) * sizes, margin)):
                cells[i, rows] += each[row, there].numpy()
        advance(1)
    cells /= np.maximum(tests[place], 1)
    return Heldout(
        total / np.maximum(tests, 1)[None, :, None], cells[0], cells[1], cells[2],
        falls / np.maximum(tests, 1)[None, :, None],
    )  # fmt: skip


def read_bags(
    network: BagNetwork, parameters: dict[str, Tensor], bags: Bags, masks: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Logits (M, S, K) and attention (M, S, n, A) of M networks; ``masks`` (M, S, n) are cells of each network."""
    given = bags.mask if masks is None else masks
    axes = (0, None, None if masks is None else 0)
    model = vmap(lambda own, values, mask: functional_call(network, own, (values, mask)), in_dims=axes)
    with torch.no_grad():
        parts = [
            model({name: value[i : i + 32] for name, value in parameters.items()}, bags.values,
                  given if masks is None else given[i : i + 32])
            for i in range(0, len(next(iter(parameters.values()))), 32)
        ]  # fmt: skip
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def deletion_falls(
    network: BagNetwork, parameters: dict[str, Tensor], bags: Bags, n_networks: int, seed: int, draws: int = 8
) -> np.ndarray:
    """(M', S, 2) fall of the called class' logit less the mean of the others without the top, and a random, tenth.

    Args:
        network: the architecture.
        parameters: of M networks, of which the first M' are tested.
        bags: of held-out samples.
        n_networks: M'.
        seed: of the random tenths.
        draws: of them.
    """
    few = {name: value[:n_networks] for name, value in parameters.items()}
    logits, attention = read_bags(network, few, bags)
    called = logits.argmax(-1, keepdim=True)
    before = _margin(logits, called)
    n_out = torch.clamp((bags.mask.sum(1) * 0.1).round().long(), min=1)
    top = _without(attention.mean(-1), bags.mask, n_out)
    fall = before - _margin(read_bags(network, few, bags, top)[0], called)
    generator, random = torch.Generator().manual_seed(seed), torch.zeros_like(fall)
    for _ in range(draws):
        key = torch.rand(bags.mask.shape, generator=generator).expand(n_networks, -1, -1)
        random += (before - _margin(read_bags(network, few, bags, _without(key, bags.mask, n_out))[0], called)) / draws
    return torch.stack([fall, random], -1).double().numpy()


def _margin(logits: Tensor, called: Tensor) -> Tensor:
    own = logits.gather(-1, called).squeeze(-1)
    return own - (logits.sum(-1) - own) / (logits.shape[-1] - 1)


def _without(key: Tensor, mask: Tensor, n_out: Tensor) -> Tensor:
    """Masks (M, S, n) without the cells of the largest keys (M, S, n)."""
    order = key.masked_fill(~mask, -1.0).argsort(-1, descending=True).argsort(-1)
    return mask & (order >= n_out[:, None])


def logistic_heldout(values: np.ndarray, labels: np.ndarray, folds: Sequence[Fold], c: float = 1.0) -> np.ndarray:
    """(M, S, C) held-out probabilities of L2 logistic regression, features z-scored on training samples.

    Args:
        values: (S, p) features of samples; where p is larger than S they are rotated, which changes no prediction.
        labels: (M, S) codes.
        folds: training and test samples.
        c: inverse strength of the penalty, divided by the mean squared length of a sample.
    """
    from sklearn.linear_model import LogisticRegression

    n_classes = int(labels.max()) + 1
    total, tests = np.zeros((*labels.shape, n_classes)), np.zeros(labels.shape[1])
    for train, test in folds:
        spread = values[train].std(axis=0)
        scaled = (values - values[train].mean(axis=0))[:, spread > 1e-9] / spread[spread > 1e-9]
        if scaled.shape[1] > train.sum():
            _, _, directions = np.linalg.svd(scaled[train], full_matrices=False)
            scaled = scaled @ directions.T
        strength = c / max((scaled[train] ** 2).sum(axis=1).mean() / 10, 1e-9)
        tests[test] += 1
        for row, codes in enumerate(labels):
            seen = np.unique(codes[train])
            if len(seen) < 2:
                total[row][np.ix_(test, seen)] += 1
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = LogisticRegression(C=strength, class_weight="balanced", max_iter=200)
                model.fit(scaled[train], codes[train])
            total[row][np.ix_(test, model.classes_)] += model.predict_proba(scaled[test])
    return total / np.maximum(tests, 1)[None, :, None]
