"""Fit bag networks, many label vectors at once, on cells whose states do not change."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from scfm.head.phenotype.bags import Bags
from scfm.head.phenotype.kinds import Kind, bag_loss, class_weights
from scfm.head.phenotype.network import BagNetwork, instance_loss

#: Weight of the bag's loss where there is an instance term (CLAM).
BAG_SHARE = 0.7
#: Numbers that the models of one pass may hold.
MOST = 40_000_000


@dataclass(frozen=True)
class Fit:
    """How bag networks are fitted.

    Attributes:
        kind: of the phenotype.
        steps: of Adam.
        rate: of Adam.
        decay: weight of ‖W‖²/2 beside the mean loss; attention has a tenth of it.
        cells: of a sub-bag: each step draws at most so many of each sample.
        instances: cells of the instance term at each end; 0 for none.
        seed: of initial values and draws.
    """

    kind: Kind = "class"
    steps: int = 120
    rate: float = 0.03
    decay: float = 0.1
    cells: int = 256
    instances: int = 0
    seed: int = 0


def fit_networks(network: BagNetwork, bags: Bags, truth: Tensor, used: Tensor, how: Fit) -> dict[str, Tensor]:
    """Parameters of M networks, each fitted to its own labels and samples.

    Args:
        network: its initial values; not changed.
        bags: of S samples.
        truth: (M, S) or (M, S, 2) labels, see :func:`~scfm.head.phenotype.kinds.bag_loss`.
        used: (M, S) bool, samples that a network learns from.
        how: see :class:`Fit`.

    Returns:
        (M, ...) by name of the parameter.
    """
    size = bags.values.shape[0] * min(bags.values.shape[1], how.cells) * (bags.values.shape[2] + 96)
    at_once = max(1, MOST // size)
    parts = [
        _fit(network, bags, truth[first : first + at_once], used[first : first + at_once], how)
        for first in range(0, len(truth), at_once)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@torch.enable_grad()
def _fit(network: BagNetwork, bags: Bags, truth: Tensor, used: Tensor, how: Fit) -> dict[str, Tensor]:
    with torch.inference_mode(False):
        return _descend(network, Bags(bags.values.clone(), bags.mask.clone()), truth.clone(), used.clone(), how)


def _descend(network: BagNetwork, bags: Bags, truth: Tensor, used: Tensor, how: Fit) -> dict[str, Tensor]:
    n = len(truth)
    start = {name: value.detach().clone() for name, value in network.named_parameters()}
    parameters = {name: value.expand(n, *value.shape).clone().requires_grad_(True) for name, value in start.items()}
    shell = copy.deepcopy(network)
    model = vmap(lambda own, values, mask: functional_call(shell, own, (values, mask)), in_dims=(0, None, None))
    weight = used.float()
    if how.kind == "class":
        weight = class_weights(truth, used, network.bias.shape[0])
    optimizer = torch.optim.Adam(list(parameters.values()), lr=how.rate)
    generator = torch.Generator().manual_seed(how.seed)
    for step in range(how.steps):
        for group in optimizer.param_groups:  # falls to a tenth
            group["lr"] = how.rate * 0.1 ** (step / how.steps)
        part = bags.draw(how.cells, generator)
        logits, attention = model(parameters, part.values, part.mask)
        loss = bag_loss(how.kind, logits, truth, weight)
        if how.instances and how.kind == "class":
            loss = BAG_SHARE * loss + (1 - BAG_SHARE) * _instances(parameters, part, attention, truth, weight, how)
        penalty = how.decay * sum(
            (1.0 if name == "weight" else 0.1) * value.square().flatten(1).sum(1) / 2
            for name, value in parameters.items()
            if not name.endswith("bias")
        )
        optimizer.zero_grad()
        (loss + penalty).sum().backward()
        optimizer.step()
    return {name: value.detach() for name, value in parameters.items()}


def _instances(
    parameters: dict[str, Tensor], bags: Bags, attention: Tensor, truth: Tensor, weight: Tensor, how: Fit
) -> Tensor:
    """(M,) the instance term in the branch of the true class."""
    scores = torch.einsum("snd,mkd->msnk", bags.values, parameters["weight"])
    true = truth.long()[..., None, None].expand(*scores.shape[:3], 1)
    own = scores.gather(-1, true).squeeze(-1)
    branch = true if attention.shape[-1] > 1 else torch.zeros_like(true)
    weights = attention.gather(-1, branch).squeeze(-1)
    each = vmap(lambda s, a: instance_loss(s, a, bags.mask, how.instances))(own, weights.detach())
    return (each * weight).sum(-1) / weight.sum(-1).clamp(min=1e-12)


def run_networks(network: BagNetwork, parameters: dict[str, Tensor], bags: Bags) -> tuple[Tensor, Tensor]:
    """Logits (M, S, K) and attention (M, S, n, A) of M networks."""
    model = vmap(lambda own, values, mask: functional_call(network, own, (values, mask)), in_dims=(0, None, None))
    with torch.no_grad():
        return model(parameters, bags.values, bags.mask)


def load_parameters(network: BagNetwork, parameters: dict[str, Tensor], which: int = 0) -> None:
    """Set a network to one of the fitted ones."""
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.copy_(parameters[name][which])
