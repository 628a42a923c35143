"""The user's table of ligand-receptor pairs, matched to the genes of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scfm.analysis.interactions.gene_values import gene_columns
from scfm.inference.cell_input import CellInput
from scfm.metrics.communication.interactions import Subunits

COLUMNS = ("ligand", "receptor")


@dataclass(frozen=True)
class Pairs:
    """Pairs whose genes are all in the file.

    Attributes:
        table: ``ligand`` and ``receptor`` as the user spells them.
        subunits: their genes, as columns of ``genes``.
        genes: columns of the file of each gene.
        names: of the genes.
        n_given: pairs of the user's table, repeats left out.
    """

    table: pd.DataFrame
    subunits: Subunits
    genes: Sequence[Sequence[int]]
    names: tuple[str, ...]
    n_given: int


def read_pairs(path: str | Path, resource: str | None = None) -> pd.DataFrame:
    """Read the columns ``ligand`` and ``receptor`` of a table; subunits of a complex are joined by ``_``.

    Args:
        path: .csv, .tsv, .txt (tabs) or .parquet; text may be compressed.
        resource: only rows whose column ``resource`` has this name.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it has no such columns, no such resource, or no pair.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; analysis.pairs is a table with the columns ligand and receptor")
    frame = read_frame(path)
    missing = [name for name in COLUMNS if name not in frame]
    if missing:
        raise ValueError(
            f"{path} has the columns {', '.join(map(str, frame.columns))}; a table of pairs needs ligand and receptor"
        )
    if resource is not None:
        have = sorted(frame["resource"].astype(str).unique()) if "resource" in frame else []
        if resource not in have:
            raise ValueError(f"{path} has no resource {resource!r}; it has {', '.join(have) or 'no column resource'}")
        frame = frame[frame["resource"].astype(str) == resource]
    elif "resource" in frame and frame["resource"].nunique() > 1:
        names = ", ".join(sorted(frame["resource"].astype(str).unique()))
        raise ValueError(f"{path} holds several resources ({names}); choose one by analysis.resource=NAME")
    pairs = frame[list(COLUMNS)].dropna().astype(str).drop_duplicates().reset_index(drop=True)
    if pairs.empty:
        raise ValueError(f"{path} holds no pair; a table of pairs needs rows with a ligand and a receptor")
    return pairs


def match_pairs(given: CellInput, pairs: pd.DataFrame, where: str) -> Pairs:
    """The pairs whose genes the file has.

    Raises:
        ValueError: none.
    """
    parts = {name: [value.split("_") for value in pairs[name]] for name in COLUMNS}
    names = sorted({gene for column in parts.values() for part in column for gene in part})
    columns = dict(zip(names, gene_columns(given, names), strict=True))
    known = [name for name in names if columns[name]]
    place = {name: i for i, name in enumerate(known)}
    whole = [
        all(gene in place for gene in (*ligand, *receptor))
        for ligand, receptor in zip(parts["ligand"], parts["receptor"], strict=True)
    ]
    kept = np.flatnonzero(whole)
    if not len(kept):
        raise ValueError(
            f"no pair of {where} has all its genes in {given.cells.path}: it asks for {', '.join(names[:3])}, the "
            f"file has {', '.join(given.cells.genes[:3])}; name the column with symbols or Ensembl ids "
            "(gene_column=...) or the species (species=mouse)"
        )
    subunits = Subunits.from_parts(*([[place[gene] for gene in parts[name][row]] for row in kept] for name in COLUMNS))
    genes = [columns[name] for name in known]
    return Pairs(pairs.iloc[kept].reset_index(drop=True), subunits, genes, tuple(known), len(pairs))


def read_frame(path: Path) -> pd.DataFrame:
    """A table by its ending: .parquet, .csv, or text with tabs."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        return pd.read_parquet(path)
    return pd.read_csv(path, sep="," if ".csv" in name else "\t")
