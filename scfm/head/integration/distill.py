"""Integration by a small student that learns the backbone's space within each batch, and then needs no backbone."""

from __future__ import annotations

from typing import ClassVar, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.head.integration.base import Contrastive, ContrastiveOptions, neighbor_loss, start_at_zero
from scfm.head.layers import perceptron
from scfm.head.ranges import check_not_negative, check_positive
from scfm.head.views import batch_generator, places
from scfm.model.contrast import contrast, same_batch
from scfm.model.pooling import embed
from scfm.types import Backbone, Metrics, Sampling, Spec
from scfm.vocab import Vocab


class Distill(Contrastive):
    """Teacher and student (Concerto, Yang et al. 2022): the backbone on one view, a bag of genes on another.

    L = NT-Xent(z_t, z_s), where the negatives of one network are the cells of the same batch as the other network
    places them, plus ``cosine`` times 1 − cos(sg(h_t), W h_s). Where there are labels, the cross-entropy of the
    teacher's logits is added, and ``kl`` times the divergence KL(sg(p_t) ‖ p_s) of the student's, which includes cells
    without a label. The loss does not train the teacher's backbone unless ``train_teacher`` (Concerto trains both). New
    cells are projected by the student alone.

    Args:
        spec: vocabulary, classes and widths of the run.
        temperature: T.
        cosine: weight of the cosine term.
        label: obs column of known types, for the logits; null for none. Cells without a label are left out.
        kl: weight of the divergence term.
        train_teacher: whether the loss trains the backbone too.
        **options: see :class:`~scfm.head.integration.base.Contrastive`; ``hidden`` is also the width of the student.

    Raises:
        ValueError: a single batch, an unknown column, or a number out of its range.
    """

    projection: ClassVar[str] = "genes alone: cells of unseen batches pass the student, which needs no backbone"

    def __init__(
        self,
        spec: Spec,
        *,
        temperature: float = 0.1,
        cosine: float = 0.0,
        label: str | None = None,
        kl: float = 1.0,
        train_teacher: bool = False,
        **options: Unpack[ContrastiveOptions],
    ) -> None:
        super().__init__(spec, **options)
        check_positive(temperature=temperature, hidden=self.hidden)
        check_not_negative(cosine=cosine, kl=kl)
        self.temperature, self.cosine, self.train_teacher = temperature, cosine, train_teacher
        self.sampling = Sampling(by=self.batch_key)
        self.bag = BagOfGenes(spec.vocab, self.hidden)
        self.student = perceptron([self.hidden, self.hidden, self.width])
        if self.state.components.width:
            start_at_zero(self.student[-1])
        self.aligner = nn.Linear(self.hidden, self.state.width) if cosine else None
        self.label, self.kl = label, kl
        if label is not None:
            self.labels, self.learned = (*self.labels, label), (label,)
            n_classes = len(spec.categories("head.label", label))
            self.teacher_classes, self.student_classes = (
                nn.Linear(self.state.width, n_classes),
                nn.Linear(self.hidden, n_classes),
            )

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``, and ``accuracy``: how often a cell's position by the other network is nearer than all negatives."""
        generator = batch_generator(batch)
        view, codes = self.views(batch, generator), batch.obs[self.batch_key]
        with torch.set_grad_enabled(self.train_teacher and torch.is_grad_enabled()):
            embedding = embed(backbone, self.view(view), self.vocab)
        state, view = self.state.join(embedding, view), self.views(batch, generator)
        bag = self.bag(view)
        shift = self.student(bag).float()
        start = self.start_position(self.state.components(view))
        teacher, student = (F.normalize(space, dim=1) for space in (self.place(state)[0], start + shift))
        loss, accuracy = self.loss(teacher, student, codes)
        if self.aligner is not None:
            apart = 1 - F.cosine_similarity(state.detach().float(), self.aligner(bag).float(), dim=1)
            loss = loss + self.cosine * apart.mean()
        if self.label is not None:
            logits = self.teacher_classes(state.detach()), self.student_classes(bag)
            loss = loss + agreement_loss(*logits, batch.obs[self.label], self.kl)
        return {"loss": loss + self.neighbor_weight * neighbor_loss(start, shift, codes), "accuracy": accuracy}

    def loss(self, teacher: Tensor, student: Tensor, batches: Tensor) -> tuple[Tensor, Tensor]:
        """NT-Xent between teacher and student, both directions; (B, d) unit vectors and (B,) batch codes."""
        itself = torch.eye(len(batches), dtype=torch.bool, device=batches.device)
        allowed = same_batch(batches, batches) & ~itself
        pairs = ((teacher, student), (student, teacher))
        parts = [contrast(one, two, two, allowed, temperature=self.temperature) for one, two in pairs]
        loss, accuracy = (torch.stack(values).mean() for values in zip(*parts, strict=True))
        return loss, accuracy

    def encode(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Positions that the student gives cells, (B, d) float32; the backbone is not used."""
        return self.finalize(self.start_position(self.state.components(batch)) + self.student(self.bag(batch)).float())


def agreement_loss(teacher: Tensor, student: Tensor, truth: Tensor, weight: float) -> Tensor:
    """Cross-entropy of the teacher's logits and ``weight`` times KL(sg(p_t) ‖ p_s), means over cells.

    Args:
        teacher: (B, C) logits; the divergence does not train them.
        student: (B, C) logits.
        truth: (B,) class codes, -1 where missing: such cells count in the divergence alone.
        weight: of the divergence.
    """
    known = (truth >= 0).sum().clamp(min=1)
    named = F.cross_entropy(teacher.float(), truth, ignore_index=-1, reduction="sum") / known
    wanted, given = teacher.detach().float().log_softmax(1), student.float().log_softmax(1)
    return named + weight * F.kl_div(given, wanted, log_target=True, reduction="batchmean")


class BagOfGenes(nn.Module):
    """Mean of gene vectors, weighted by 1 / log2(2 + rank): the most expressed genes have the largest weights.

    Args:
        vocab: the tokens; specials that stand before or after the genes do not count.
        width: width of the vectors.
    """

    def __init__(self, vocab: Vocab, width: int) -> None:
        super().__init__()
        self.vocab = vocab
        self.table = nn.Embedding(len(vocab), width)

    def forward(self, batch: Batch) -> Tensor:
        """Weighted means of gene vectors, (B, width)."""
        weight = (places(batch, self.vocab) == 0) / torch.log2(2 + batch.positions.float())
        cell, zeros = batch.token_cell, self.table.weight.new_zeros(batch.n_cells)
        total = zeros[:, None].repeat(1, self.table.embedding_dim)
        total = total.index_add(0, cell, self.table(batch.ids) * weight[:, None].to(total.dtype))
        return total / zeros.index_add(0, cell, weight.to(total.dtype)).clamp(min=1e-6)[:, None]
