"""A user's table of regulators and targets, as known edges among genes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scfm.analysis.interactions.pair_table import read_frame
from scfm.inference.cell_input import CellInput

#: Names that the two columns may have.
REGULATORS, TARGETS = ("tf", "regulator", "source"), ("target", "gene")


@dataclass(frozen=True)
class KnownEdges:
    """Edges between tokens.

    Attributes:
        pairs: (E, 2) token ids, regulator and target, each pair once.
        n_given: edges of the table, repeats left out.
    """

    pairs: np.ndarray
    n_given: int

    def matrix(self, genes: np.ndarray) -> np.ndarray:
        """(G, G) bool: whether gene i of ``genes`` (token ids) is known to regulate gene j."""
        place = {int(gene): i for i, gene in enumerate(genes)}
        known = np.zeros((len(genes), len(genes)), dtype=bool)
        for source, target in self.pairs.tolist():
            if source in place and target in place and source != target:
                known[place[source], place[target]] = True
        return known


def read_edges(path: str | Path, given: CellInput) -> KnownEdges:
    """Read a table of edges and match its names to the vocabulary, by symbol or Ensembl id.

    Args:
        path: .csv, .tsv, .txt (tabs) or .parquet with the columns ``tf`` and ``target``.
        given: open cells; their tokenizer and species match the names.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it has no such columns, or no edge between genes of the vocabulary.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; analysis.reference is a table with the columns tf and target")
    frame = read_frame(path)
    named = {str(name).lower(): name for name in frame.columns}
    columns = [next((named[name] for name in names if name in named), None) for names in (REGULATORS, TARGETS)]
    if None in columns:
        raise ValueError(
            f"{path} has the columns {', '.join(map(str, frame.columns))}; a reference needs the columns tf (or "
            "regulator, source) and target"
        )
    edges = frame[columns].dropna().astype(str).drop_duplicates()
    names = sorted(set(edges.to_numpy().ravel()))
    tokens = given.tokenizer.harmonize(names, species=given.reading.species, alias=None).columns
    token = dict(zip(names, tokens.tolist(), strict=True))
    pairs = edges.apply(lambda column: column.map(token)).to_numpy(dtype=np.int64)
    pairs = np.unique(pairs[(pairs >= 0).all(axis=1)], axis=0)
    if not len(pairs):
        raise ValueError(
            f"no edge of {path} is between genes of the model's vocabulary; its first names are {', '.join(names[:3])}"
        )
    return KnownEdges(pairs, len(edges))


def choose_genes(detected: np.ndarray, known: KnownEdges | None, n_genes: int, min_cells: int) -> np.ndarray:
    """Token ids of the genes between which edges are sought, ascending.

    Genes of the reference come first, regulators before targets, and more detected genes before others.

    Args:
        detected: (V,) cells that have each gene among their tokens, 0 for what is no gene.
        known: the reference, where there is one.
        n_genes: how many are wanted.
        min_cells: genes of fewer cells are left out.

    Raises:
        ValueError: fewer than three genes are left.
    """
    able = np.flatnonzero(detected >= min_cells)
    if len(able) < 3:
        raise ValueError(
            f"{len(able)} genes are among the tokens of at least {min_cells} of the cells; a network needs 3: give "
            "more cells (analysis.max_cells=...) or lower analysis.min_cells"
        )
    if known is not None:
        inside = np.isin(known.pairs, able).all(axis=1)
        pairs = known.pairs[inside]
        share = _by_detection(np.unique(pairs[:, 0]), detected)[: max(n_genes // 3, 1)]
        targets = pairs[np.isin(pairs[:, 0], share), 1]
        order = [share, _by_detection(np.unique(targets), detected), _by_detection(able, detected)]
    else:
        order = [_by_detection(able, detected)]
    chosen = pd.unique(np.concatenate(order))[:n_genes]
    return np.sort(chosen)


def _by_detection(genes: np.ndarray, detected: np.ndarray) -> np.ndarray:
    return genes[np.argsort(-detected[genes], kind="stable")]
