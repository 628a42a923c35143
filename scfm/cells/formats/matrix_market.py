"""Folders with ``matrix.mtx``, ``barcodes.tsv`` and ``features.tsv`` or ``genes.tsv``, each gzipped or not.

Names may have a prefix, as in GEO (``GSM123_matrix.mtx.gz``); where a folder has several matrices, or one of another
name (``UniqueAndMult-EM.mtx``, ``cells_x_genes.mtx``), the file itself is given. The text is read once, when it is
opened, and sorted into rows out of core, see :mod:`scfm.cells.formats.row_sorter`.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from scfm.cells.formats.folder_limits import UnpackedSizeError, open_text, require_own_file
from scfm.cells.formats.hdf5_limits import require_size
from scfm.cells.formats.names_only import NamesOnly
from scfm.cells.formats.row_sorter import Entries, RowRanges

#: Lines of text read at once, and bytes of a line of the header.
PIECE, LINE = 2_000_000, 1 << 16
#: Kinds of features of one file, at most.
MOST_KINDS = 20
#: How a header calls whole numbers; scipy writes the second for unsigned ones.
_INTEGERS = ("integer", "unsigned-integer")
_DAMAGE = (EOFError, OSError, zlib.error)


class Header(NamedTuple):
    """The header of a Matrix Market file."""

    shape: tuple[int, int]
    n_entries: int
    dtype: np.dtype


#: The files beside a matrix, after their prefix.
_BARCODES = re.compile(r"(.*?)barcodes\.(?:tsv|txt)(?:\.gz)?")
_FEATURES = re.compile(r"(.*?)(?:features|genes)\.(?:tsv|txt)(?:\.gz)?")


def open_market(path: Path) -> NamesOnly:
    """The cells of a folder, or of one matrix file with the barcodes and features beside it.

    Args:
        path: a folder with one ``matrix.mtx``, or a ``.mtx`` file, where a folder has several.

    Raises:
        ValueError: a file is missing, damaged, or contradicts another; several matrices in a folder.
    """
    matrix = path if path.is_file() else require_own_file(_only_matrix(path), path)
    header = _header(matrix)
    barcodes, features = (
        _table(_find_sibling(matrix, _BARCODES, "barcodes.tsv"), max(header.shape)),
        _table(_find_sibling(matrix, _FEATURES, "features.tsv or genes.tsv"), max(header.shape)),
    )
    names = barcodes[0].to_numpy(dtype=object)
    var = _gene_table(features)
    if header.shape == (len(var), len(names)):
        transposed = True
    elif header.shape == (len(names), len(var)):
        transposed = False
    else:
        raise ValueError(
            f"its {matrix.name} is {header.shape[0]} x {header.shape[1]} but there are {len(var)} features and "
            f"{len(names)} barcodes{_titles(header.shape, list(var['gene_ids']), list(names))}"
        )

    def open_matrix() -> RowRanges:
        """Read the text and sort it into rows."""
        entries = _entries(matrix, header, transposed)
        return RowRanges((len(names), len(var)), header.n_entries, entries, header.dtype)

    return NamesOnly(names, var, matrix.name, open_matrix)


def _gene_table(features: pd.DataFrame) -> pd.DataFrame:
    """The genes' table of a features file: ids, symbols as the index, and the kinds of features where it has them.

    Row numbers before them, as R writes them, are left out. A third column of many values holds no kinds of features
    but chromosomes or the like.
    """
    columns = [features[name].to_numpy() for name in features.columns]
    if len(columns) > 1 and columns[0].tolist() == [str(i + 1) for i in range(len(features))]:
        columns = columns[1:]
    var = pd.DataFrame({"gene_ids": columns[0]}, index=pd.Index(columns[min(1, len(columns) - 1)], name="gene_names"))
    if len(columns) > 2 and len(set(columns[2])) <= MOST_KINDS:
        var["feature_types"] = columns[2]
    return var


def _titles(shape: tuple[int, int], features: list[str], barcodes: list[str]) -> str:
    """Half a sentence where there is one line more than the matrix has: the titles of the columns."""
    for size, more in itertools.product((shape, shape[::-1]), ((1, 1), (1, 0), (0, 1))):
        if size == (len(features) - more[0], len(barcodes) - more[1]):
            firsts = [lines[0] for lines, n in zip((features, barcodes), more, strict=True) if n]
            look = "look like titles of their columns: remove these first lines"
            one = "looks like the title of its column: remove this first line"
            return f"; {' and '.join(map(repr, firsts))} {look if len(firsts) > 1 else one}"
    return ""


def is_market_file(path: Path) -> bool:
    """Whether this is a Matrix Market file by its name."""
    return path.name.removesuffix(".gz").endswith(".mtx")


def find_market(folder: Path) -> list[Path]:
    """The Matrix Market files of a folder."""
    return sorted(path for path in folder.iterdir() if is_market_file(path))


def _only_matrix(folder: Path) -> Path:
    """The one matrix of a folder, by the name that 10x gives it.

    Raises:
        ValueError: several samples, or no matrix of this name; lists the files and says what to give.
    """
    files = find_market(folder)
    matrices = [path for path in files if path.name.removesuffix(".gz").endswith("matrix.mtx")]
    if len(matrices) == 1:
        return matrices[0]
    listed = ", ".join(repr(path.name) for path in (matrices or files)[:12])
    if matrices:
        raise ValueError(
            f"needs one matrix.mtx (.gz or not), found {listed}; several samples in one folder are several inputs: "
            f"give each of these files as one (input={matrices[0]}), its barcodes and features are found beside it"
        )
    raise ValueError(
        f"has no matrix.mtx, but {listed}; give the file that has the counts as the input (input={files[0]}), its "
        "barcodes and features are found beside it"
    )


def _find_sibling(matrix: Path, pattern: re.Pattern[str], usual: str) -> Path:
    """The barcodes or features that go with a matrix: those that share the longest prefix with its name.

    Raises:
        ValueError: there is none, or several.
    """
    siblings = [(path, pattern.fullmatch(path.name)) for path in sorted(matrix.parent.iterdir())]
    prefixes = {path: match[1] for path, match in siblings if match}
    fitting = {path: prefix for path, prefix in prefixes.items() if _has_prefix(matrix.name, prefix)}
    if not fitting and len(find_market(matrix.parent)) == 1:
        fitting = prefixes
    longest = max(map(len, fitting.values()), default=0)
    chosen = [path for path, prefix in fitting.items() if len(prefix) == longest]
    if len(chosen) != 1:
        have = ", ".join(repr(path.name) for path in chosen or prefixes) or "none"
        raise ValueError(
            f"needs one {usual} (.gz or not) for its {matrix.name}, found {have}; give the folder that has matrix, "
            "barcodes and features, each once"
        )
    return require_own_file(chosen[0], matrix.parent)


def _has_prefix(name: str, prefix: str) -> bool:
    """Whether a name begins with this prefix, whatever sign it ends with: ``S1_`` is none of ``S10_matrix.mtx``."""
    bare = prefix.rstrip("._-")
    return name.startswith(bare) and (bare == "" or not name[len(bare)].isalnum())


def _table(path: Path, most: int) -> pd.DataFrame:
    """Names, and what stands beside them; one line more than ``most`` at most."""
    try:
        with open_text(path) as file:
            options = {"sep": "\t", "header": None, "dtype": str, "keep_default_na": False, "quoting": 3}
            return pd.read_csv(file, nrows=most + 1, **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, *_DAMAGE) as error:
        raise ValueError(f"its {path.name} is empty or damaged: {_last_line(error)}") from error


def _header(path: Path) -> Header:
    try:
        with open_text(path) as file:
            first = file.readline(LINE).decode(errors="replace").lower().split()
            line = file.readline(LINE)
            while line.startswith(b"%"):
                line = file.readline(LINE)
    except _DAMAGE as error:
        raise ValueError(f"its {path.name} is damaged or truncated: {error}") from error
    if len(first) < 5 or first[:3] != ["%%matrixmarket", "matrix", "coordinate"] or first[4] != "general":
        raise ValueError(
            f"its {path.name} starts with {' '.join(first)[:60]!r}, expected "
            "'%%MatrixMarket matrix coordinate integer general'"
        )
    if first[3] not in (*_INTEGERS, "real"):
        raise ValueError(f"its {path.name} holds {first[3]!r} values, expected integer or real")
    try:
        rows, columns, entries = (int(word) for word in line.split())
    except ValueError as error:
        raise ValueError(f"its {path.name} has the size line {line[:60]!r}, expected three numbers") from error
    require_size(max(rows, columns), min(rows, columns), path.name)
    if entries < 0:
        raise ValueError(f"its {path.name} has the size line {line[:60]!r}, expected a number of values")
    return Header((rows, columns), entries, np.dtype(np.int32 if first[3] in _INTEGERS else np.float64))


def _entries(path: Path, header: Header, transposed: bool) -> Iterator[Entries]:
    """Pieces of (cells, genes, values); refuses a file that ends early."""
    n_read = 0
    for piece in _pieces(path, header) if header.n_entries else ():
        _require_three(path, piece)
        rows, columns = piece[0].to_numpy() - 1, piece[1].to_numpy() - 1
        _require_inside(path, rows, columns, header.shape)
        n_read += len(piece)
        if n_read > header.n_entries:
            break
        cells, genes = (columns, rows) if transposed else (rows, columns)
        yield cells, genes, _values(path, piece[2].to_numpy(), header.dtype)
    if n_read != header.n_entries:
        at_least = "at least " if n_read > header.n_entries else ""
        raise ValueError(
            f"its {path.name} has {at_least}{n_read} entries, its header promises {header.n_entries}: it is damaged or "
            "truncated"
        )


def _pieces(path: Path, header: Header) -> Iterator[pd.DataFrame]:
    """The lines after the size line, some at a time."""
    kinds = {0: np.int64, 1: np.int64, 2: np.int64 if header.dtype.kind == "i" else np.float64}
    try:
        with open_text(path) as file:
            line = file.readline(LINE)
            while line.startswith(b"%"):
                line = file.readline(LINE)
            yield from pd.read_csv(file, sep=r"\s+", header=None, comment="%", dtype=kinds, chunksize=PIECE)
    except pd.errors.EmptyDataError:
        return
    except _DAMAGE as error:
        raise ValueError(f"its {path.name} is damaged or truncated: {error}") from error
    except pd.errors.ParserError as error:
        raise ValueError(f"its {path.name} has a line of more numbers than the first: {_last_line(error)}") from error
    except UnpackedSizeError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"its {path.name} has a line that is not of three numbers (row, column, "
            f"{'integer' if header.dtype.kind == 'i' else 'value'}): {_last_line(error)}"
        ) from error


def _values(path: Path, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "i" and len(values) and max(-int(values.min()), int(values.max())) > np.iinfo(dtype).max:
        raise ValueError(
            f"its {path.name} has the value {values[np.abs(values).argmax()]}, which is no count of a gene"
        )
    return values.astype(dtype, copy=False)


def _require_three(path: Path, piece: pd.DataFrame) -> None:
    """Refuse lines of more numbers than row, column and value: nothing says which one is the count."""
    width = piece.shape[1]
    if width != 3:
        raise ValueError(
            f"its {path.name} has lines of {width} numbers, expected 3 (row, column, value); a file of spliced, "
            "unspliced and ambiguous counts in one must be split into a matrix for each"
        )
    if piece.isna().to_numpy().any():
        raise ValueError(f"its {path.name} has a line of fewer than 3 numbers: it is damaged or truncated")


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _require_inside(path: Path, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> None:
    if rows.min() < 0 or columns.min() < 0 or rows.max() >= shape[0] or columns.max() >= shape[1]:
        raise ValueError(f"its {path.name} has an entry outside its {shape[0]} x {shape[1]} places")
