"""The store of the demo or synthetic cells: prepared once, when no store is given."""

import hashlib
import json
import logging
import os
import time
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from scfm.config import build
from scfm.data.prepare import prepare

log = logging.getLogger(__name__)


def prepared_source(cfg: DictConfig) -> Path:
    """The folder of the store made of ``cfg.source`` with ``cfg.tokenizer``, made where it is not there yet.

    Raises:
        ValueError: neither a store nor cells are given.
    """
    if cfg.source is None or "tokenizer" not in cfg:
        raise ValueError("no cells: give store=FOLDER (made by scfm-prepare), or data=demo or data=synthetic")
    made_of = OmegaConf.to_container(OmegaConf.create({"source": cfg.source, "tokenizer": cfg.tokenizer}), resolve=True)
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:8]
    folder = Path(cfg.output).parent / "stores" / f"{cfg.source.name}-{digest}"
    if os.environ.get("RANK", "0") != "0":
        _wait_for(folder)
    if not folder.exists():
        log.info("No store is given: preparing the %s cells into %s.", cfg.source.name, folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        tokenizer = build(cfg.tokenizer)
        prepare([build(cfg.source.cells)], folder, tokenizer, obs=list(cfg.source.obs), group=cfg.source.group)
    return folder


def _wait_for(folder: Path, seconds: float = 600.0) -> None:
    """Let the first rank prepare the store; it appears whole, by a rename.

    Raises:
        FileNotFoundError: it did not within ``seconds``.
    """
    until = time.monotonic() + seconds
    while not folder.exists():
        if time.monotonic() > until:
            raise FileNotFoundError(f"rank 0 has not prepared the store {folder} within {seconds:.0f} seconds")
        time.sleep(0.5)
