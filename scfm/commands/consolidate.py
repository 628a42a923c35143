"""``scfm-consolidate``: a checkpoint folder of shards, made readable as a single file."""

from pathlib import Path

from omegaconf import DictConfig

from scfm.training.consolidate import consolidate


def run(cfg: DictConfig) -> None:
    """Consolidate ``cfg.checkpoint``."""
    consolidate(Path(cfg.checkpoint), trusted=cfg.trusted)
