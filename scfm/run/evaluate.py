"""``scfm-evaluate``: score an embedding beside the methods a user would pick instead."""

import logging
from pathlib import Path
from typing import Any

import anndata
from omegaconf import DictConfig

from scfm.config import plain
from scfm.evaluate.compare import evaluate

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> dict[str, Any]:
    """Read the file, evaluate, say where the report lies."""
    options = plain(cfg)
    source, output = Path(options.pop("input")), Path(options.pop("output"))
    split = options.pop("split")
    if not source.is_file():
        raise FileNotFoundError(f"input={source} does not exist; scfm-embed writes such a file")
    try:
        adata = anndata.read_h5ad(source)
    except OSError as error:
        raise ValueError(f"{source} is not a readable .h5ad file ({error}); write it again with scfm-embed") from error
    result = evaluate(
        adata, output=output, split=Path(split) if split else None, about={"input": str(source)}, **options
    )
    log.info("Report: %s", output / "report.html")
    return result
