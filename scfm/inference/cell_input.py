"""Cells as a checkpoint reads them: opened, their genes matched, ready to be asked for batches."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scfm import __version__
from scfm.cells.counts import Demand
from scfm.cells.fields import FieldRequest, MissingFieldError
from scfm.cells.file import CellFile, open_cells
from scfm.checkpoint import Checkpoint
from scfm.genes import GeneMap, GeneReport, read_alias
from scfm.genes.resolve import Species
from scfm.inference.batches import CellBatches, report_genes, trained_tokenizer
from scfm.inference.load import checkpoint_vocab
from scfm.store.file_field import FileField
from scfm.tokenizer import Tokenizer
from scfm.types import Backbone

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """How the genes and counts of a file are found.

    Attributes:
        layer: where the counts are; None: ``layers["counts"]``, ``raw.X``, ``X``.
        gene_column: column of var with the gene names; None: found.
        counts: "decimals_ok" also takes decimals that are counts; a tokenizer that only ranks takes any values.
        mod: modality of a file with several, or feature type of a matrix with several.
        species: what the gene names are of: human, mouse (onto human orthologs), other (names as they are).
        alias: TSV of the user's own gene names.
        max_dropped: refuse when more than this share of the counts is of unknown genes.
    """

    layer: str | None = None
    gene_column: str | None = None
    counts: Literal["required", "decimals_ok"] = "required"
    mod: str = "rna"
    species: Species = "human"
    alias: str | None = None
    max_dropped: float = 0.5

    def __post_init__(self) -> None:
        if self.counts not in ("required", "decimals_ok"):
            raise ValueError(
                f"counts={self.counts!r}; expected required or decimals_ok (logarithms are taken wherever the "
                "tokenizer of the checkpoint only ranks genes)"
            )


@dataclass(frozen=True)
class CellInput:
    """Open cells with their genes as columns of a checkpoint's vocabulary.

    Attributes:
        cells: the open file.
        genes: its columns as columns of the vocabulary.
        tokenizer: of the checkpoint, cutting cells as its training did.
        keep_counts: whether the head reads the counts behind the tokens.
        report: what became of the genes.
        reading: how they were found.
        fields: second modalities that the head reads, by kind; a file may lack them.
    """

    cells: CellFile
    genes: GeneMap
    tokenizer: Tokenizer
    keep_counts: bool
    report: GeneReport
    reading: Reading
    fields: Mapping[str, FileField] = field(default_factory=dict)

    def batches(
        self,
        *,
        tokens: int,
        block_size: int,
        part_size: int,
        done: Collection[int] = (),
        rank: int = 0,
        world: int = 1,
    ) -> CellBatches:
        """See :class:`~scfm.inference.batches.CellBatches`."""
        return CellBatches(
            self.cells, self.genes, self.tokenizer, tokens=tokens, block_size=block_size, part_size=part_size,
            keep_counts=self.keep_counts, fields=self.fields, done=done, rank=rank, world=world,
        )  # fmt: skip

    def provenance(self, checkpoint: Checkpoint, backbone: Backbone) -> dict[str, Any]:
        """Plain values on where an embedding of these cells by this backbone of the checkpoint comes from."""
        alias = self.reading.alias
        return {
            "version": __version__,
            "checkpoint": str(checkpoint.path.resolve()),
            "vocab_hash": checkpoint_vocab(checkpoint).hash,
            "tokenizer": self.tokenizer.name,
            "embedding_layer": backbone.embedding_layer,
            "embedding_pool": backbone.embedding_pool,
            "counts_from": self.cells.counts_from,
            "gene_column": self.reading.gene_column or "",
            "mod": self.reading.mod,
            "species": self.reading.species,
            "alias": str(Path(alias).resolve()) if alias else "",
            "share_of_counts_dropped": float(self.report.share_dropped),
        }


@contextmanager
def open_input(
    cells: str | Path | AnnData,
    checkpoint: Checkpoint,
    reading: Reading,
    *,
    keep_counts: bool,
    fields: Sequence[str] = (),
) -> Iterator[CellInput]:
    """Open cells for a checkpoint.

    Args:
        cells: a file of any supported kind, or an AnnData in memory, which is only read.
        checkpoint: brings the tokenizer.
        reading: how genes and counts are found.
        keep_counts: whether the head reads the counts behind the tokens.
        fields: second modalities that the head reads where the cells have them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, has no counts where these are needed, or too few genes that the model knows.
    """
    tokenizer = trained_tokenizer(checkpoint)
    demand: Demand = reading.counts if tokenizer.needs_counts or keep_counts else "lognorm_ok"
    with open_cells(
        cells,
        layer=reading.layer,
        gene_column=reading.gene_column,
        counts=demand,
        mod=reading.mod,
        on_duplicate_cells="ignore",  # results go back by row, whatever the cells are called
    ) as opened:
        alias = read_alias(reading.alias) if reading.alias else None
        genes = tokenizer.harmonize(opened.genes, species=reading.species, alias=alias)
        report = report_genes(opened, genes, reading.max_dropped)
        log.info("%s", report)
        found = {kind: _open_field(opened, kind, checkpoint) for kind in fields}
        yield CellInput(opened, genes, tokenizer, keep_counts, report, reading, found)


def _open_field(cells: CellFile, kind: str, checkpoint: Checkpoint) -> FileField:
    """The second modality of a file by the names that the checkpoint knows; empty where the file lacks it.

    Raises:
        ValueError: the file has it, and shares no feature with the checkpoint.
    """
    names = checkpoint.fields.get(kind, ())
    try:
        reader = cells.open_field(FieldRequest(kind, raw=False))  # type: ignore[arg-type]
    except MissingFieldError:
        return FileField(None, kind, names)
    found = FileField(reader, kind, names)
    if not found.n_known:
        raise ValueError(
            f"{cells.path}: none of the {len(reader.names):,} {kind} of its {reader.label} ({reader.names[0]}, ...) is "
            f"among the {len(names):,} of the checkpoint ({', '.join(names[:1])}, ...)"
        )
    log.info("%d of %d %s of %s are known to the model.", found.n_known, len(reader.names), kind, reader.label)
    return found
