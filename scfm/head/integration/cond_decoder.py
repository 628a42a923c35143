"""Integration by a decoder that is told the batch, so that the latent space need not carry it."""

from __future__ import annotations

from typing import ClassVar, Literal, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.head.integration.base import Integration, Shared, check_positive
from scfm.head.integration.domain import DomainNorm
from scfm.head.layers import perceptron
from scfm.head.views import generator_of
from scfm.types import Backbone, Metrics, Spec


class CondDecoder(Integration):
    """A variational decoder of counts (scVI, Lopez et al. 2018; SCALEX, Xiong et al. 2022).

    z = μ(h) + σ(h)ε; a decoder of (z, batch) gives μ_g = ℓ softmax(f(z, b))_g, ℓ the cell's counts in all, and
    L = −Σ_g log NB(x_g; μ_g, θ_gb) + β ½ Σ_d (μ_d² + σ_d² − ln σ_d² − 1), β rising over ``anneal`` micro-batches.
    ``likelihood=bce`` is SCALEX's: sigmoid outputs, mean binary cross-entropy of log counts scaled to [0, 1], times G.
    The counts are those of the cell's tokens: genes cut off by ``max_length`` count as 0.

    Projection is μ(h): it involves neither the decoder nor its batch normalisation (SCALEX normalises the query by
    itself, so that its projection depends on the query's other cells).

    Args:
        spec: what only the run knows.
        size: width d of the latent space.
        genes: linear components of the cell's genes beside the backbone's embedding, where the space begins; 0: none.
        likelihood: ``nb`` or ``bce``.
        decoder: ``concat`` hands the decoder a vector of the batch, ``dsbn`` normalises each batch by itself.
        beta: β at its height.
        anneal: micro-batches over which β rises from 0.
        variational: False for a deterministic z without the second term.
        **shared: see :class:`~scfm.head.integration.base.Integration`; ``hidden`` is of all networks.

    Raises:
        ValueError: a single batch, an unknown column, a number out of its range; in training, a store without counts.
    """

    metric: ClassVar[str] = "elbo"
    counts = True
    projection: ClassVar[str] = (
        "genes alone: cells of unseen batches pass the encoder; the decoder knows seen batches only"
    )
    step: Tensor
    genes: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        size: int = 32,
        genes: int = 64,
        likelihood: Literal["nb", "bce"] = "nb",
        decoder: Literal["concat", "dsbn"] = "concat",
        beta: float = 1.0,
        anneal: int = 200,
        variational: bool = True,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(spec, size=size, genes=genes, **shared)
        check_positive(hidden=self.hidden, anneal=anneal)
        if beta < 0:
            raise ValueError(f"head.beta={beta}; expected a weight, 0 or more")
        if likelihood not in ("nb", "bce") or decoder not in ("concat", "dsbn"):
            raise ValueError(f"head.likelihood={likelihood!r}, head.decoder={decoder!r}; expected nb|bce, concat|dsbn")
        self.likelihood, self.beta, self.anneal = likelihood, beta, anneal
        self.variational = variational
        n_batches, gene_ids = len(self.names), torch.from_numpy(spec.vocab.gene_ids)
        self.register_buffer("genes", gene_ids, persistent=False)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.log_variance = nn.Linear(self.state.width, size) if variational else None
        self.batch_table = nn.Embedding(n_batches, self.hidden) if decoder == "concat" else None
        self.norm = DomainNorm(n_batches, self.hidden) if decoder == "dsbn" else None
        self.inner, self.outer = nn.Linear(size, self.hidden), perceptron([self.hidden, len(gene_ids)], norm=False)
        self.log_dispersion = nn.Parameter(torch.zeros(n_batches, len(gene_ids)))

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``, its parts ``reconstruction`` and ``kl`` for each cell, and ``elbo``, minus their plain sum."""
        counts, codes = self.gene_counts(batch), batch.obs[self.batch_key]
        state = self.state(backbone, batch)
        mean, log_variance = self.place(state)[0], None
        latent = mean
        if self.log_variance is not None:
            log_variance = self.log_variance(state).float().clamp(-10, 10)
            noise = torch.randn(mean.shape, generator=generator_of(batch), device=mean.device)
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
        """(B,) how badly counts (B, G) are explained by latent cells (B, d) of known batches (B,)."""
        scores = self.decode(latent, codes)
        size = counts.sum(1, keepdim=True)
        if self.likelihood == "bce":
            scaled = torch.log1p(1e4 * counts / size.clamp(min=1)) / torch.log1p(torch.tensor(1e4))
            return F.binary_cross_entropy_with_logits(scores, scaled, reduction="none").sum(1)
        return -log_nb(counts, size * scores.softmax(1), self.log_dispersion[codes].exp()).sum(1)

    def decode(self, latent: Tensor, codes: Tensor) -> Tensor:
        """(B, G) f(z, b): a decoded batch may be another than the cell's own."""
        hidden = self.inner(latent)
        if self.batch_table is not None:
            hidden = hidden + self.batch_table(codes)
        if self.norm is not None:
            hidden = self.norm(hidden, codes)
        return self.outer(F.gelu(hidden)).float()

    def gene_counts(self, batch: Batch) -> Tensor:
        """(B, G) float32, the counts of each cell's genes.

        Raises:
            ValueError: the batch carries none.
        """
        if batch.counts is None:
            raise ValueError(
                "head=integration/cond_decoder reconstructs counts, but the store keeps ranks only: prepare it again "
                "with keep_counts=true, or take another head"
            )
        column = torch.full((len(self.vocab),), -1, device=self.genes.device)
        column[self.genes] = torch.arange(len(self.genes), device=self.genes.device)
        place = column[batch.ids]
        table = torch.zeros(batch.n_cells, len(self.genes), device=batch.ids.device)
        gene = place >= 0
        return table.index_put((batch.token_cell[gene], place[gene]), batch.counts[gene].float(), accumulate=True)


def log_nb(counts: Tensor, mean: Tensor, dispersion: Tensor) -> Tensor:
    """The log of NB(x; μ, θ): lnΓ(x+θ) − lnΓ(θ) − lnΓ(x+1) + θ ln(θ/(θ+μ)) + x ln(μ/(θ+μ)), elementwise."""
    tiny = 1e-8
    log_both = torch.log(dispersion + mean + tiny)
    constant = torch.lgamma(counts + dispersion) - torch.lgamma(dispersion) - torch.lgamma(counts + 1)
    return (
        constant + dispersion * (torch.log(dispersion + tiny) - log_both) + counts * (torch.log(mean + tiny) - log_both)
    )


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """(B,) KL from N(μ, σ²) to N(0, 1): ½ Σ_d (μ_d² + σ_d² − ln σ_d² − 1); both arguments (B, d)."""
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1)
