"""Reading cells: any supported file as blocks of counts, a bounded number of cells at a time.

``open_cells(path)`` detects the format, the place of the counts and the names of the genes; ``.blocks()`` streams the
counts. The file is never held in memory as a whole and never written to.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NoReturn

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from scfm.cells.counts import Demand, describe, find_counts, first_bad
from scfm.cells.feature_types import gene_mask
from scfm.cells.fields import FieldReader, FieldRequest, open_field
from scfm.cells.formats.detect import open_source
from scfm.cells.formats.in_memory import InMemory
from scfm.cells.names import WINDOW, gene_names, repeated_cells, var_columns
from scfm.cells.source import Matrix, Source, did_you_mean

if TYPE_CHECKING:
    from anndata import AnnData

#: What h5py, zarr and anndata raise for damaged files.
DAMAGE = (OSError, EOFError, KeyError, IndexError, TypeError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class Block:
    """Some consecutive cells of a file.

    Attributes:
        counts: (B, G) as stored; int, or float with integer values unless ``counts="lognorm_ok"``.
        obs: B rows; the index holds the cells' names.
        start: row of the first cell in the file.
        whole: whether the file holds integers, so that all of these are.
    """

    counts: csr_matrix
    obs: pd.DataFrame
    start: int
    whole: bool = True

    @property
    def totals(self) -> np.ndarray:
        """(B,) float64, the counts of each cell."""
        return np.asarray(self.counts.sum(axis=1, dtype=np.float64)).ravel()

    @property
    def empty(self) -> np.ndarray:
        """(B,) bool, which cells have no counts at all."""
        return self.totals == 0


class CellFile:
    """An open file of cells; made by :func:`open_cells`, closed by ``with`` or :meth:`close`.

    Attributes:
        path: the file, or "the AnnData" where it is one in memory.
        n_cells: number of cells.
        genes: G names as the file has them, which may repeat.
        genes_from: where the names are: ``var.index`` or ``var['gene_id']``.
        obs_columns: names of the columns of obs.
        var_columns: names that ``gene_column`` can take.
        counts_from: where the counts are: ``layers['counts']``, ``raw.X``, ``X``.
        is_counts: False if the values are fractions that "decimals_ok" or "lognorm_ok" let pass.
    """

    def __init__(
        self,
        path: Path | str,
        source: Source,
        *,
        layer: str | None,
        gene_column: str | None,
        counts: Demand,
        mod: str,
        on_duplicate_cells: Literal["refuse", "number", "ignore"],
    ) -> None:
        self.path = path
        self._source = source
        self.n_cells = source.n_cells
        self.obs_columns = list(source.obs_columns)
        if not self.n_cells:
            raise ValueError("has no cells (0 rows in obs); leave it out of the input")
        chosen = find_counts(source, layer, counts)
        self.counts_from = chosen.place.label
        self.is_counts = chosen.kind == "counts"
        self._matrix: Matrix = chosen.matrix
        self._place = chosen.place
        self._fields: dict[FieldRequest, FieldReader] = {}
        var = chosen.place.var()
        if not len(var):
            raise ValueError(f"has no genes (0 rows in the var of its {self.counts_from})")
        names, self.genes_from = gene_names(var, gene_column)
        self.var_columns = var_columns(var)
        self._keep = gene_mask(var, mod)
        kept = names if self._keep is None else [names[i] for i in np.flatnonzero(self._keep)]
        self.genes = [sys.intern(name) for name in kept]  # open files share most names
        self._renamed = {} if on_duplicate_cells == "ignore" else repeated_cells(source)
        if self._renamed and on_duplicate_cells == "refuse":
            row, name = next(iter(self._renamed.items()))
            raise ValueError(
                f"has {len(self._renamed)} cells whose name occurs before, first {name.rsplit('-', 1)[0]!r} in row "
                f"{row}; names must be unique: run adata.obs_names_make_unique(), or let them be numbered "
                "(on_duplicate_cells=number)"
            )

    def blocks(
        self, start: int = 0, stop: int | None = None, size: int = 1024, columns: Sequence[str] | None = None
    ) -> Iterator[Block]:
        """Cells ``start`` to ``stop`` in blocks of ``size`` cells; the last may be smaller.

        Several iterators may run at the same time, each in one thread.

        Args:
            start: first row.
            stop: row after the last; None means to the end.
            size: cells of a block.
            columns: columns of obs that are wanted; None means all.

        Raises:
            ValueError: an unknown column, a value that is no count (naming cell and gene), or a damaged file.
        """
        stop = self.n_cells if stop is None else min(stop, self.n_cells)
        wanted = self.require_obs(self.obs_columns if columns is None else columns)
        low = start
        try:
            for block in self._blocks(start, stop, size, wanted):
                yield block
                low += len(block.obs)
        except ValueError as error:
            text = _first_line(error)
            raise ValueError(text if text.startswith(f"{self.path}: ") else f"{self.path}: {text}") from error
        except DAMAGE as error:
            raise ValueError(
                f"{self.path}: {self.counts_from} cannot be read after cell {low}: {_cause(error)}"
            ) from error

    def _blocks(self, start: int, stop: int, size: int, columns: list[str]) -> Iterator[Block]:
        width = max(1, WINDOW // size) * size
        first, window = start, self.obs_rows(start, min(stop, start + width), columns)
        low = start
        for counts in self._matrix.blocks(start, stop, size):
            if low >= first + width:
                first, window = low, self.obs_rows(low, min(stop, low + width), columns)
            obs = window.iloc[low - first : low - first + counts.shape[0]]
            kept = counts if self._keep is None else counts[:, self._keep]
            self._require_counts(kept, obs)
            yield Block(kept, obs, low, self.is_counts)
            low += counts.shape[0]

    def _require_counts(self, counts: csr_matrix, obs: pd.DataFrame) -> None:
        bad = first_bad(counts.data, whole=self.is_counts)
        if bad < 0:
            return
        cell = obs.index[int(np.searchsorted(counts.indptr, bad, side="right")) - 1]
        gene = self.genes[counts.indices[bad]]
        expected = "counts are non-negative integers" if self.is_counts else "values must be non-negative"
        raise ValueError(
            f"cell {cell!r} has {counts.data[bad]:.6g} ({describe(counts.data[bad])}) at gene {gene!r} in "
            f"{self.counts_from}; {expected}: fix the file, or name another layer (layer=...)"
        )

    def obs_rows(self, start: int, stop: int, columns: Sequence[str]) -> pd.DataFrame:
        """Rows ``start`` to ``stop`` of some columns of obs; the index holds the cells' names.

        Raises:
            ValueError: they are damaged, or hold text that is no UTF-8; names the file.
        """
        try:
            frame = self._source.obs(start, stop, list(columns))
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.path}: obs ({', '.join(columns) or 'names of cells'}) holds text that is no UTF-8 "
                f"({_first_line(error)}); write it again in UTF-8"
            ) from error
        except ValueError as error:
            raise ValueError(f"{self.path}: {_first_line(error)}") from error
        except DAMAGE as error:
            raise ValueError(f"{self.path}: obs cannot be read: {_cause(error)}") from error
        if self._renamed:
            frame.index = pd.Index(
                [self._renamed.get(start + i, name) for i, name in enumerate(frame.index)], dtype=object
            )
        return frame

    def first_names(self, n: int = 100) -> list[str]:
        """The names of the first cells, for messages."""
        return list(self._source.obs(0, min(n, self.n_cells), []).index)

    @cached_property
    def obs(self) -> pd.DataFrame:
        """The whole of obs."""
        return self.obs_rows(0, self.n_cells, self.obs_columns)

    def require_obs(self, columns: Sequence[str]) -> list[str]:
        """The columns, if obs has them all.

        Raises:
            ValueError: naming the file and a similar column.
        """
        for column in columns:
            if column not in self.obs_columns:
                raise ValueError(f"{self.path}: obs has no column {column!r}; {did_you_mean(column, self.obs_columns)}")
        return list(columns)

    def open_field(self, request: FieldRequest) -> FieldReader:
        """The second modality of these cells (proteins, peaks), opened once.

        Raises:
            MissingFieldError: the file has none of that name.
            ValueError: it cannot be used, see :func:`scfm.cells.fields.open_field`.
        """
        if request not in self._fields:
            try:
                self._fields[request] = open_field(self._source, self._place, request)
            except ValueError as error:
                raise type(error)(f"{self.path}: {_first_line(error)}") from error
            except DAMAGE as error:
                raise ValueError(f"{self.path}: {_cause(error)}") from error
        return self._fields[request]

    def close(self) -> None:
        """Close the file and remove temporary ones."""
        for reader in self._fields.values():
            reader.close()
        self._matrix.close()
        self._source.close()

    def __enter__(self) -> CellFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_cells(
    path: str | Path | AnnData,
    *,
    layer: str | None = None,
    gene_column: str | None = None,
    counts: Demand = "required",
    mod: str = "rna",
    on_duplicate_cells: Literal["refuse", "number", "ignore"] = "refuse",
) -> CellFile:
    """Open a file of cells and check what can be checked without reading the whole of it.

    Counts are searched in ``layers['counts']``, ``raw.X`` and ``X``, in this order, and the first place that holds
    non-negative integers, judged by values sampled over the whole matrix, is used (``counts_from`` says which), unless
    a later one has counts of more genes; a named ``layer`` is used or refused. Genes come from the table that belongs
    to the counts (``raw.var`` for ``raw.X``), see :func:`scfm.cells.names.gene_names`. Every block is checked again in
    full while it is read.

    Args:
        path: ``.h5ad``, ``.zarr``, ``.h5mu``, 10x ``.h5``, a folder with 10x ``matrix.mtx``, ``.loom`` or a TileDB-SOMA
            experiment; recognized by content. An AnnData in memory is read as its file would be.
        layer: the layer with the counts.
        gene_column: column of var with the genes' names, or "index".
        counts: "required" takes integers alone; "decimals_ok" also decimals that are counts (ambient-corrected, EM),
            but no logarithms; "lognorm_ok" any non-negative values where there are no counts, for tokenizers that only
            need the order of the genes.
        mod: modality of a MuData file, measurement of a SOMA experiment (there "rna" also means "RNA"); in a matrix
            with several feature types the one to take, where it has no known name for genes.
        on_duplicate_cells: names that occur twice are refused, numbered (``AAAC``, ``AAAC-1``) or ignored.

    Raises:
        FileNotFoundError, PermissionError: no such file, or no right to read it.
        ValueError: anything else that is wrong with it, in one sentence that names it.
    """
    named: Path | str = Path(path) if isinstance(path, (str, Path)) else "the AnnData"
    source: Source | None = None
    try:
        source = open_source(named, mod) if isinstance(named, Path) else InMemory(path)
        return CellFile(
            named,
            source,
            layer=layer,
            gene_column=gene_column,
            counts=counts,
            mod=mod,
            on_duplicate_cells=on_duplicate_cells,
        )
    except (FileNotFoundError, PermissionError):
        raise
    except (ValueError, *DAMAGE) as error:
        _refuse(named, source, error)


def _refuse(path: Path | str, source: Source | None, error: Exception) -> NoReturn:
    if source is not None:
        source.close()
    if isinstance(error, ValueError):
        raise ValueError(f"{path}: {_first_line(error)}") from error
    raise ValueError(f"{path}: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """Say what is wrong with a file, from the error of a library, and what to do."""
    if isinstance(error, KeyError):
        return (
            f"a part of it is missing ({_first_line(error)}); it was written by another program or cut, write it again"
        )
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return "it is one of too many open files; allow more of them (ulimit -n 4096), or take fewer workers"
    return f"it is damaged or was truncated; copy or download it again ({_first_line(error)})"


def _first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]
