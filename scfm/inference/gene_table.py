"""Genes as a model sees them in cells: mean hidden states, over all cells or by group, beside simple gene vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy.sparse import csr_matrix, vstack
from sklearn.decomposition import PCA

from scfm.batch import Batch
from scfm.genes import symbol_of
from scfm.inference.cell_input import CellInput
from scfm.inference.predict import predict
from scfm.model.backbone import Backbone
from scfm.model.pooling import shorten
from scfm.published.gene_classifier import GeneClassifier
from scfm.vocab import Vocab

#: Components of the baseline gene vectors.
N_COMPONENTS = 50


@dataclass
class Moments:
    """Sums over the cells of one group, float64.

    Attributes:
        n: (V,) cells that have the gene.
        ranks: (V,) sum of its ranks; 0 is the most expressed gene.
        total: (V, D) sum of its hidden states.
        squares: (V, D) sum of their squares.
    """

    n: torch.Tensor
    ranks: torch.Tensor
    total: torch.Tensor
    squares: torch.Tensor

    @classmethod
    def zeros(cls, size: int, width: int) -> Moments:
        """Of no cells."""
        one, two = torch.zeros(size, dtype=torch.float64), torch.zeros(size, width, dtype=torch.float64)
        return cls(one, one.clone(), two, two.clone())

    def add(self, ids: torch.Tensor, ranks: torch.Tensor, states: torch.Tensor) -> None:
        """Add the tokens of some cells, (T,), (T,) and (T, D) float64."""
        self.n.index_add_(0, ids, torch.ones(len(ids), dtype=torch.float64))
        self.ranks.index_add_(0, ids, ranks.double())
        self.total.index_add_(0, ids, states)
        self.squares.index_add_(0, ids, states.square())

    def mean(self) -> np.ndarray:
        """(V, D) float64; NaN for a gene that no cell has."""
        return (self.total / self.n[:, None]).numpy()

    def sd(self) -> np.ndarray:
        """(V, D) float64, over cells, with n - 1; NaN for a gene in fewer than two cells."""
        n = self.n[:, None]
        spread = (self.squares - self.total.square() / n).clamp(min=0) / (n - 1)
        return torch.where(n > 1, spread, torch.nan).sqrt().numpy()


@dataclass
class GeneStates:
    """What one pass over cells gives: moments by group, in the order of ``groups``."""

    groups: Sequence[str]
    moments: dict[int, Moments] = field(default_factory=dict)
    #: Of a published classifier of genes: its classes, and (V, C) sums of their probabilities by group.
    classes: tuple[str, ...] = ()
    probabilities: dict[int, torch.Tensor] = field(default_factory=dict)


@torch.inference_mode()
def read_gene_states(
    backbone: Backbone,
    vocab: Vocab,
    given: CellInput,
    *,
    by: str | None,
    tokens: int,
    block_size: int,
    device: torch.device,
    classifier: GeneClassifier | None = None,
    advance: Callable[[int], None] | None = None,
) -> GeneStates:
    """Read cells once and sum the hidden states of each gene, in the layer that cell embeddings are read from.

    Memory is 16 bytes times V times D for each group.

    Args:
        backbone: in evaluation mode.
        vocab: its tokens.
        given: open cells.
        by: obs column of groups, None for all cells together; a cell without a group counts nowhere.
        tokens: of a batch.
        block_size: cells read at once.
        device: where the backbone is.
        classifier: of a published model, whose probabilities are summed too.
        advance: told of the cells of each batch.

    Raises:
        ValueError: no such obs column.
    """
    n = given.cells.n_cells
    codes, groups = np.zeros(n, dtype=np.int64), [""]
    if by is not None:
        if by not in given.cells.obs:
            raise ValueError(f"by={by!r} is no obs column; the file has {', '.join(map(str, given.cells.obs.columns))}")
        codes, names = pd.factorize(given.cells.obs[by].astype("object"), sort=True)
        groups = [str(name) for name in names]
    states = GeneStates(groups, classes=() if classifier is None else classifier.classes)
    n_before = len({"cls", "bos"} & vocab.specials.keys())

    def add(batch: Batch) -> dict[str, np.ndarray]:
        batch = shorten(backbone, batch)
        hidden = backbone.hidden(batch, backbone.embedding_layer).double().cpu()
        likely = None if classifier is None else classifier.probabilities(backbone.hidden(batch, -1))
        ids, ranks, cell = batch.ids.cpu(), batch.positions.cpu() - n_before, batch.token_cell.cpu()
        owner = torch.from_numpy(codes[batch.index.cpu().numpy()])[cell]
        for group in owner.unique().tolist():
            if group >= 0:
                chosen = owner == group
                moments = states.moments.setdefault(group, Moments.zeros(len(vocab), backbone.width))
                moments.add(ids[chosen], ranks[chosen], hidden[chosen])
                if likely is not None:
                    empty = torch.zeros(len(vocab), likely.shape[1], dtype=torch.float64)
                    states.probabilities.setdefault(group, empty).index_add_(0, ids[chosen], likely[chosen])
        return {}

    batches = given.batches(tokens=tokens, block_size=block_size, part_size=max(n, 1))
    predict(add, batches, np.arange(n), device, advance)
    return states


def make_gene_table(
    states: GeneStates, vocab: Vocab, static: np.ndarray, components: np.ndarray, *, by: str | None, min_cells: int
) -> AnnData:
    """The contextual vectors of genes, and simple ones beside them: a reader sees whether context adds anything.

    Args:
        states: of :func:`read_gene_states`.
        vocab: the tokens.
        static: (V, D) input embeddings.
        components: (V, k) of :func:`gene_components`.
        by: obs column of the groups.
        min_cells: cells of a group that a gene must be in.

    Returns:
        (gene and group) x D: mean states in X, ``layers["sd"]`` over cells, ``obs`` with gene, symbol, n_cells,
        mean_rank and the group, ``obsm["X_static"]`` and ``obsm["X_pca"]``. Of a published classifier of genes also
        ``obs["probability_CLASS"]``, the mean over cells.

    Raises:
        ValueError: no gene is in so many cells.
    """
    parts = []
    for group, moments in sorted(states.moments.items()):
        ids = vocab.gene_ids[moments.n.numpy()[vocab.gene_ids] >= max(min_cells, 1)]
        tokens = [vocab.tokens[i] for i in ids]
        n = moments.n.numpy()[ids]
        obs = pd.DataFrame({"gene": tokens, "symbol": [symbol_of(token) or token for token in tokens]})
        obs["n_cells"], obs["mean_rank"] = n.astype(np.int64), moments.ranks.numpy()[ids] / n
        for i, name in enumerate(states.classes):
            obs[f"probability_{name}"] = states.probabilities[group].numpy()[ids, i] / n
        if by is not None:
            obs[by] = states.groups[group]
        obs.index = pd.Index(tokens if by is None else [f"{token}|{states.groups[group]}" for token in tokens])
        parts.append((obs, moments.mean()[ids], moments.sd()[ids], static[ids], components[ids]))
    if not parts or not sum(len(part[0]) for part in parts):
        raise ValueError(f"no gene is in {min_cells} cells of a group; lower min_cells or give more cells")
    mean, sd, own, loadings = (np.concatenate([part[i] for part in parts]).astype(np.float32) for i in range(1, 5))
    table = AnnData(mean, obs=pd.concat([part[0] for part in parts]), layers={"sd": sd})
    table.obsm["X_static"], table.obsm["X_pca"] = own, loadings
    return table


def log_counts(given: CellInput, n_tokens: int) -> csr_matrix:
    """log1p(counts per 10,000) of the genes that the vocabulary has, (n, V)."""
    columns = np.asarray(given.genes.columns)
    known = np.flatnonzero(columns >= 0)
    place = csr_matrix((np.ones(len(known)), (known, columns[known])), shape=(len(columns), n_tokens))
    counts = vstack([csr_matrix(block.counts) @ place for block in given.cells.blocks(columns=())], format="csr")
    totals = np.asarray(counts.sum(axis=1)).ravel()
    return counts.multiply(1e4 / np.maximum(totals, 1)[:, None]).tocsr().log1p()


def gene_components(given: CellInput, n_tokens: int) -> np.ndarray:
    """The baseline: loadings of genes on the principal components of log1p(counts per 10,000).

    Args:
        given: open cells.
        n_tokens: V.

    Returns:
        (V, k) float32, k at most 50; zeros for a gene that no cell has.
    """
    scaled = log_counts(given, n_tokens)
    used = np.flatnonzero(np.asarray(scaled.sum(axis=0)).ravel())
    k = min(N_COMPONENTS, scaled.shape[0] - 1, len(used) - 1)
    result = np.zeros((n_tokens, max(k, 1)), dtype=np.float32)
    if k > 0:
        fitted = PCA(k, svd_solver="arpack", random_state=0).fit(scaled[:, used])
        result[used] = (fitted.components_ * np.sqrt(fitted.explained_variance_)[:, None]).T
    return result
