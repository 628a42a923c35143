"""Batch normalization with statistics and affine maps of each experimental batch (DSBN, Chang et al. 2019)."""

import torch
from torch import Tensor, nn


class DomainNorm(nn.Module):
    """Normalizes each domain by its own statistics: of the micro-batch in training, running ones in evaluation.

    Parameters and statistics of all domains are rows of one table, so that all parameters are used whatever domains a
    rank reads. A single cell of a domain has no variance and is normalized by the running statistics.

    Args:
        n_domains: number of domains.
        width: width of the input.
        momentum: share of the running statistics that a micro-batch replaces.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, n_domains: int, width: int, *, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.scale = nn.Parameter(torch.ones(n_domains, width))
        self.shift = nn.Parameter(torch.zeros(n_domains, width))
        self.register_buffer("mean", torch.zeros(n_domains, width))
        self.register_buffer("variance", torch.ones(n_domains, width))

    def forward(self, values: Tensor, domains: Tensor) -> Tensor:
        """Normalized values, (B, width), given values (B, width) and their domains (B,)."""
        mean, variance = self.mean, self.variance
        if self.training:
            mean, variance = self._batch_statistics(values.float(), domains)
        normal = (values.float() - mean[domains]) * torch.rsqrt(variance[domains] + 1e-5)
        return (normal * self.scale[domains] + self.shift[domains]).to(values.dtype)

    def _batch_statistics(self, values: Tensor, domains: Tensor) -> tuple[Tensor, Tensor]:
        count = torch.bincount(domains, minlength=len(self.mean))[:, None]
        zeros = torch.zeros_like(self.mean)
        mean = zeros.index_add(0, domains, values) / count.clamp(min=1)
        spread = zeros.index_add(0, domains, (values - mean[domains]).square())
        enough = count > 1
        with torch.no_grad():
            weight = self.momentum * enough
            self.mean.lerp_(mean, weight.to(mean.dtype).expand_as(mean))
            self.variance.lerp_(spread / (count - 1).clamp(min=1), weight.to(mean.dtype).expand_as(mean))
        return mean.where(enough, self.mean), (spread / count.clamp(min=1)).where(enough, self.variance)
