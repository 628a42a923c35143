"""A TileDB-SOMA experiment, as CELLxGENE Census is one (extra ``soma``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix, csr_matrix

from scfm.cells.source import Matrix, Place, Source, did_you_mean, missing_package

#: Bytes of each of TileDB's read buffers; its own default is 1 GiB.
BUFFER = 1 << 26

#: Columns that name cells and genes, by preference; the index that AnnData had is ``obs_id`` and ``var_id``.
CELL_NAMES = ("obs_id", "observation_joinid", "cell_id", "barcode")
GENE_NAMES = ("var_id", "feature_id", "gene_id")

#: X layers that may hold counts, most likely first.
COUNTS = ("counts", "raw", "data")

#: Stretches of consecutive cells that a sample is drawn from.
STRETCHES = 16


class Soma:
    """A :class:`~scfm.cells.source.Source` over one measurement of an experiment.

    Args:
        path: the experiment's folder.
        mod: the measurement, in any case.

    Raises:
        ImportError: tiledbsoma is not installed.
        ValueError: not an experiment, or no such measurement.
    """

    def __init__(self, path: Path, mod: str) -> None:
        try:
            import tiledbsoma
        except ImportError as error:
            raise missing_package("soma", "tiledbsoma", path) from error
        context = tiledbsoma.SOMATileDBContext(tiledb_config={"soma.init_buffer_bytes": BUFFER})
        try:
            self.experiment = tiledbsoma.Experiment.open(str(path), context=context)
        except (tiledbsoma.SOMAError, TypeError) as error:
            raise ValueError(f"is a TileDB folder but not a SOMA experiment: {error}") from error
        self._require_own(path, self.experiment)
        self.ids = self._read(self.experiment.obs, ["soma_joinid"])["soma_joinid"].to_numpy()
        self.n_cells = len(self.ids)
        names = [field.name for field in self.experiment.obs.schema]
        self._names = next((name for name in CELL_NAMES if name in names), "soma_joinid")
        self.obs_columns = [name for name in names if name not in ("soma_joinid", self._names)]
        self.measurement = self._measurement(mod)
        self.layers: Mapping[str, Place] = {name: self._place(name) for name in self.measurement.X}
        known = [name for name in COUNTS if name in self.layers]
        others = [name for name in self.layers if name not in known]
        self.default: Sequence[Place] = [self.layers[name] for name in (*known, *others)]
        self.arrays: Mapping[str, Place] = {}
        self.modalities: Mapping[str, Callable[[], Source]] = {}

    def _require_own(self, path: Path, collection: Any) -> None:
        """Refuse members that the experiment names and that lie elsewhere, on the network too."""
        root = path.resolve()
        for name, member in collection.items():
            place = Path(unquote(str(member.uri).removeprefix("file://"))).resolve()
            if root not in place.parents:
                raise ValueError(f"is not safe: its {name} lies elsewhere ({member.uri}); copy that into the folder")
            if hasattr(member, "items"):
                self._require_own(path, member)

    def _measurement(self, mod: str) -> Any:
        names = list(self.experiment.ms)
        same = [name for name in names if name.lower() == mod.lower()]
        if not same:
            raise ValueError(f"has no measurement {mod!r}; {did_you_mean(mod, names)}")
        return self.experiment.ms[same[0]]

    @staticmethod
    def _read(frame: Any, columns: Sequence[str], ids: np.ndarray | None = None) -> pd.DataFrame:
        coordinates = () if ids is None else (ids,)
        read = frame.read(coords=coordinates, column_names=list(columns)).concat().to_pandas()
        return read.sort_values("soma_joinid", ignore_index=True)

    def _place(self, name: str) -> Place:
        return Place(f"X[{name!r}]", partial(self._matrix, name), self._var)

    def _matrix(self, name: str) -> Matrix:
        genes = self._read(self.measurement.var, ["soma_joinid"])["soma_joinid"].to_numpy()
        return SomaMatrix(self.measurement.X[name], self.ids, genes)

    def _var(self) -> pd.DataFrame:
        frame = self._read(self.measurement.var, [field.name for field in self.measurement.var.schema])
        index = next((name for name in GENE_NAMES if name in frame.columns), "soma_joinid")
        return frame.set_index(frame[index].astype(str)).drop(columns="soma_joinid")

    def obs(self, start: int, stop: int, columns: Sequence[str]) -> pd.DataFrame:
        """Rows of ``obs``, see :class:`~scfm.cells.source.Source`."""
        wanted = list(dict.fromkeys(["soma_joinid", self._names, *columns]))
        frame = self._read(self.experiment.obs, wanted, self.ids[start:stop])
        return frame[list(columns)].set_axis(pd.Index(frame[self._names].astype(str), dtype=object, name=None), axis=0)

    def close(self) -> None:
        """Close the experiment."""
        self.experiment.close()


class SomaMatrix:
    """A sparse array of an experiment. A :class:`~scfm.cells.source.Matrix`.

    Args:
        array: of tiledbsoma.
        cells: (n_cells,) ascending, the coordinate of each row.
        genes: (G,) ascending, the coordinate of each column.
    """

    def __init__(self, array: Any, cells: np.ndarray, genes: np.ndarray) -> None:
        self.array = array
        self.cells = cells
        self.genes = genes
        self.shape = (len(cells), len(genes))

    def _rows(self, low: int, high: int) -> csr_matrix:
        cells = self.cells[low:high]
        tables = self.array.read(coords=(cells, slice(None))).tables()
        pieces = [table for table in tables if table.num_rows]
        columns = [
            np.concatenate([piece[name].to_numpy() for piece in pieces]) if pieces else np.empty(0, dtype=np.int64)
            for name in ("soma_data", "soma_dim_0", "soma_dim_1")
        ]
        rows, genes = np.searchsorted(cells, columns[1]), np.searchsorted(self.genes, columns[2])
        block = coo_matrix((columns[0], (rows, genes)), shape=(high - low, len(self.genes))).tocsr()
        block.sort_indices()
        return block

    def blocks(self, start: int, stop: int, size: int) -> Iterator[csr_matrix]:
        """Blocks of rows, see :class:`~scfm.cells.source.Matrix`."""
        for low in range(start, stop, size):
            yield self._rows(low, min(stop, low + size))

    def sample(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Values of evenly spread stretches, see :class:`~scfm.cells.source.Matrix`."""
        width = max(1, n // STRETCHES // max(1, self.shape[1]))
        starts = np.unique(np.linspace(0, max(0, self.shape[0] - width), STRETCHES).astype(np.int64))
        blocks = [self._rows(start, min(start + width, self.shape[0])) for start in starts.tolist()]
        rows = [
            start + np.repeat(np.arange(b.shape[0]), np.diff(b.indptr)) for start, b in zip(starts, blocks, strict=True)
        ]
        return np.concatenate([block.data for block in blocks]), np.concatenate(rows)

    def close(self) -> None:
        """Nothing to remove."""
