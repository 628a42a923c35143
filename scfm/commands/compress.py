"""``scfm-compress``: a smaller checkpoint, with what each step costs."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from scfm.checkpoint import read, read_state
from scfm.closing import closing_block, command_line
from scfm.compression.compress import CompressOptions, compress
from scfm.compression.distill import Distill
from scfm.config import plain
from scfm.inference.write import require_output
from scfm.io import hold, write_text
from scfm.progress import Progress
from scfm.store.token_store import TokenStore
from scfm.strategy.checkpoint_io import write_checkpoint

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> list[dict[str, Any]]:
    """Compress ``cfg.init_from`` by the cells of ``cfg.store`` into ``cfg.output``, and its curve beside it as .csv.

    Raises:
        FileExistsError: the output is there.
        ValueError: see :func:`scfm.compression.compress.compress`.
    """
    keys, output = plain(cfg), Path(cfg.output)
    names = (
        "layers",
        "feedforward",
        "width",
        "min_cells",
        "int8",
        "max_cells",
        "tokens_per_batch",
        "max_length",
        "seed",
    )
    options = CompressOptions(
        **{name: keys[name] for name in names}, distill=Distill(**keys["distill"], seed=keys["seed"])
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    with hold(output.parent / f".{output.name}.lock", output):
        for path in (output, output.with_suffix(".csv")):
            require_output(Path(cfg.store), path, overwrite=cfg.overwrite, checkpoint=cfg.init_from)
        checkpoint = read(cfg.init_from)
        about = read_state(checkpoint.path)["scfm"]
        found = compress(checkpoint, about, TokenStore.open(cfg.store), options, _bar)
        write_checkpoint(found.state, output)
        write_text(output.with_suffix(".csv"), found.curve.to_csv(index=False))
    first, last = found.curve.iloc[0], found.curve.iloc[-1]
    sizes = f"{first['megabytes']:.1f} to {last['megabytes']:.1f} MB"
    result = f"{sizes}; {last['neighbor_overlap']:.1%} of the nearest neighbors stay"
    following = command_line("embed", init_from=output, input="...", output="...")
    log.info("%s", closing_block([result], [output, output.with_suffix(".csv")], following))
    return found.curve.to_dict("records")


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    with Progress(title, total, unit="step") as bar:
        yield bar.advance
