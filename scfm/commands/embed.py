"""``scfm-embed``: embeddings, and what a head predicts, into a copy of an .h5ad."""

import logging
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
from omegaconf import DictConfig
from torch.utils.data import DataLoader, IterableDataset

from scfm import __version__
from scfm.batch import Batch
from scfm.cells.file import CellFile, open_cells
from scfm.checkpoint import Checkpoint, read
from scfm.config import build
from scfm.data.batch import pack
from scfm.data.order import Order
from scfm.genes import GeneMap, GeneReport, read_alias
from scfm.head.annotation.label_layer import UNKNOWN
from scfm.inference.load import checkpoint_vocab, restore_predictor
from scfm.inference.parts import PartWriter, claim_parts, join_parts, parts_of
from scfm.inference.write import write_annotated
from scfm.io import atomic_write, hold
from scfm.tokenizer import Tokenizer, from_dict
from scfm.tokenizer.token_counts import counts_beside
from scfm.training.fit import cluster, is_first_process
from scfm.training.quiet import quiet_lightning
from scfm.types import Ragged

log = logging.getLogger(__name__)
#: Share of cells without a name from which on a warning is due; calibration leaves about 5 % of known cells unnamed.
MANY = 0.3


class FileBatches(IterableDataset[Batch]):
    """The cells of a file as packed batches, read and tokenised block by block; cells without tokens are left out."""

    def __init__(
        self,
        cells: CellFile,
        genes: GeneMap,
        tokenizer: Tokenizer,
        *,
        tokens: int,
        block_size: int,
        part_size: int,
        keep_counts: bool = False,
        done: Collection[int] = (),
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.cells, self.genes, self.tokenizer = cells, genes, tokenizer
        self.tokens, self.block_size, self.part_size = tokens, block_size, part_size
        self.keep_counts = keep_counts
        self.parts = [part for part in range(rank, -(-cells.n_cells // part_size), world) if part not in done]

    def __iter__(self) -> Iterator[Batch]:
        for part in self.parts:
            start = part * self.part_size
            stop = min(start + self.part_size, self.cells.n_cells)
            for block in self.cells.blocks(start=start, stop=stop, size=self.block_size):
                counted = np.flatnonzero(~block.empty)
                encoded = self.tokenizer.encode(block.counts[counted], self.genes.columns)
                beside = (
                    Ragged(counts_beside(encoded, block.counts, counted, self.genes.columns), encoded.offsets)
                    if self.keep_counts
                    else None
                )
                yield from self._batches(encoded, block.start + counted, beside)

    def _batches(self, encoded: Ragged, index: np.ndarray, beside: Ragged | None) -> Iterator[Batch]:
        """The cells that have tokens; ``index`` is each cell's row in the file."""
        rows = np.flatnonzero(encoded.lengths)
        if len(rows) == 0:
            return
        lengths = encoded.lengths[rows]
        budget = max(self.tokens, int(lengths.max()))
        for chosen in _batches_of(Order(rows, lengths, tokens=budget, shuffle=False)):
            values = np.concatenate([encoded[row] for row in chosen])
            offsets = np.concatenate([[0], np.cumsum(encoded.lengths[chosen])])
            counts = None if beside is None else np.concatenate([beside[row] for row in chosen])
            yield pack(Ragged(values, offsets), index[chosen], counts=counts)


def _batches_of(order: Order) -> Iterator[np.ndarray]:
    plan = order.epoch(0)
    return (plan[step] for step in range(len(plan)))


def run(cfg: DictConfig) -> None:
    """Embed every cell of ``cfg.input``, in its order; ranks divide its parts among them.

    Raises:
        BlockingIOError: another run is writing the output.
        FileExistsError: the output is there.
        ValueError: the output is the input, the file and the checkpoint do not fit, or the strategy divides the model.
    """
    source, output = Path(cfg.input), Path(cfg.output)
    with hold(output.parent / f".{output.name}.lock", output) if is_first_process() else nullcontext():
        _embed(cfg, source, output)


def _embed(cfg: DictConfig, source: Path, output: Path) -> None:
    if output.exists() and not cfg.overwrite:
        raise FileExistsError(f"{output} exists; choose another output=... or set overwrite=true")
    if output.resolve() == source.resolve():
        raise ValueError(f"output={output} is the input; the input is never modified, choose another output=...")
    checkpoint = read(cfg.init_from)
    tokenizer = _as_trained(checkpoint)
    module = restore_predictor(checkpoint)
    keep_counts = module.task.requirements().counts
    counts: Literal["required", "lognorm_ok"] = "required" if tokenizer.needs_counts or keep_counts else "lognorm_ok"
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = output.parent / f".{output.name}.parts"
    with open_cells(source, layer=cfg.layer, gene_column=cfg.gene_column, counts=counts) as cells:
        alias = read_alias(cfg.alias) if cfg.alias else None
        genes = tokenizer.harmonise(cells.genes, species=cfg.species, alias=alias)
        report = _gene_report(cells, genes, cfg.max_dropped)
        log.info("%s", report)
        writer = PartWriter(folder, cfg.part_size)
        strategy = build(cfg.strategy) if cfg.strategy is not None else "auto"
        quiet_lightning()
        if hasattr(strategy, "shard"):  # whose ranks would have to do the same number of batches
            raise ValueError("scfm-embed divides the cells over the devices, not the model: take strategy=ddp")
        trainer: pl.Trainer = build(cfg.trainer, callbacks=[writer], strategy=strategy, plugins=cluster())
        claim_parts(folder, _depends_on(cfg, source, checkpoint), first=trainer.is_global_zero)
        batches = FileBatches(
            cells, genes, tokenizer, tokens=cfg.tokens_per_batch, block_size=cfg.block_size, part_size=cfg.part_size,
            keep_counts=keep_counts, done=parts_of(folder), rank=trainer.global_rank, world=trainer.world_size,
        )  # fmt: skip
        trainer.predict(module, DataLoader(batches, batch_size=None), return_predictions=False)
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        found = join_parts(folder, cells.n_cells)
        _warn_of_empty(found["embedding"], source)
        written = module.task.write(found)
        warn_of_unknown(written.obs)
        state = {f"{cfg.key}_state": found["state"]} if "state" in found else {}
        made_by = _provenance(cfg, checkpoint, cells, report, list(written.obsm))
        made_by |= {"head": written.uns} if written.uns else {}
        with atomic_write(output, scratch=folder) as part:
            shutil.copyfile(source, part)
            write_annotated(
                part,
                obsm={cfg.key: found["embedding"]} | state | written.obsm,
                obs=written.obs,
                uns={"scfm": {cfg.key: made_by}},
            )
        shutil.rmtree(folder)
    log.info("Wrote obsm[%r] (%d cells x %d) to %s", cfg.key, *found["embedding"].shape, output)


def _depends_on(cfg: DictConfig, source: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """What makes the parts of an interrupted run those of this one."""
    files = {str(path.resolve()): [path.stat().st_size, path.stat().st_mtime_ns] for path in (source, checkpoint.path)}
    options = {name: cfg[name] for name in ("layer", "gene_column", "species", "alias", "part_size")}
    return {"files": files, "version": __version__, **options}


def _as_trained(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer of the checkpoint, cutting cells where its training did (``data.max_length``)."""
    tokenizer = from_dict(checkpoint.tokenizer)
    cut = checkpoint.config["data"]["max_length"]
    return tokenizer if cut is None else replace(tokenizer, max_length=min(cut, tokenizer.max_length))


def _gene_report(cells: CellFile, genes: GeneMap, max_dropped: float) -> GeneReport:
    """What of the file's genes the model knows, judged on blocks from all over the file."""
    starts = np.linspace(0, max(0, cells.n_cells - 256), num=8, dtype=int)
    counts = np.zeros(len(cells.genes))
    for start in np.unique(starts):
        for block in cells.blocks(start=int(start), stop=min(int(start) + 256, cells.n_cells)):
            counts += np.asarray(block.counts.sum(axis=0), dtype=np.float64).ravel()
    report = genes.report(counts)
    report.require(max_dropped, str(cells.path))
    return report


def _warn_of_empty(embedding: np.ndarray, source: Path) -> None:
    empty = int(np.isnan(embedding[:, 0]).sum())
    if empty:
        log.warning("%d cell(s) of %s have no gene that the model knows: their embedding is NaN.", empty, source)


def warn_of_unknown(annotations: Mapping[str, np.ndarray]) -> None:
    """Say so where a head leaves many cells without a name; columns with a ``_guess`` beside them are names."""
    for name, values in annotations.items():
        share = float((values == UNKNOWN).mean()) if f"{name}_guess" in annotations else 0.0
        if share > MANY:
            log.warning(
                "%.0f%% of the cells are %r in obs[%r]: they look unlike the cells the head was calibrated on (other "
                "types, another technology); the likeliest class of each is in obs[%r].",
                100 * share, UNKNOWN, name, f"{name}_guess",
            )  # fmt: skip


def _provenance(
    cfg: DictConfig, checkpoint: Checkpoint, cells: CellFile, report: GeneReport, projections: list[str]
) -> dict[str, Any]:
    return {
        "version": __version__,
        "checkpoint": str(checkpoint.path.resolve()),
        "projections": projections,
        "vocab_hash": checkpoint_vocab(checkpoint).hash,
        "tokenizer": from_dict(checkpoint.tokenizer).name,
        "counts_from": cells.counts_from,
        "gene_column": cfg.gene_column or "",
        "species": cfg.species,
        "alias": str(Path(cfg.alias).resolve()) if cfg.alias else "",
        "share_of_counts_dropped": float(report.share_dropped),
    }
