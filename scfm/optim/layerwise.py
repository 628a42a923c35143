"""AdamW with a learning rate that decreases from the last layer to the first."""

from typing import Any

import torch


def layerwise(
    groups: list[dict[str, Any]],
    *,
    lr: float = 1e-4,
    layer_decay: float = 0.8,
    betas: list[float] | None = None,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    fused: bool | None = None,
) -> torch.optim.AdamW:
    """AdamW for fine-tuning: layers nearer to the input change less (Howard & Ruder 2018; Clark et al. 2020).

    Args:
        groups: from :func:`scfm.optim.groups.parameter_groups`.
        lr: learning rate of what lies after the last layer.
        layer_decay: factor from each layer to the one before it; 1 gives one rate for all.
        betas: decays of the two moments; 0.9 and 0.999 by default.
        eps: added to the denominator.
        weight_decay: of everything but norms and biases.
        fused: one kernel for all parameters.

    Returns:
        The optimizer, with one group for each depth and kind.

    Raises:
        ValueError: a ``layer_decay`` outside (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay={layer_decay}; expected a factor above 0, at most 1")
    top = max(depth for group in groups for depth in group["depths"])
    split = []
    for group in groups:
        shared = {key: value for key, value in group.items() if key not in ("params", "depths")}
        for depth in sorted(set(group["depths"])):
            params = [p for p, its in zip(group["params"], group["depths"], strict=True) if its == depth]
            split.append({**shared, "params": params, "depth": depth, "lr": lr * layer_decay ** (top - depth)})
    first, second = betas or (0.9, 0.999)
    return torch.optim.AdamW(split, lr=lr, betas=(first, second), eps=eps, weight_decay=weight_decay, fused=fused)
