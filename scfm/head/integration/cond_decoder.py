"""Integration by a decoder that is given the batch, so that the latent space need not encode it."""

from __future__ import annotations

from typing import ClassVar, Literal, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.head.integration.base import Integration, SharedOptions
from scfm.head.integration.domain import DomainNorm
from scfm.head.layers import perceptron
from scfm.head.negative_binomial import log_nb
from scfm.head.ranges import check_not_negative, check_positive
from scfm.head.views import batch_generator
from scfm.types import Backbone, Metrics, Spec


class CondDecoder(Integration):
    """A variational decoder of counts (scVI, Lopez et al. 2018; SCALEX, Xiong et al. 2022).

    z = μ(h) + σ(h)ε; a decoder of (z, batch) gives μ_g = ℓ softmax(f(z, b))_g, ℓ the total counts of the cell, and
    L = −Σ_g log NB(x_g; μ_g, θ_gb) + β ½ Σ_d (μ_d² + σ_d² − ln σ_d² − 1), β rising over ``anneal`` micro-batches.
    ``likelihood=bce`` is SCALEX's: sigmoid outputs, mean binary cross-entropy of log counts scaled to [0, 1], times G.
    The counts are those of the cell's tokens: genes beyond ``max_length`` count as 0.

    Projection is μ(h), without the decoder and its batch normalization. (SCALEX normalizes query cells by their own
    statistics, so that the projection of a cell depends on the other query cells.)

    Args:
        spec: vocabulary, classes and widths of the run.
        width: width d of the latent space.
        gene_components: see :class:`~scfm.head.integration.base.Integration`.
        likelihood: ``nb`` or ``bce``.
        decoder: ``concat`` gives the decoder a vector of the batch, ``dsbn`` normalizes each batch separately.
        beta: the final β.
        anneal: micro-batches over which β rises from 0.
        variational: false for a deterministic z without the second term.
        **options: see :class:`~scfm.head.integration.base.Integration`; ``hidden`` is the width of all networks.

    Raises:
        ValueError: a single batch, an unknown column, a number out of its range; in training, a store without counts.
    """

    metric: ClassVar[str] = "elbo"
    counts = True
    projection: ClassVar[str] = (
        "genes alone: cells of unseen batches pass the encoder; the decoder is for the training batches only"
    )
    step: Tensor
    gene_ids: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        width: int = 32,
        gene_components: int = 64,
        likelihood: Literal["nb", "bce"] = "nb",
        decoder: Literal["concat", "dsbn"] = "concat",
        beta: float = 1.0,
        anneal: int = 200,
        variational: bool = True,
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(spec, width=width, gene_components=gene_components, **options)
        check_positive(hidden=self.hidden, anneal=anneal)
        check_not_negative(beta=beta)
        if likelihood not in ("nb", "bce") or decoder not in ("concat", "dsbn"):
            raise ValueError(f"head.likelihood={likelihood!r}, head.decoder={decoder!r}; expected nb|bce, concat|dsbn")
        self.likelihood, self.beta, self.anneal = likelihood, beta, anneal
        self.variational = variational
        n_batches, gene_ids = len(self.names), torch.from_numpy(spec.vocab.gene_ids)
        self.register_buffer("gene_ids", gene_ids, persistent=False)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.log_variance = nn.Linear(self.state.width, width) if variational else None
        self.batch_table = nn.Embedding(n_batches, self.hidden) if decoder == "concat" else None
        self.norm = DomainNorm(n_batches, self.hidden) if decoder == "dsbn" else None
        self.inner, self.outer = nn.Linear(width, self.hidden), perceptron([self.hidden, len(gene_ids)], norm=False)
        self.log_dispersion = nn.Parameter(torch.zeros(n_batches, len(gene_ids)))

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``, its parts ``reconstruction`` and ``kl`` for each cell, and ``elbo``, minus the sum of the parts."""
        counts, codes = self.gene_counts(batch), batch.obs[self.batch_key]
        state = self.state(backbone, batch)
        mean, log_variance = self.place(state)[0], None
        latent = mean
        if self.log_variance is not None:
            log_variance = self.log_variance(state).float().clamp(-10, 10)
            noise = torch.randn(mean.shape, generator=batch_generator(batch), device=mean.device)
            latent = mean + (0.5 * log_variance).exp() * noise
        known = codes >= 0
        reconstruction = self.reconstruction(latent[known], codes[known], counts[known]).sum() / known.sum().clamp(
            min=1
        )
        kl = mean.new_zeros(()) if log_variance is None else divergence(mean, log_variance).mean()
        loss = reconstruction + self.beta * min(1.0, int(self.step) / self.anneal) * kl
        if self.training:
            self.step += 1
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl, "elbo": -(reconstruction + kl)}

    def reconstruction(self, latent: Tensor, codes: Tensor, counts: Tensor) -> Tensor:
        """Negative log-likelihood of counts (B, G), (B,), given latent cells (B, d) of known batches (B,)."""
        scores = self.decode(latent, codes)
        total = counts.sum(1, keepdim=True)
        if self.likelihood == "bce":
            scaled = torch.log1p(1e4 * counts / total.clamp(min=1)) / torch.log1p(torch.tensor(1e4))
            return F.binary_cross_entropy_with_logits(scores, scaled, reduction="none").sum(1)
        return -log_nb(counts, total * scores.softmax(1), self.log_dispersion[codes].exp()).sum(1)

    def decode(self, latent: Tensor, codes: Tensor) -> Tensor:
        """f(z, b), (B, G); the batch may be another than the cell's own."""
        hidden = self.inner(latent)
        if self.batch_table is not None:
            hidden = hidden + self.batch_table(codes)
        if self.norm is not None:
            hidden = self.norm(hidden, codes)
        return self.outer(F.gelu(hidden)).float()

    def gene_counts(self, batch: Batch) -> Tensor:
        """The counts of each cell's genes, (B, G) float32.

        Raises:
            ValueError: the batch carries none.
        """
        if batch.counts is None:
            raise ValueError(
                "head=integration/cond_decoder reconstructs counts, but the store keeps ranks only: prepare it again "
                "with keep_counts=true, or choose another head"
            )
        column = torch.full((len(self.vocab),), -1, device=self.gene_ids.device)
        column[self.gene_ids] = torch.arange(len(self.gene_ids), device=self.gene_ids.device)
        place = column[batch.ids]
        table = torch.zeros(batch.n_cells, len(self.gene_ids), device=batch.ids.device)
        gene = place >= 0
        return table.index_put((batch.token_cell[gene], place[gene]), batch.counts[gene].float(), accumulate=True)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(μ, σ²) from N(0, 1), (B,): ½ Σ_d (μ_d² + σ_d² − ln σ_d² − 1); both arguments (B, d)."""
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1)
