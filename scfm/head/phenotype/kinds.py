"""What a phenotype is: a class, ordered classes, a time to an event, a number; the loss and the prediction of each."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Kind = Literal["class", "ordinal", "survival", "value"]
KINDS = ("class", "ordinal", "survival", "value")


def n_outputs(kind: Kind, n_classes: int) -> int:
    """Outputs of the network."""
    return {"class": n_classes, "ordinal": n_classes - 1}.get(kind, 1)


def bag_loss(kind: Kind, logits: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean loss of bags.

    Args:
        kind: of the phenotype.
        logits: (..., S, K) outputs of the network.
        truth: (..., S) class codes or numbers, (..., S, 2) time and event for survival.
        weight: (..., S) of each bag, 0 for those that are held out.

    Returns:
        (...,) one loss for each model.
    """
    if kind == "survival":
        return cox_loss(logits[..., 0], truth[..., 0], truth[..., 1], weight)
    if kind == "class":
        each = -logits.log_softmax(-1).gather(-1, truth.long().unsqueeze(-1)).squeeze(-1)
    elif kind == "ordinal":
        steps = torch.arange(logits.shape[-1], device=logits.device)
        above = (truth.unsqueeze(-1) > steps).to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(logits, above, reduction="none").sum(-1)
    else:
        each = (logits[..., 0] - truth).square()
    return (each * weight).sum(-1) / weight.sum(-1).clamp(min=1e-12)


def cox_loss(risk: Tensor, time: Tensor, event: Tensor, weight: Tensor) -> Tensor:
    """−Σ_{events i} [η_i − ln Σ_{t_j ≥ t_i} e^{η_j}] / number of events (Cox 1972; Breslow's ties).

    Args:
        risk: (..., S) η.
        time: (..., S).
        event: (..., S) 1 where the event was seen, 0 where censored.
        weight: (..., S) 0 leaves a sample out of events and risk sets.

    Returns:
        (...,); 0 where no event was seen.
    """
    used = weight > 0
    at_risk = (time.unsqueeze(-2) >= time.unsqueeze(-1)) & used.unsqueeze(-2)
    total = risk.unsqueeze(-2).masked_fill(~at_risk, -torch.inf).logsumexp(-1)
    events = event * used
    each = torch.where(events > 0, risk - total, torch.zeros_like(risk))
    return -(each * events).sum(-1) / events.sum(-1).clamp(min=1)


def prediction(kind: Kind, logits: Tensor) -> Tensor:
    """What is said of a bag: probabilities of classes (..., S, C), or the risk or number (..., S, 1)."""
    if kind == "class":
        return logits.softmax(-1)
    if kind == "ordinal":
        above = logits.sigmoid()
        one, zero = torch.ones_like(above[..., :1]), torch.zeros_like(above[..., :1])
        return torch.cat([one, above], -1) - torch.cat([above, zero], -1)
    return logits[..., :1]


def class_weights(truth: Tensor, used: Tensor, n_classes: int) -> Tensor:
    """(..., S) weights with which the classes of the used bags weigh alike; 0 for the others."""
    member = F.one_hot(truth.long().clamp(min=0), n_classes).to(torch.float32) * used.unsqueeze(-1)
    each = member / member.sum(-2, keepdim=True).clamp(min=1)
    return each.sum(-1)
