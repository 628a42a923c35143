"""``scfm-sketch``: cells of a large file that stand for all of them, with weights."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from scfm.closing import closing_block
from scfm.inference.write import require_output
from scfm.io import hold
from scfm.sketch.sketch import SketchOptions, draw_sketch
from scfm.sketch.write import write_sketch

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    """Draw a sketch of ``cfg.input`` and write ``cfg.output``, a table or the chosen cells.

    Raises:
        FileExistsError: the output is there.
        ValueError: see :func:`scfm.sketch.sketch.draw_sketch`; an output that is neither .csv nor .h5ad.
    """
    source, output = Path(cfg.input), Path(cfg.output)
    if output.suffix not in (".csv", ".h5ad"):
        raise ValueError(f"output={output}; expected .csv, rows and weights, or .h5ad, the chosen cells")
    names = ("n", "method", "by", "key", "genes", "block_size", "seed")
    options = SketchOptions(**{name: cfg[name] for name in names})
    output.parent.mkdir(parents=True, exist_ok=True)
    with hold(output.parent / f".{output.name}.lock", output):
        require_output(source, output, overwrite=cfg.overwrite)
        reading = {"layer": cfg.layer, "counts": cfg.counts, "mod": cfg.mod}
        chosen = draw_sketch(source, options, progress=True, **reading)
        write_sketch(source, chosen, output, block_size=cfg.block_size, **reading)
    result = (
        f"{len(chosen):,} cells by {cfg.method}; weigh them by {'weight' if output.suffix == '.csv' else 'scfm_weight'}"
    )
    log.info("%s", closing_block([result], [output]))
