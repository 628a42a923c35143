"""``scfm-analyse``: ask a trained model about cells; one analysis of ``configs/analysis/`` at a time."""

import logging
from typing import Any

from omegaconf import DictConfig

from scfm.analysis.base import Analysis
from scfm.closing import closing_block
from scfm.config import build
from scfm.inference.model import load
from scfm.inference.options import EmbedOptions, embed_options

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> list[str]:
    """Analyse ``cfg.input`` with ``cfg.init_from``, write the folder ``cfg.output``; the sentences of the summary.

    Raises:
        FileExistsError: the output is there.
        ValueError, FileNotFoundError: cells, model and options do not go together.
    """
    names = [name for name in EmbedOptions.__annotations__ if name in cfg]
    reading: Any = {name: cfg[name] for name in names}
    settings = embed_options("X_scfm", reading)
    analysis: Analysis = build(cfg.analysis)
    model = load(cfg.init_from, device=cfg.device)
    result = analysis.analyse(
        model, cfg.input, settings, output=cfg.output, overwrite=cfg.overwrite, progress=True
    )  # fmt: skip
    for sentence in result.notes:
        log.info(sentence)
    log.info("%s", closing_block(result.summary, [f"{cfg.output}/report.html", cfg.output]))
    return list(result.summary)
