"""Continues a run on another number of devices."""

import logging
from typing import Any

log = logging.getLogger(__name__)


def rescale_progress(checkpoint: dict[str, Any], world: int) -> None:
    """Convert Lightning's counts, which are of the batches of one rank, to another number of ranks.

    Args:
        checkpoint: changed in place.
        world: ranks now.

    Raises:
        ValueError: the counts do not divide: the checkpoint is not at the end of an optimizer step of so many ranks.
    """
    loops = checkpoint["loops"]["fit_loop"]
    (place,) = loops["state_dict"]["combined_loader"]
    before = place["world"]
    if before == world:
        return
    progress = loops["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        ready = counts["ready"]
        if ready * before % world:
            raise ValueError(
                f"{ready} micro-batches of each of {before} processes do not divide over {world} processes; "
                "give data.tokens_per_step, so that an optimizer step is the same for any number of them"
            )
        for name, value in counts.items():
            counts[name] = ready * before // world - (ready - value)
    log.info("Resuming with %d process(es) a run of %d: every optimizer step has the same cells.", world, before)
