"""Known times and stages out of an obs column, refused in a sentence where they are neither."""

import numpy as np

from scfm.metrics.stages import stage_ranks


def read_times(values: np.ndarray, column: str, stages: list[str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Times as numbers.

    Args:
        values: (B,) text, "" where missing.
        column: of obs, for messages.
        stages: the categories from first to last; None: the values are numbers.

    Returns:
        (B,) numbers or ranks, NaN where missing or not among the stages; and the names of the stages.

    Raises:
        ValueError: neither numbers nor stages, or a stage that no cell has.
    """
    known = values != ""
    if stages is None:
        times = np.full(len(values), np.nan)
        try:
            times[known] = values[known].astype(float)
        except ValueError as error:
            some = ", ".join(sorted(set(values[known]))[:6])
            raise ValueError(
                f"time={column!r} holds names ({some}), not numbers: say their order with stages=[first,...,last]"
            ) from error
        return times, ()
    absent = [name for name in stages if name not in set(values)]
    if absent or len(stages) < 2:
        have = ", ".join(sorted(set(values[known]))[:8])
        wrong = ", ".join(absent) or "of a second stage"
        raise ValueError(f"stages={stages}: no cell of {column!r} is {wrong}; it has {have}")
    return stage_ranks(values, stages), tuple(stages)
