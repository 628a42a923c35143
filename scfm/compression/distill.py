"""A narrower student that learns from a teacher's guesses and from its embeddings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.data.loader import CellLoader
from scfm.model.backbone import Backbone
from scfm.model.pooling import embed
from scfm.objective.mlm import MLM
from scfm.objective.score import IGNORE
from scfm.types import Spec
from scfm.vocab import Vocab

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Distill:
    """How a student is trained.

    Attributes:
        steps: of AdamW; 0 for none.
        rate: its learning rate, falling to 0 by a cosine.
        alpha: weight of the cross-entropy with the true genes; the rest is of the teacher's guesses.
        temperature: T at which guesses are compared.
        beta: weight of 1 − cos of the embeddings.
        seed: of the order of cells.
    """

    steps: int = 0
    rate: float = 1e-3
    alpha: float = 0.5
    temperature: float = 2.0
    beta: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0 or self.rate <= 0 or not 0 <= self.alpha <= 1 or self.temperature <= 0 or self.beta < 0:
            raise ValueError(
                f"steps={self.steps}, rate={self.rate}, alpha={self.alpha}, temperature={self.temperature}, "
                f"beta={self.beta}; expected steps of 0 or more, a rate and a temperature above 0, a "
                "share, and a weight of 0 or more"
            )


def guess_loss(student: Tensor, teacher: Tensor, truth: Tensor, alpha: float, temperature: float) -> Tensor:
    """α CE + (1 − α) T² KL(teacher ‖ student at T), mean over genes (Hinton et al. 2015).

    Args:
        student: (N, V) scores.
        teacher: (N, V) scores.
        truth: (N,) ids, ``IGNORE`` where there is none.
        alpha: see the formula.
        temperature: T.
    """
    used = truth != IGNORE
    hard = F.cross_entropy(student[used], truth[used])
    t = temperature
    soft = F.kl_div(
        (student[used] / t).log_softmax(-1), (teacher[used] / t).log_softmax(-1), log_target=True, reduction="batchmean"
    )
    return alpha * hard + (1 - alpha) * t**2 * soft


@torch.no_grad()
def begin_student(student: Backbone, teacher: Backbone) -> None:
    """Put a student's input embeddings at the principal directions of the teacher's, and copy the read-out's weights.

    Args:
        student: changed in place; of the same vocabulary.
        teacher: wider.
    """
    table: Tensor = teacher.model.get_input_embeddings().weight.float()  # type: ignore[assignment]
    own: Tensor = student.model.get_input_embeddings().weight  # type: ignore[assignment]
    centered = table - table.mean(0)
    _, _, directions = torch.linalg.svd(centered.T @ centered)
    low = centered @ directions[: own.shape[1]].T
    own.copy_(low * (table.std() / low.std().clamp(min=1e-12)))
    if student.readout is not None and teacher.readout is not None:
        student.readout.token_weight.copy_(teacher.readout.token_weight)


def distill(
    student: Backbone, teacher: Backbone | None, loader: CellLoader, spec: Spec, how: Distill,
    advance: Callable[[int], None] = lambda n: None,
) -> list[float]:  # fmt: skip
    """Train a student on masked genes, α CE + (1 − α) T² KL + β (1 − cos(h_teacher, P h_student)).

    Args:
        student: trained in place.
        teacher: frozen; None trains on the true genes alone.
        loader: packed training cells, epoch after epoch.
        spec: vocabulary of both.
        how: see :class:`Distill`.
        advance: told of finished steps.

    Returns:
        The loss of each step.

    Raises:
        ValueError: a causal model, which predicts no masked genes.
    """
    if student.causal:
        raise ValueError("distillation is of masked genes, but the model is causal (objective=ar); set distill.steps=0")
    objective = MLM(spec)
    project = nn.Linear(student.width, student.width if teacher is None else teacher.width)
    parameters = [*student.parameters(), *project.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=how.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(how.steps, 1))
    student.train()
    losses = []
    for batch in _batches(loader, how.steps):
        torch.manual_seed(batch.seed)
        loss = _step_loss(student, teacher, project, objective, spec.vocab, batch, how)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        advance(1)
    student.eval()
    return losses


def _step_loss(
    student: Backbone,
    teacher: Backbone | None,
    project: nn.Linear,
    objective: MLM,
    vocab: Vocab,
    batch: Batch,
    how: Distill,
) -> Tensor:
    masked, picked, truth = objective.mask(batch)
    hidden = student(masked)[picked]
    logits = student.logits(hidden)
    if teacher is None:
        return F.cross_entropy(logits, truth, ignore_index=IGNORE)
    with torch.no_grad():
        guess = teacher.logits(teacher(masked)[picked])
        wanted = embed(teacher, batch, vocab).float()
    loss = guess_loss(logits, guess, truth, how.alpha, how.temperature)
    if how.beta:
        own = project(embed(student, batch, vocab).float())
        loss = loss + how.beta * (1 - F.cosine_similarity(own, wanted).mean())
    return loss


def _batches(loader: CellLoader, steps: int) -> Iterator[Batch]:
    endless = chain.from_iterable(repeat(loader))
    for _ in range(steps):
        yield next(endless)
