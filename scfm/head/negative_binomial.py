"""The negative binomial distribution of counts."""

import torch
from torch import Tensor


def log_nb(counts: Tensor, mean: Tensor, dispersion: Tensor) -> Tensor:
    """Log NB(x; μ, θ): lnΓ(x+θ) − lnΓ(θ) − lnΓ(x+1) + θ ln(θ/(θ+μ)) + x ln(μ/(θ+μ)), elementwise."""
    tiny = 1e-8
    log_both = torch.log(dispersion + mean + tiny)
    constant = torch.lgamma(counts + dispersion) - torch.lgamma(dispersion) - torch.lgamma(counts + 1)
    return (
        constant + dispersion * (torch.log(dispersion + tiny) - log_both) + counts * (torch.log(mean + tiny) - log_both)
    )
