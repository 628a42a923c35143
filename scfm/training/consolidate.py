"""A checkpoint folder of shards, made readable as a single file."""

import logging
from pathlib import Path
from typing import Any

from scfm.checkpoint import WEIGHTS
from scfm.strategy.checkpoint_io import write
from scfm.strategy.sharded import missing

log = logging.getLogger(__name__)


def consolidate(folder: Path) -> Path:
    """Gather the weights of a folder of shards into one file inside it, where every command finds it.

    Args:
        folder: written by DeepSpeed or by ``fsdp2`` with ``sharded_checkpoint``.

    Returns:
        The file.

    Raises:
        ValueError: it is no checkpoint folder, or not whole.
    """
    lacking = missing(folder) if folder.is_dir() else ["the folder itself"]
    if lacking:
        raise ValueError(f"{folder} is not a whole checkpoint folder; it lacks {', '.join(lacking)}")
    output = folder / WEIGHTS
    whole = _from_deepspeed(folder) if (folder / "checkpoint").is_dir() else _from_shards(folder)
    write({name: whole[name] for name in ("state_dict", "scfm", "global_step", "epoch")}, output)
    log.info("Wrote %s (%.0f MB).", output, output.stat().st_size / 1e6)
    return output


def _from_deepspeed(folder: Path) -> dict[str, Any]:
    from pytorch_lightning.utilities.deepspeed import convert_zero_checkpoint_to_fp32_state_dict

    aside = folder / ".zero.part"  # it writes what it returns
    try:
        return convert_zero_checkpoint_to_fp32_state_dict(folder, aside)
    finally:
        aside.unlink(missing_ok=True)


def _from_shards(folder: Path) -> dict[str, Any]:
    from lightning_fabric.utilities.load import _load_distributed_checkpoint

    return _load_distributed_checkpoint(folder)
