"""``scfm-prepare``: single-cell files to a token store."""

import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf

from scfm import checkpoint
from scfm.config import build
from scfm.data.prepare import prepare
from scfm.tokenizer import Tokenizer, from_dict

log = logging.getLogger(__name__)

#: Keys that become objects; the rest are passed to :func:`scfm.data.prepare.prepare` as they are.
_BUILT = ("tokenizer", "init_from", "input", "extensions", "quality", "genes", "executor", "append", "dry_run")


def run(cfg: DictConfig) -> None:
    """Prepare ``cfg.input`` into the store ``cfg.output``."""
    options: dict[str, Any] = {
        str(key): OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
        for key, value in cfg.items()
        if key not in _BUILT
    }
    built = {name: build(cfg[name]) for name in ("quality", "genes", "executor")}
    store = prepare(_plain(cfg.input), tokenizer=tokenizer_of(cfg), **options, **built)
    log.info("Wrote %d cells, %d tokens to %s", len(store), int(store.lengths.sum()), store.path)


def tokenizer_of(cfg: DictConfig) -> Tokenizer:
    """The tokenizer of the config, or of the checkpoint that it names."""
    if cfg.init_from is not None:
        return from_dict(checkpoint.read(cfg.init_from).tokenizer)
    return build(cfg.tokenizer)


def _plain(value: Any) -> Any:
    return OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
