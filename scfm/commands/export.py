"""``scfm-export``: a checkpoint or a store as transformers and the published tools read it."""

import logging
import sys
from pathlib import Path

from omegaconf import DictConfig

from scfm.closing import closing_block, command_line
from scfm.inference.model import load
from scfm.published.dataset import export_dataset
from scfm.published.push import PushError, push_folder, require_name
from scfm.store.token_store import TokenStore

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    """Export ``cfg.checkpoint`` or ``cfg.store`` to ``cfg.output``; exit 2 where only the upload failed.

    Raises:
        ValueError: neither or both are given, or ``push`` comes with a store.
    """
    given = [name for name in ("checkpoint", "store") if cfg[name] is not None]
    if len(given) != 1:
        raise ValueError(f"got {' and '.join(given) or 'nothing'} to export; expected checkpoint=... or store=...")
    if cfg.store is not None:
        if cfg.push is not None:
            raise ValueError("push=... uploads a model: give checkpoint=...; the cells of a store are not uploaded")
        store = TokenStore.open(cfg.store)
        path = export_dataset(store, cfg.output)
        log.info("%s", closing_block([f"{len(store):,} cells"], [path]))
        return
    if cfg.push is not None:
        require_name(cfg.push)
    files = load(cfg.checkpoint, extensions=cfg.extensions).export(cfg.output, dtype=cfg.dtype, license=cfg.license)
    following = command_line("embed", init_from=cfg.output, input="...", output="...")
    log.info("%s", closing_block([], [f"{cfg.output}/{name}" for name in files], following))
    if cfg.push is not None:
        try:
            push_folder(Path(cfg.output), cfg.push, files)
        except (PushError, ModuleNotFoundError) as error:
            log.error("%s", error)
            sys.exit(2)
