"""Learning rates over a run: warm-up, then constant, linear or cosine decay, or constant and a final decay."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def constant(optimizer: Optimizer, n_steps: int, *, warmup: int | float = 0) -> LambdaLR:
    """Warm-up, then constant.

    Args:
        optimizer: whose rates are scheduled.
        n_steps: optimizer steps of the run.
        warmup: steps of linear warm-up; below 1, a share of ``n_steps``.

    Returns:
        The schedule, to be stepped after every optimizer step.

    Raises:
        ValueError: a warm-up that is negative or longer than the run.
    """
    return _schedule(optimizer, n_steps, warmup, lambda done: 1.0)


def linear(optimizer: Optimizer, n_steps: int, *, warmup: int | float = 0.05, floor: float = 0.0) -> LambdaLR:
    """Warm-up, then linear decay.

    Args:
        optimizer: whose rates are scheduled.
        n_steps: optimizer steps of the run.
        warmup: steps of linear warm-up; below 1, a share of ``n_steps``.
        floor: what is left at the end, as a share of the rate.

    Returns:
        The schedule, to be stepped after every optimizer step.

    Raises:
        ValueError: a warm-up that is negative or longer than the run.
    """
    return _schedule(optimizer, n_steps, warmup, lambda done: floor + (1 - floor) * (1 - done))


def cosine(optimizer: Optimizer, n_steps: int, *, warmup: int | float = 0.05, floor: float = 0.0) -> LambdaLR:
    """Warm-up, then decay along half a cosine (Loshchilov & Hutter 2017).

    Args:
        optimizer: whose rates are scheduled.
        n_steps: optimizer steps of the run.
        warmup: steps of linear warm-up; below 1, a share of ``n_steps``.
        floor: what is left at the end, as a share of the rate.

    Returns:
        The schedule, to be stepped after every optimizer step.

    Raises:
        ValueError: a warm-up that is negative or longer than the run.
    """
    return _schedule(optimizer, n_steps, warmup, lambda done: floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2)


def wsd(
    optimizer: Optimizer,
    n_steps: int,
    *,
    warmup: int | float = 0.05,
    decay: float = 0.2,
    floor: float = 0.0,
) -> LambdaLR:
    """Warm-up, constant, then decay by 1 - sqrt (Hu et al. 2024; Hägele et al. 2024).

    A run can be continued from any checkpoint of its stable part with more steps.

    Args:
        optimizer: whose rates are scheduled.
        n_steps: optimizer steps of the run.
        warmup: steps of linear warm-up; below 1, a share of ``n_steps``.
        decay: share of the steps after warm-up in which the rate falls.
        floor: what is left at the end, as a share of the rate.

    Returns:
        The schedule, to be stepped after every optimizer step.

    Raises:
        ValueError: a warm-up that is negative or longer than the run, or a ``decay`` outside (0, 1].
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay={decay}; expected a share of the steps above 0, at most 1")

    def factor(done: float) -> float:
        """Share of the rate, by the share of steps done after the warm-up."""
        falling = max(0.0, done - (1 - decay)) / decay
        return floor + (1 - floor) * (1 - math.sqrt(falling))

    return _schedule(optimizer, n_steps, warmup, factor)


def _schedule(optimizer: Optimizer, n_steps: int, warmup: int | float, after: Callable[[float], float]) -> LambdaLR:
    """Warm-up, then ``after(share of the remaining steps done)``."""
    if n_steps < 1:
        raise ValueError(f"a run of {n_steps} steps has no schedule; set trainer.max_steps or trainer.max_epochs")
    first = round(warmup * n_steps) if warmup < 1 else int(warmup)
    if not 0 <= first <= n_steps:
        raise ValueError(f"warmup={warmup} is {first} steps, but the run has {n_steps}; shorten it or train longer")

    def factor(step: int) -> float:
        """Share of the rate at a step."""
        if step < first:
            return (step + 1) / (first + 1)
        return after(min(1.0, (step - first) / max(1, n_steps - first)))

    return LambdaLR(optimizer, factor)
