"""``scfm-embed``: embeddings, and what a head predicts, into a copy of an .h5ad."""

import logging
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from scfm import __version__
from scfm.callback.bar import CellBar
from scfm.checkpoint import Checkpoint
from scfm.closing import closing_block, command_line
from scfm.config import build, plain
from scfm.head.base import Written
from scfm.inference.cell_input import CellInput, open_input
from scfm.inference.load import restore_predictor
from scfm.inference.model import Model
from scfm.inference.options import EmbedOptions, embed_options, require_key
from scfm.inference.parts import PartWriter, claim_parts, is_result, join_parts, note_result, parts_of
from scfm.inference.vote import add_majority, require_vote
from scfm.inference.write import make_entries, require_output, require_room, write_result
from scfm.io import atomic_write, follow_link, hold
from scfm.module import CellModule
from scfm.published.dictionaries import Dictionaries
from scfm.published.folder import read_checkpoint
from scfm.training.devices import cluster, is_first_process, require_devices
from scfm.training.trainer import quiet_lightning

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    """Embed every cell of ``cfg.input``, in its order; ranks divide its parts among them.

    Raises:
        BlockingIOError: another run is writing the output.
        FileExistsError: the output is there.
        ValueError: the output is the input, the file and the checkpoint do not fit, or the strategy divides the model.
    """
    source, output = Path(cfg.input), follow_link(cfg.output)
    with hold(output.parent / f".{output.name}.lock", output) if is_first_process() else nullcontext():
        require_key(cfg.key)
        if cfg.what not in ("cell", "gene", "state"):
            raise ValueError(f"what={cfg.what}; expected cell, gene or state")
        if not cfg.overwrite and is_result(_parts_folder(output), output, plain(cfg)):
            shutil.rmtree(_parts_folder(output))
            log.info("%s was finished by the run that was stopped; nothing is left to do", output)
            return
        require_output(source, output, overwrite=cfg.overwrite, checkpoint=cfg.init_from)
        require_devices(cfg.trainer)
        require_room(source, cfg.key)
        checkpoint = read_checkpoint(cfg.init_from, Dictionaries.from_config(cfg.tokenizer, cfg.labels))
        module = restore_predictor(checkpoint)
        options: Any = {name: cfg[name] for name in EmbedOptions.__annotations__}
        settings = embed_options(cfg.key, options)
        output.parent.mkdir(parents=True, exist_ok=True)
        if cfg.what != "cell":
            _write_table(cfg, Model(checkpoint, module), options)
            return
        with (
            settings.rule.applied(module) as ruled,
            open_input(
                source, checkpoint, settings.reading, keep_counts=ruled.reads_counts, fields=ruled.task.reads
            ) as cells,
        ):
            _embed(cfg, cells, checkpoint, ruled)


def _write_table(cfg: DictConfig, model: Model, options: EmbedOptions) -> None:
    """The table of vectors of genes or of states as an .h5ad of its own."""
    if cfg.what == "gene":
        table = model.gene_table(cfg.input, by=cfg.by, min_cells=cfg.min_cells, progress=True, **options)
    else:
        if cfg.by is None:
            raise ValueError("what=state needs by=COLUMN, the obs column of the states, such as by=cell_type")
        table = model.state_table(
            cfg.input, by=cfg.by, donor=cfg.donor, min_cells=cfg.min_cells, progress=True, **options
        )
    with atomic_write(follow_link(cfg.output)) as part:
        table.write_h5ad(part)
    log.info("Wrote %d %s vectors of width %d to %s", len(table), cfg.what, table.n_vars, cfg.output)


def _embed(cfg: DictConfig, given: CellInput, checkpoint: Checkpoint, module: CellModule) -> None:
    """Predict part by part, so that an interrupted run goes on, and put the whole into a copy of the file."""
    source, output = Path(cfg.input), follow_link(cfg.output)
    folder = _parts_folder(output)
    require_vote(cfg.vote, given.cells.n_cells)
    strategy = build(cfg.strategy) if cfg.strategy is not None else "auto"
    quiet_lightning()
    if hasattr(strategy, "shard"):  # whose ranks would have to do the same number of batches
        raise ValueError("scfm-embed divides the cells over the devices, not the model: take strategy=ddp")
    writer = PartWriter(folder, cfg.part_size)
    bar = CellBar("Embedding", given.cells.n_cells)
    trainer: pl.Trainer = build(
        cfg.trainer, callbacks=[writer, bar], strategy=strategy, plugins=cluster(), enable_progress_bar=False
    )
    claim_parts(folder, _depends_on(cfg, source, checkpoint), first=trainer.is_global_zero)
    bar.done = min(cfg.part_size * len(parts_of(folder)), given.cells.n_cells)
    batches = given.batches(
        tokens=cfg.tokens_per_batch, block_size=cfg.block_size, part_size=cfg.part_size,
        done=parts_of(folder), rank=trainer.global_rank, world=trainer.world_size,
    )  # fmt: skip
    trainer.predict(module, DataLoader(batches, batch_size=None), return_predictions=False)
    trainer.strategy.barrier()
    if not trainer.is_global_zero:
        return
    arrays = join_parts(folder, given.cells.n_cells)
    obs = given.cells.obs if module.task.file_columns else None
    entries = make_entries(
        module.task, arrays, cfg.key, given.provenance(checkpoint, module.backbone), str(source), obs
    )
    entries = add_majority(entries, cfg.key, cfg.vote)
    with atomic_write(output, scratch=folder) as part:
        write_result(part, source, given.cells, entries)
        note_result(folder, part, plain(cfg))
    shutil.rmtree(folder)
    log.info("%s", _closing(cfg, entries, len(arrays["embedding"])))


def _closing(cfg: DictConfig, entries: Written, n_cells: int) -> str:
    arrays = ", ".join(f"obsm[{name!r}] ({values.shape[1]})" for name, values in entries.obsm.items())
    columns = ", ".join(f"obs[{name!r}]" for name in entries.obs)
    result = [f"{n_cells:,} cells: {arrays}", *([columns] if columns else [])]
    embedding = None if cfg.key == "X_scfm" else cfg.key
    return closing_block(
        result, [cfg.output], command_line("evaluate", input=cfg.output, embedding=embedding, label="...")
    )


def _parts_folder(output: Path) -> Path:
    return output.parent / f".{output.name}.parts"


def _depends_on(cfg: DictConfig, source: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """What makes the parts of an interrupted run those of this one."""
    files = {
        str(path.resolve()): [path.stat().st_size, path.stat().st_mtime_ns] for path in (source, *checkpoint.files)
    }
    names = ("layer", "gene_column", "counts", "mod", "species", "alias", "part_size")
    options = {name: cfg[name] for name in (*names, "embedding_layer", "embedding_pool")}
    return {"files": files, "version": __version__, **options}
