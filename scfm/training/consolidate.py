"""A checkpoint folder of shards, made readable as a single file."""

import logging
from pathlib import Path
from typing import Any

from scfm.checkpoint import WEIGHTS
from scfm.strategy.checkpoint_io import write_checkpoint
from scfm.strategy.sharded import list_missing
from scfm.training.shards import plain_loads, read_shards, require_whole_shards, trusted_loads

log = logging.getLogger(__name__)


def consolidate(folder: Path, *, trusted: bool = False) -> Path:
    """Gather the weights of a folder of shards into one file inside it, where every command finds it.

    Args:
        folder: written by DeepSpeed or by ``fsdp2`` with ``sharded_checkpoint``.
        trusted: DeepSpeed's shards may hold objects of any class, whose code is then run.

    Returns:
        The file.

    Raises:
        ValueError: it is no checkpoint folder, not whole, or holds what only a trusted folder may hold.
    """
    lacking = list_missing(folder) if folder.is_dir() else ["the folder itself"]
    if lacking:
        raise ValueError(f"{folder} is not a whole checkpoint folder; it lacks {', '.join(lacking)}")
    output = folder / WEIGHTS
    whole = _from_deepspeed(folder, trusted) if (folder / "checkpoint").is_dir() else read_shards(folder)
    parts = ("state_dict", "scfm", "global_step", "epoch")
    absent = [name for name in parts if name not in whole]
    if absent:
        raise ValueError(f"{folder} is no checkpoint of scfm: it lacks {', '.join(absent)}")
    write_checkpoint({name: whole[name] for name in parts}, output)
    log.info("Wrote %s (%.0f MB).", output, output.stat().st_size / 1e6)
    return output


def _from_deepspeed(folder: Path, trusted: bool) -> dict[str, Any]:
    from pytorch_lightning.utilities.deepspeed import convert_zero_checkpoint_to_fp32_state_dict

    require_whole_shards(folder)
    aside = folder / ".zero.part"  # it writes what it returns
    try:
        with trusted_loads() if trusted else plain_loads():
            return convert_zero_checkpoint_to_fp32_state_dict(folder, aside, tag="checkpoint")
    except ModuleNotFoundError:
        raise
    except Exception as error:  # whatever a shard holds, the advice is the same
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{folder} cannot be gathered: {reason}. Its shards are damaged, or hold objects whose code would run: if "
            f"you trust whoever wrote them, scfm-consolidate checkpoint={folder} trusted=true"
        ) from error
    finally:
        aside.unlink(missing_ok=True)
