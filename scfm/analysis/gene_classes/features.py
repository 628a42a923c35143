"""What is known of a gene: its states in the model, its input embedding, and what expression alone says."""

from __future__ import annotations

from functools import partial

import numpy as np
from sklearn.decomposition import TruncatedSVD

from scfm.analysis.base import Work
from scfm.analysis.cells import Cells
from scfm.analysis.perturbation.reader import Reader

#: Cells of a part, components of the loadings.
PART, COMPONENTS = 64, 50


def draw_occurrences(cells: Cells, tokens: np.ndarray, most: int, seed: int) -> list[np.ndarray]:
    """For each gene at most ``most`` of the cells that it is a token of, ascending."""
    rng = np.random.default_rng(seed)
    place = {int(token): i for i, token in enumerate(tokens)}
    inside: list[list[int]] = [[] for _ in tokens]
    for cell in range(len(cells)):
        for gene in cells.read_genes(cell):
            if int(gene) in place:
                inside[place[int(gene)]].append(cell)
    return [np.sort(rng.permutation(np.array(found, dtype=np.int64))[:most]) for found in inside]


def contextual_states(
    cells: Cells, tokens: np.ndarray, occurrences: list[np.ndarray], reader: Reader, work: Work, name: str
) -> np.ndarray:
    """(occurrences, D) float32 states of the genes, gene after gene, in the layer that cell embeddings are read from.

    Args:
        cells: in memory.
        tokens: (genes,) ids.
        occurrences: the cells of each gene.
        reader: the model.
        work: keeps parts.
        name: of the parts.
    """
    gene = np.repeat(np.arange(len(tokens)), [len(found) for found in occurrences])
    cell = np.concatenate(occurrences)
    out = np.zeros((len(gene), reader.backbone.width), dtype=np.float32)
    wanted = np.unique(cell)
    chunks = [wanted[low : low + PART] for low in range(0, len(wanted), PART)]
    with work.bar("Reading genes" if name == "own" else "Random weights", len(wanted)) as advance:
        for number, chunk in enumerate(chunks):
            rows = np.flatnonzero((cell >= chunk[0]) & (cell <= chunk[-1]))
            make = partial(_states, cells, tokens[gene[rows]], cell[rows], reader)
            out[rows] = work.part(f"{name}-states-{number:06d}", make)["states"]
            advance(len(chunk))
    return out


def _states(cells: Cells, token: np.ndarray, cell: np.ndarray, reader: Reader) -> dict[str, np.ndarray]:
    chunk = np.unique(cell)
    states = dict(zip(chunk.tolist(), reader.states([cells.read_genes(int(i)) for i in chunk]), strict=True))
    place = {int(i): {int(g): k for k, g in enumerate(cells.read_genes(int(i)))} for i in chunk}
    found = [states[int(i)][place[int(i)][int(g)]] for g, i in zip(token, cell, strict=True)]
    return {"states": np.array(found, dtype=np.float32)}


def gene_means(values: np.ndarray, occurrences: list[np.ndarray]) -> np.ndarray:
    """(genes, D) mean of each gene's occurrences."""
    edges = np.cumsum([0, *[len(found) for found in occurrences]])
    return np.add.reduceat(values.astype(np.float64), edges[:-1], axis=0) / np.diff(edges)[:, None]


def expression_features(cells: Cells, tokens: np.ndarray) -> np.ndarray:
    """(genes, 4): log mean, share of cells without the gene, mean relative rank, variance of log-normalized values."""
    values = cells.log_normalized().tocsc()[:, tokens]
    mean = np.asarray(values.mean(axis=0)).ravel()
    square = np.asarray(values.power(2).mean(axis=0)).ravel()
    found = np.asarray((values > 0).mean(axis=0)).ravel()
    rank, count = np.zeros(cells.counts.shape[1]), np.zeros(cells.counts.shape[1])
    for cell in range(len(cells)):
        genes = cells.ranked[cell].astype(np.int64)
        rank[genes] += np.arange(len(genes)) / len(genes)
        count[genes] += 1
    return np.stack(
        [np.log(mean + 1e-6), 1 - found, rank[tokens] / np.maximum(count[tokens], 1), square - mean**2], axis=1
    )


def expression_loadings(cells: Cells, tokens: np.ndarray, seed: int) -> np.ndarray:
    """(genes, at most 50) loadings of the first principal components of log-normalized cells x genes."""
    values = cells.log_normalized()
    seen = np.flatnonzero(np.asarray((values > 0).sum(axis=0)).ravel())
    n = min(COMPONENTS, len(seen) - 1, len(cells) - 1)
    fit = TruncatedSVD(n, random_state=seed).fit(values[:, seen])
    out = np.zeros((values.shape[1], n))
    out[seen] = (fit.components_ * fit.singular_values_[:, None]).T
    return out[tokens]
