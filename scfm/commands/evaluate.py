"""``scfm-evaluate``: score an embedding beside the methods a user would pick instead."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata
from anndata import AnnData
from omegaconf import DictConfig

from scfm.cells.file import open_cells
from scfm.checkpoint import Checkpoint, read
from scfm.config import plain
from scfm.evaluate.evaluate import evaluate
from scfm.genes import read_alias
from scfm.training.backbones import FileGenes, backbones, corpora, taught

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> dict[str, Any]:
    """Read the file, evaluate, say where the report lies."""
    options = plain(cfg)
    source, output = Path(options.pop("input")), Path(options.pop("output"))
    split, checkpoint = options.pop("split"), options.pop("checkpoint")
    if not source.is_file():
        raise FileNotFoundError(f"input={source} does not exist; scfm-embed writes such a file")
    try:
        adata = anndata.read_h5ad(source)
    except OSError as error:
        raise ValueError(f"{source} is not a readable .h5ad file ({error}); write it again with scfm-embed") from error
    said = made_by_what(adata, options["embedding"])
    made_by = _checkpoint(said, checkpoint)
    extra = {} if made_by is None else _compared_with(made_by, source, options, said)
    about = {"input": str(source), "checkpoint": None if made_by is None else str(made_by.path)}
    result = evaluate(adata, output=output, split=Path(split) if split else None, about=about, **extra, **options)
    log.info("Report: %s", output / "report.html")
    return result


def made_by_what(adata: AnnData, embedding: str) -> Mapping[str, Any]:
    """What scfm-embed wrote of itself beside an entry of obsm, or beside the one that it belongs to; else nothing."""
    entries = {key: own for key, own in adata.uns.get("scfm", {}).items() if isinstance(own, Mapping)}
    of_projections = {name: own for own in entries.values() for name in own.get("projections", ())}
    return entries.get(embedding) or of_projections.get(embedding) or {}


def _checkpoint(said: Mapping[str, Any], wanted: str | None) -> Checkpoint | None:
    """The checkpoint that made the embedding: the one the file names, for ``auto``, where it is still there."""
    if wanted is None:
        return None
    if wanted != "auto":
        return read(wanted)
    path = said.get("checkpoint")
    if path is None or not Path(path).exists():
        lost = "The file does not say which checkpoint made this embedding" if path is None else f"{path} is gone"
        log.info("%s: no comparison with untrained backbones; name it with checkpoint=...", lost)
        return None
    return read(path)


def _compared_with(
    checkpoint: Checkpoint, source: Path, options: dict[str, Any], said: Mapping[str, Any]
) -> dict[str, Any]:
    """Encoders and corpora of a checkpoint, where its tokenizer can read the counts of the file.

    Args:
        checkpoint: that made the embedding.
        source: the embedded file.
        options: of the evaluation.
        said: what scfm-embed wrote of itself: genes are matched as it did.
    """
    alias = said.get("alias") or None
    if alias is not None and not Path(alias).is_file():
        log.warning("%s, the gene names of this embedding, is gone: no comparison with untrained backbones.", alias)
        return {}
    column = said.get("gene_column") or None
    with open_cells(source, layer=options["layer"], gene_column=column, counts="lognorm_ok") as cells:
        names, fits = list(cells.genes), cells.is_counts
    if not fits:
        return {}
    genes = FileGenes(names, said.get("species", "human"), None if alias is None else read_alias(alias))
    return {
        "encoders": backbones(checkpoint, genes, options["seed"]),
        "corpora": corpora(checkpoint, genes),
        "taught": taught(checkpoint, genes),
    }
