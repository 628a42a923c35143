"""``scfm-evaluate``: score an embedding beside the methods a user would take instead."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata
import h5py
from anndata import AnnData
from omegaconf import DictConfig

from scfm.cells.file import open_cells
from scfm.cells.formats.hdf5_limits import require_own_data
from scfm.checkpoint import Checkpoint
from scfm.closing import closing_block
from scfm.config import plain
from scfm.evaluation.cells import embedding_records
from scfm.evaluation.evaluate import evaluate
from scfm.evaluation.options import Options
from scfm.evaluation.origin.backbones import FileGenes, read_origin
from scfm.evaluation.origin.origin import Origin
from scfm.genes import read_alias
from scfm.inference.embedding_rule import reread
from scfm.io import hold
from scfm.published.dictionaries import Dictionaries
from scfm.published.folder import read_checkpoint
from scfm.report.evaluation import write

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> dict[str, Any]:
    """Read the file, evaluate, write the report; the scores as plain values, with the paths of the ``files``.

    Raises:
        BlockingIOError: another run is writing the output.
    """
    keys = plain(cfg)
    source, output = Path(keys.pop("input")), Path(keys.pop("output"))
    with hold(output.parent / f".{output.name}.lock", output):
        return _evaluate(keys, source, output)


def _evaluate(keys: dict[str, Any], source: Path, output: Path) -> dict[str, Any]:
    wanted, mod = keys.pop("checkpoint"), keys.pop("mod")
    keys.pop("extensions")  # imported and allowed by now
    given = Dictionaries.from_config(keys.pop("tokenizer"))
    keys["others"] += keys.pop("beside")
    options = Options(**keys)
    adata = read_file(source)
    record = embedding_records(adata).get(options.embedding, {})
    checkpoint = find_checkpoint(record, wanted, given)
    if checkpoint is not None:
        checkpoint = reread(checkpoint, record)  # the embedding may be of another layer than the model's own
    origin = None if checkpoint is None else find_origin(checkpoint, source, options, record, mod)
    about = {"input": str(source), "checkpoint": None if checkpoint is None else str(checkpoint.path)}
    result = evaluate(adata, options, origin=origin, about=about)
    for sentence in result.notes:
        log.info(sentence)
    files = write(result, output)
    page = output / "report.html"
    log.info("%s", closing_block(result.summary, [page, *(path for path in map(Path, files) if path.suffix == ".csv")]))
    return {**result.to_dict(), "files": [str(path) for path in files]}


def read_file(path: Path) -> AnnData:
    """The cells of an .h5ad.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"input={path} does not exist; scfm-embed writes such a file")
    try:
        with h5py.File(path) as file:
            require_own_data(file)
        return anndata.read_h5ad(path)
    except OSError as error:
        raise ValueError(f"{path} is not a readable .h5ad file ({error}); write it again with scfm-embed") from error
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def find_checkpoint(
    record: Mapping[str, Any], wanted: str | None, given: Dictionaries | None = None
) -> Checkpoint | None:
    """The checkpoint that made the embedding: for ``auto`` the one that the file names, where it is still there."""
    if wanted is None:
        return None
    if wanted != "auto":
        return read_checkpoint(wanted, given)
    path = record.get("checkpoint")
    if path is None or not Path(path).exists():
        reason = "The file does not say which checkpoint made this embedding" if path is None else f"{path} is gone"
        log.info("%s: no comparison with untrained backbones; name it with checkpoint=...", reason)
        return None
    try:
        return read_checkpoint(path, given)
    except FileNotFoundError as error:  # of a published model whose dictionaries were named
        log.warning("No comparison with untrained backbones: %s", error)
        return None


def find_origin(
    checkpoint: Checkpoint, source: Path, options: Options, record: Mapping[str, Any], mod: str | None = None
) -> Origin | None:
    """Backbones and stores of a checkpoint, where its tokenizer can read the counts of the file; else None.

    Args:
        checkpoint: that made the embedding.
        source: the embedded file.
        options: of the evaluation.
        record: what scfm-embed wrote about the embedding: genes are matched as it did.
        mod: the feature type that is genes; None takes what the record says.
    """
    alias = record.get("alias") or None
    if alias is not None and not Path(alias).is_file():
        log.warning("%s, the gene names of this embedding, is gone: no comparison with untrained backbones.", alias)
        return None
    column = record.get("gene_column") or None
    reading: dict[str, Any] = {"layer": options.layer, "gene_column": column, "mod": mod or record.get("mod", "rna")}
    with open_cells(source, counts="lognorm_ok", **reading) as cells:
        names, fits = list(cells.genes), cells.is_counts
    if not fits:
        return None
    genes = FileGenes(names, record.get("species", "human"), None if alias is None else read_alias(alias))
    return read_origin(checkpoint, genes, options.seed)
