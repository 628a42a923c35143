"""Muon for the hidden matrices, AdamW for everything else, as one optimizer."""

from collections.abc import Callable
from typing import Any

import torch


class Muon(torch.optim.Optimizer):
    """``torch.optim.Muon`` and ``torch.optim.AdamW`` behind one list of groups, one state and one learning rate.

    Muon orthogonalizes the update of a hidden matrix (Jordan et al. 2024). Its update is scaled to the size of AdamW's
    (Liu et al. 2025, "Muon is scalable for LLM training"), so that both take the same rate and schedule. It needs whole
    matrices: one device or DDP, no sharding.

    Args:
        groups: from :func:`scfm.optim.groups.parameter_groups`; those of kind ``matrix`` go to Muon.
        lr: learning rate of both.
        weight_decay: of everything but norms and biases.
        momentum: of Muon.
        ns_steps: Newton-Schulz iterations of Muon.
        betas: decays of AdamW's two moments; 0.9 and 0.95 by default.
        eps: added to AdamW's denominator.
        fused: one AdamW kernel for all its parameters.

    Raises:
        ValueError: no group of kind ``matrix``.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        ns_steps: int = 5,
        betas: list[float] | None = None,
        eps: float = 1e-8,
        fused: bool | None = None,
    ) -> None:
        kinds = [group.get("kind") for group in groups]
        if "matrix" not in kinds:
            raise ValueError("muon needs trainable matrices of hidden layers and found none; use optim=adamw")
        first, second = betas or (0.9, 0.95)
        muon = {"momentum": momentum, "ns_steps": ns_steps, "adjust_lr_fn": "match_rms_adamw"}
        adamw = {"betas": (first, second), "eps": eps, "fused": fused}
        shared = {"lr": lr, "weight_decay": weight_decay}
        matrices = [dict(group) for group in groups if group["kind"] == "matrix"]
        rest = [dict(group) for group in groups if group["kind"] != "matrix"]
        self._parts: list[torch.optim.Optimizer] = [torch.optim.Muon(matrices, **shared, **muon)]  # type: ignore[arg-type]
        if rest:
            self._parts.append(torch.optim.AdamW(rest, **shared, **adamw))  # type: ignore[arg-type]
        super().__init__([group for part in self._parts for group in part.param_groups], shared)
        self._share()

    def _share(self) -> None:
        """Let both parts share the groups and the state of this optimizer."""
        matrix = [group for group in self.param_groups if group["kind"] == "matrix"]
        rest = [group for group in self.param_groups if group["kind"] != "matrix"]
        for part, groups in zip(self._parts, (matrix, rest), strict=False):
            part.param_groups, part.state = groups, self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do a step of both optimizers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore groups and moments."""
        super().load_state_dict(state_dict)
        self._share()
