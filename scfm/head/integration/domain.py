"""Batch normalisation with statistics and affine maps of each experimental batch (DSBN, Chang et al. 2019)."""

import torch
from torch import Tensor, nn


class DomainNorm(nn.Module):
    """Normalises each domain by itself in training, and by its running statistics in evaluation.

    Parameters and statistics of all domains are rows of one table, so none is ever an unused module, whatever domains
    a rank happens to see. A lone cell has no variance: it is normalised by the running statistics.

    Args:
        n_domains: number of domains.
        width: of the input.
        momentum: of the running statistics.
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
        """(B, width) values of domains (B,)."""
        mean, variance = self.mean, self.variance
        if self.training:
            mean, variance = self._of_batch(values.float(), domains)
        normal = (values.float() - mean[domains]) * torch.rsqrt(variance[domains] + 1e-5)
        return (normal * self.scale[domains] + self.shift[domains]).to(values.dtype)

    def _of_batch(self, values: Tensor, domains: Tensor) -> tuple[Tensor, Tensor]:
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
