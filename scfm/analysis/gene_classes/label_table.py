"""Which gene is of which class, from a user's file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scfm.cells.source import did_you_mean

#: Genes that a class must have among those that the cells show.
FEWEST = 5


@dataclass(frozen=True)
class GeneLabels:
    """Genes of a file, each of one class.

    Attributes:
        genes: names as the file has them.
        classes: (n,) names of their classes.
        families: (n,) names of gene families that are kept whole in folds, each gene its own where none is given.
    """

    genes: list[str]
    classes: np.ndarray
    families: np.ndarray


def read_labels(path: str | Path, *, column: str, cut: float | None, family: str | None) -> GeneLabels:
    """Read a TSV or CSV with a header (first column: genes), or a JSON ``{class: [gene, ...]}``.

    Args:
        path: the file.
        column: of the classes, or of numbers with a cut.
        cut: numbers of at least this are ``high``, others ``low``; empty ones are left out.
        family: column of gene families.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, lacks a column, or gives one gene two classes.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"analysis.labels={path} does not exist; expected a table of genes and classes")
    frame = _read(path, column)
    for name in (column, family):
        if name is not None and name not in frame:
            raise ValueError(f"{path} has no column {name!r}; {did_you_mean(name, list(map(str, frame.columns)))}")
    frame = frame.dropna(subset=[column])
    genes, classes = frame.iloc[:, 0].astype(str), frame[column].astype(str)
    if cut is not None:
        numbers = pd.to_numeric(frame[column], errors="coerce")
        if numbers.isna().any():
            raise ValueError(
                f"{path}: column {column!r} has {frame[column][numbers.isna()].iloc[0]!r}; a cut needs numbers"
            )
        classes = pd.Series(np.where(numbers >= cut, "high", "low"), index=frame.index)
    both = classes.groupby(genes).nunique()
    if (both > 1).any():
        raise ValueError(f"{path} gives {both.idxmax()} more than one class; keep one of the lines")
    own = genes if family is None else frame[family].astype(str)
    first = ~genes.duplicated()
    return GeneLabels(genes[first].tolist(), classes[first].to_numpy(), own[first].to_numpy())


def _read(path: Path, column: str) -> pd.DataFrame:
    try:
        if path.suffix == ".json":
            lists = json.loads(path.read_text())
            if not isinstance(lists, Mapping) or not all(isinstance(genes, list) for genes in lists.values()):
                raise ValueError("expected {class: [gene, ...]}")
            pairs = [(str(gene), name) for name, genes in lists.items() for gene in genes]
            return pd.DataFrame(pairs, columns=["gene", column])
        names = path.suffixes
        return pd.read_csv(path, sep="," if ".csv" in names else "\t", comment="#")
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); expected TSV, CSV or JSON with genes and classes"
        ) from error


def choose_positive(classes: np.ndarray, positive: str | None, path: str) -> str:
    """The class that is scored against the others: the one named, or the smaller of two.

    Raises:
        ValueError: no such class, one of too few genes, or more than two without a name.
    """
    names, counts = np.unique(classes, return_counts=True)
    few = [f"{name} ({count})" for name, count in zip(names, counts, strict=True) if count < FEWEST]
    if len(names) < 2 or few:
        have = ", ".join(f"{name} ({count})" for name, count in zip(names, counts, strict=True)) or "none"
        raise ValueError(
            f"{path}: two classes of {FEWEST} genes or more must be among the genes of the cells; have {have}"
        )
    if positive is None:
        if len(names) > 2:
            raise ValueError(
                f"{path} has the classes {', '.join(names)}; name the one to score with analysis.positive=..."
            )
        return str(names[np.argmin(counts)])
    if positive not in names:
        raise ValueError(f"{path} has no class {positive!r}; {did_you_mean(positive, list(map(str, names)))}")
    return positive
