"""From single-cell files to a token store: streamed, resumable, with the same bytes for any division of the work."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from scfm.cells.quality import Quality
from scfm.genes import read_alias
from scfm.io import atomic_write, follow_link
from scfm.preparation.executors import Dask, Local
from scfm.preparation.job import Job, execute
from scfm.preparation.options import Genes, Options, Share, resolve_inputs
from scfm.preparation.side import Side
from scfm.preparation.workdir import WorkDir
from scfm.store.layout import MANIFEST, REPORT
from scfm.store.manifest import read_manifest
from scfm.store.token_store import TokenStore
from scfm.tokenizer import Tokenizer, from_dict

log = logging.getLogger(__name__)

#: Cells of each file that a dry run reads.
SAMPLE_CELLS = 1000


def prepare(
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    tokenizer: Tokenizer,
    *,
    obs: Sequence[str] = (),
    categories: Sequence[str] = (),
    group: str | None = None,
    missing: Literal["refuse", "allow"] = "refuse",
    layer: str | None = None,
    gene_column: str | None = None,
    counts: Literal["required", "decimals_ok", "lognorm_ok"] = "required",
    mod: str = "rna",
    on_duplicate_cells: Literal["refuse", "number", "ignore"] = "refuse",
    n_counts: str | None = None,
    empty: Literal["refuse", "drop"] = "refuse",
    quality: Quality | None = None,
    genes: Genes | None = None,
    duplicates: Literal["keep", "report", "drop"] = "keep",
    keep_counts: bool = False,
    side: Side | None = None,
    shuffle: bool = False,
    seed: int = 0,
    workers: int | None = None,
    block_size: int = 1024,
    cells_per_part: int | None = None,
    executor: Local | Dask | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    overwrite: bool = False,
    limit: int | None = None,
    share: str | None = None,
) -> TokenStore | None:
    """Tokenize files into a store.

    After a kill, the same call does what is missing. The bytes of the store depend on the cells, the tokenizer and the
    options, not on workers, block size, compression or kills.

    Args:
        inputs: files, or patterns; see :func:`scfm.cells.file.open_cells` for the formats.
        output: the store; its unfinished parts are in ``.NAME.partial`` beside it.
        tokenizer: if it is not fitted, a first pass over these files gives its vocabulary and medians.
        obs: obs columns to carry.
        categories: obs columns to carry whose numbers are names of classes (clusters), not quantities.
        group: the obs column whose cells stay together in a split (a donor).
        missing: a file without one of the columns is refused, or its cells get -1 or NaN there (``allow``).
        layer: the layer of the counts; this and the next four: see :func:`scfm.cells.file.open_cells`.
        gene_column: var column of the gene names.
        counts: ``decimals_ok`` accepts decimals that are counts, ``lognorm_ok`` log-normalized values.
        mod: modality of a file with several.
        on_duplicate_cells: what to do about cells of equal names in a file.
        n_counts: obs column with each cell's total of counts; None adds up all its genes.
        empty: a cell without counts ends the run (``refuse``) or is dropped and counted.
        quality: rules that cells must pass, see :class:`scfm.cells.quality.Quality`.
        genes: how genes are matched, see :class:`scfm.preparation.options.Genes`.
        duplicates: cells with equal counts are kept without a check, reported, or all but the first dropped.
        keep_counts: also store the counts behind the tokens in a column ``counts``, 0 at special tokens.
        side: second modalities to keep, see :class:`scfm.preparation.side.Side`.
        shuffle: write the cells in an order shuffled over the whole corpus, drawn from ``seed``.
        seed: of the shuffled order.
        workers: number of workers; None takes one for small inputs, else one per core.
        block_size: cells that a worker holds at a time.
        cells_per_part: cells of a part, the unit that is repeated after a kill; None makes at most 512 parts.
        executor: where parts run; None is :class:`scfm.preparation.executors.Local`.
        on_error: a bad file ends the run (``stop``), or is left out and listed (``skip``).
        overwrite: replace an existing output; start over if an unfinished one has other inputs or options.
        limit: only so many first cells of each file.
        share: ``3/16`` does the third sixteenth of the parts and stops. Shares may run at the same time on machines
            that see the same files; see docs/scale.md.

    Returns:
        The store, opened; None after a share. Its ``files`` report on each input; those left out have the key
        ``skipped``.

    Raises:
        FileNotFoundError, FileExistsError, ValueError, RuntimeError, OSError: what is wrong with inputs,
            options or disk. No unfinished store is left at ``output``.
    """
    genes = genes or Genes()
    if counts == "lognorm_ok" and tokenizer.needs_counts:
        raise ValueError(
            f"the tokenizer {tokenizer.name} needs counts: counts=lognorm_ok is for pure rank "
            "tokenizers; decimals that are counts, no logarithms, are taken with counts=decimals_ok"
        )
    options = Options(
        obs=tuple(dict.fromkeys([*obs, *categories, *([group] if group else [])])),
        categories=tuple(categories),
        group=group,
        missing=missing,
        layer=layer,
        gene_column=gene_column,
        counts=counts,
        mod=mod,
        on_duplicate_cells=on_duplicate_cells,
        n_counts=n_counts,
        empty=empty,
        quality=quality or Quality(),
        max_dropped=genes.max_dropped,
        policy=genes.policy,
        species=genes.species,
        alias=read_alias(genes.alias) if genes.alias else {},
        duplicates=duplicates,
        keep_counts=keep_counts,
        side=None if side is None else side.to_options(),
        cells_per_part=cells_per_part,
        shuffle=shuffle,
        seed=seed,
        limit=limit,
    )
    job = Job(
        resolve_inputs(inputs),
        follow_link(output),
        tokenizer,
        options,
        block_size=block_size,
        on_error=on_error,
        overwrite=overwrite,
        share=None if share is None else Share.parse(share),
    )
    return execute(job, workers, executor)


def append(
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    workers: int | None = None,
    block_size: int = 1024,
    executor: Local | Dask | None = None,
    on_error: Literal["stop", "skip"] = "stop",
) -> TokenStore:
    """Add files to a store, with its tokenizer and options. Its parts do not change.

    New categories of an obs column get the codes after the old ones. The store is replaced at the end; its old parts
    are linked, not copied.

    Args:
        inputs: more files, as for :func:`prepare`.
        output: the store to add to.
        workers: as for :func:`prepare`, like all that follows.
        block_size: cells held at a time.
        executor: where parts run.
        on_error: what a bad file does.

    Returns:
        The larger store.

    Raises:
        FileNotFoundError: there is no such store, or no such input.
        ValueError: the store is shuffled over its whole corpus, an input is in it already, or as for :func:`prepare`.
    """
    output = follow_link(output)
    work = WorkDir(output)
    work.restore_output()
    store = TokenStore.open(output)
    options = _options(read_manifest(store.path), store.path)
    if options.shuffle:
        raise ValueError(f"{output} is shuffled over its whole corpus, nothing can be added: prepare all files again")
    found = resolve_inputs(inputs)
    tokenizer = from_dict(store.tokenizer)
    job = Job(found, output, tokenizer, options, block_size=block_size, on_error=on_error, after=store)
    names = {file["name"] for file in store.files}
    twice = next((entry["path"] for entry in found if entry["name"] in names), None)
    if twice is not None and not work.is_published(job.plan()):
        raise ValueError(f"{twice}: the store {output} has a file of this name already")
    larger = execute(job, workers, executor)
    assert larger is not None  # only a share makes no store
    return larger


def check_sample(
    inputs: str | Path | Sequence[str | Path], output: str | Path, tokenizer: Tokenizer, **options: Any
) -> Path:
    """Run all checks on the first 1,000 cells of each file, and write the report only.

    Args:
        inputs: as for :func:`prepare`, like all that follows.
        output: the store that would be made.
        tokenizer: the tokenizer.
        **options: keyword arguments of ``prepare``.

    Returns:
        The report, ``OUTPUT.dry_run.html``.

    Raises:
        FileNotFoundError, ValueError: as ``prepare`` does.
    """
    output = follow_link(output)
    report = output.with_name(f"{output.name}.dry_run.html")
    fixed = {"limit": SAMPLE_CELLS, "overwrite": False, "share": None}
    with tempfile.TemporaryDirectory() as folder:
        store = prepare(inputs, Path(folder) / output.name, tokenizer, **{**options, **fixed})
        assert store is not None
        with atomic_write(report) as part:
            shutil.copyfile(store.path / REPORT, part)
        log.info("This is what became of %d cells, the first %d of each file.", len(store), SAMPLE_CELLS)
    return report


def _options(manifest: Mapping[str, Any], folder: Path) -> Options:
    """The options that a store was made with.

    Raises:
        ValueError: its manifest does not say them.
    """
    try:
        return Options(**{**manifest["options"], "quality": Quality(**manifest["options"]["quality"])})
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / MANIFEST} does not say how the store was made ({error}): prepare it again"
        ) from None
