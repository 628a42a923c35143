"""The store of the demo or synthetic cells: prepared once, when no store is given."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from scfm.config import build
from scfm.preparation.api import prepare

log = logging.getLogger(__name__)

#: Folder beside those of the runs, where stores made of the demo or synthetic cells are kept.
STORES = "stores"


@dataclass(frozen=True)
class Source:
    """Cells to train on when no store is given.

    Attributes:
        name: of the store made of them.
        cells: makes the .h5ad and returns its path.
        obs: obs columns to carry.
        group: the obs column whose cells stay together.
    """

    name: str
    cells: Callable[[], Path]
    obs: list[str]
    group: str | None = None


def prepared_source(source: DictConfig | None, tokenizer: DictConfig | None, stores: Path) -> Path:
    """The folder of the store made of some cells with a tokenizer, made where it is not there yet.

    Args:
        source: node of a :class:`Source`; None: no cells are given.
        tokenizer: node of a tokenizer; None for a fine-tune, which takes that of its checkpoint and needs a store.
        stores: the folder to make it in.

    Raises:
        ValueError: neither a store nor cells are given.
    """
    if source is None or tokenizer is None:
        others = ", or data=demo or data=synthetic" if tokenizer is not None else ""
        raise ValueError(f"no cells: give store=FOLDER (made by scfm-prepare){others}")
    made_of = OmegaConf.to_container(OmegaConf.create({"source": source, "tokenizer": tokenizer}), resolve=True)
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:8]
    folder = stores / f"{source.name}-{digest}"
    if os.environ.get("RANK", "0") != "0":
        _wait_for(folder)
    if not folder.exists():
        log.info("No store is given: preparing the %s cells into %s.", source.name, folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        made: Source = build(source)
        prepare([made.cells()], folder, build(tokenizer), obs=made.obs, group=made.group)
    return folder


def _wait_for(folder: Path, seconds: float = 600.0) -> None:
    """Let the first rank prepare the store; it appears whole, by a rename.

    Raises:
        FileNotFoundError: it did not within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not folder.exists():
        if time.monotonic() > deadline:
            raise FileNotFoundError(f"rank 0 has not prepared the store {folder} within {seconds:.0f} seconds")
        time.sleep(0.5)
