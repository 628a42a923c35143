"""The Python API: what the command lines do, as functions. The names are those of :mod:`scfm` itself.

The same configs, defaults and checks as the commands; nothing is printed unless asked for.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir

from scfm.cli import CONFIGS, lenient
from scfm.config import check, import_extensions, shipped
from scfm.inference.model import Model, load
from scfm.store.token_store import TokenStore

if TYPE_CHECKING:
    from anndata import AnnData

    from scfm.evaluation.result import Result

__all__ = ["Model", "TokenStore", "evaluate", "finetune", "load", "open_store", "prepare", "train"]

#: What a run shows on a terminal.
BARS = ("callbacks.progress=null", "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false")


def open_store(path: str | Path) -> TokenStore:
    """Open a token store; its cells are read from memory maps.

    Example:
        >>> store = scfm.open_store("stores/pbmc")                  # doctest: +SKIP
        >>> len(store), store.columns                               # doctest: +SKIP

    Raises:
        FileNotFoundError: nothing lies there.
        ValueError: it is no store, or damaged.
    """
    return TokenStore.open(path)


def prepare(
    cells: AnnData | str | Path | Sequence[str | Path], *, output: str | Path, progress: bool = False, **overrides: Any
) -> TokenStore:
    """Prepare a token store, as ``scfm-prepare`` does.

    Args:
        cells: an AnnData in memory, or one or several files.
        output: folder of the store.
        progress: show what the command shows.
        **overrides: keys of ``configs/prepare.yaml``: ``tokenizer="iseeek"``, ``obs=["cell_type"]``, ``group="donor"``.

    Example:
        >>> store = scfm.prepare(adata, output="stores/pbmc", obs=["cell_type"])    # doctest: +SKIP

    Raises:
        FileExistsError: there is another store.
        ValueError: unknown keys, or cells that cannot be read.
    """
    with _as_files(cells) as files:
        run_command("prepare", {"input": files, "output": output, **overrides}, progress=progress)
    return TokenStore.open(output)


def train(*, progress: bool = False, **overrides: Any) -> Model:
    """Pretrain a backbone, as ``scfm-train`` does.

    Args:
        progress: show progress bar and log.
        **overrides: keys of ``configs/train.yaml``; those with dots in a dictionary: ``**{"trainer.max_steps": 100}``.

    Returns:
        The model of the last step, loaded from its checkpoint.

    Example:
        >>> model = scfm.train(store="stores/pbmc", model="tiny", output="outputs/pbmc")    # doctest: +SKIP

    Raises:
        FileExistsError: the output holds another run.
        ValueError: unknown keys, or values that do not go together.
    """
    output = run_command("train", overrides, progress=progress)
    return load(output / "checkpoints" / "last.ckpt")


def finetune(*, progress: bool = False, **overrides: Any) -> Model:
    """Fine-tune a head, as ``scfm-finetune`` does.

    Args:
        progress: show progress bar and log.
        **overrides: keys of ``configs/finetune.yaml``; those with dots in a dictionary: ``**{"head.label": "type"}``.

    Returns:
        The model of the best step, loaded from its checkpoint.

    Example:
        >>> model = scfm.finetune(                                  # doctest: +SKIP
        ...     init_from="outputs/pbmc/checkpoints/last.ckpt", store="stores/pbmc", head="annotation/classifier",
        ...     output="outputs/annot", **{"head.label": "cell_type"})

    Raises:
        FileExistsError: the output holds another run.
        ValueError: unknown keys, or values that do not go together.
    """
    folder = run_command("finetune", overrides, progress=progress) / "checkpoints"
    return load(folder / "best.ckpt" if (folder / "best.ckpt").exists() else folder / "last.ckpt")


def evaluate(adata: AnnData, **options: Any) -> Result:
    """Score an embedding beside the methods a user would take instead, as ``scfm-evaluate`` does; nothing is written.

    Args:
        adata: cells with the embedding in ``obsm`` and counts; not changed.
        **options: see :class:`scfm.evaluation.options.Options`: ``label="cell_type", batch="donor"``.

    Example:
        >>> result = scfm.evaluate(adata, label="cell_type", batch="donor")         # doctest: +SKIP
        >>> result                                                  # doctest: +SKIP

    Raises:
        ValueError: a column, an embedding or counts that are not there.
    """
    from scfm.evaluation.evaluate import evaluate as score
    from scfm.evaluation.options import Options

    return score(adata, Options(**options))


def run_command(command: str, overrides: dict[str, Any], *, progress: bool) -> Path:
    """Run a command with its own config and checks.

    Args:
        command: its name.
        overrides: key -> plain value.
        progress: show bars and log lines.

    Returns:
        The folder it wrote.
    """
    quiet = () if progress or command == "prepare" else BARS
    words = [f"{key}={_as_text(value)}" for key, value in overrides.items()]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(command, lenient([*quiet, *words]))
    import_extensions(cfg.get("extensions") or ())
    check(cfg, shipped(CONFIGS, command))
    logger = logging.getLogger("scfm")
    before = logger.level
    logger.setLevel(logging.INFO if progress else max(before, logging.WARNING))
    try:
        importlib.import_module(f"scfm.commands.{command}").run(cfg)
    finally:
        logger.setLevel(before)
    return Path(cfg.output)


@contextmanager
def _as_files(cells: AnnData | str | Path | Sequence[str | Path]) -> Iterator[list[str]]:
    """Paths of the cells; an AnnData is written to a file for as long as this lasts."""
    if isinstance(cells, (str, Path)):
        yield [str(cells)]
    elif isinstance(cells, Sequence):
        yield [str(path) for path in cells]
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cells.h5ad"
            cells.write_h5ad(path)
            yield [str(path)]


def _as_text(value: Any) -> str:
    """A plain value in the grammar of the command line."""
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_as_text, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_as_text(item)}" for key, item in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return repr(value)
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"
