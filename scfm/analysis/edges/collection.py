"""Edge scores of a model, gathered cell by cell under real and permuted gene labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scfm.analysis.attribution.attention import edge_scores, mean_attention, rollout
from scfm.analysis.attribution.gradients import Presence
from scfm.analysis.attribution.prediction import GenePrediction, gradient_edges, occlusion_edges
from scfm.batch import Batch
from scfm.metrics.network.edge_sums import EdgeSums, permute_labels
from scfm.model.backbone import Backbone
from scfm.vocab import Vocab

#: Scores that follow from one pass over the cells, and those that ask for the likelihood of genes.
BY_ATTENTION = ("attention", "rollout")
BY_PREDICTION = ("gradient", "integrated_gradients", "occlusion")
STRATA = 10


@dataclass(frozen=True)
class Tokens:
    """The tokens of the cells, with the genes that they stand for under each labeling.

    Attributes:
        batches: packed cells.
        labels: (1 + K, T) place of each token's gene among the genes of the network, -1 for others; the first row is
            real, the others are permuted within tenths of the ranking.
    """

    batches: Sequence[Batch]
    labels: np.ndarray

    @classmethod
    def from_batches(cls, batches: Sequence[Batch], genes: np.ndarray, n_permutations: int, seed: int) -> Tokens:
        """Label the tokens of batches by their place among ``genes`` (token ids, ascending)."""
        ids = np.concatenate([batch.ids.cpu().numpy() for batch in batches])
        place = np.searchsorted(genes, ids).clip(max=len(genes) - 1)
        labels = np.where(genes[place] == ids, place, -1)
        strata = [(batch.positions * STRATA // batch.lengths[batch.token_cell]).cpu().numpy() for batch in batches]
        rng = np.random.default_rng(seed)
        return cls(batches, permute_labels(labels, np.concatenate(strata), n_permutations, rng))

    def cells(self, limit: int | None = None) -> list[tuple[Tensor, np.ndarray]]:
        """Token ids (L,) and labels (1 + K, L) of each cell; of ``limit`` cells at even distances."""
        found, start = [], 0
        for batch in self.batches:
            for ids in batch.ids.split(batch.lengths.tolist()):
                found.append((ids, self.labels[:, start : start + len(ids)]))
                start += len(ids)
        if limit is None or len(found) <= limit:
            return found
        return [found[i] for i in np.linspace(0, len(found) - 1, limit).astype(int)]


@torch.no_grad()
def attention_sums(
    backbone: Backbone, tokens: Tokens, n_genes: int, advance: Callable[[int], None]
) -> dict[str, EdgeSums]:
    """Attention and rollout of every pair of genes, times the length of the cell."""
    sums = {name: EdgeSums(n_genes, len(tokens.labels)) for name in BY_ATTENTION}
    start = 0
    for batch in tokens.batches:
        for one in batch.split(batch.n_cells):
            layers = [cells[0] for cells in backbone.attentions(one, mean_heads=True)]
            labels = tokens.labels[:, start : start + one.n_tokens]
            kept = np.flatnonzero(labels[0] >= 0)  # permutations keep the same tokens
            for name, weights in (("attention", mean_attention(layers)), ("rollout", rollout(layers))):
                scores = edge_scores(weights, causal=backbone.causal).cpu().double().numpy()
                sums[name].add(labels[:, kept], labels[:, kept], scores[np.ix_(kept, kept)])
            start += one.n_tokens
            advance(1)
    return sums


@dataclass(frozen=True)
class PredictionOptions:
    """How edges by likelihood are computed.

    Attributes:
        names: which of :data:`BY_PREDICTION`.
        n_cells: cells, at most.
        n_targets: genes of each cell that are predicted, at most.
        n_steps: of integrated gradients.
        seed: draws the targets.
    """

    names: Sequence[str]
    n_cells: int
    n_targets: int
    n_steps: int
    seed: int


def prediction_sums(
    backbone: Backbone,
    vocab: Vocab,
    tokens: Tokens,
    n_genes: int,
    options: PredictionOptions,
    advance: Callable[[int], None],
) -> tuple[dict[str, EdgeSums], float]:
    """Edges from what a gene adds to the log-probability of another; and the mean completeness error of gradients.

    Args:
        backbone: in evaluation mode.
        vocab: the tokens.
        tokens: of the cells.
        n_genes: G.
        options: which, and how many.
        advance: told of each cell.
    """
    prediction, presence = GenePrediction(backbone, vocab), Presence(backbone, vocab)
    sums = {name: EdgeSums(n_genes, len(tokens.labels)) for name in options.names}
    rng, errors = np.random.default_rng(options.seed), []
    for ids, labels in tokens.cells(options.n_cells):
        known = np.flatnonzero(labels[0] >= 0)
        able = np.intersect1d(known, prediction.places(ids).cpu().numpy())
        targets = np.sort(rng.permutation(able)[: options.n_targets])
        if len(targets):
            places = torch.from_numpy(targets).to(ids.device)
            for name in options.names:
                if name == "occlusion":
                    sources = torch.from_numpy(known).to(ids.device)
                    scores = occlusion_edges(prediction, ids, sources, places)
                else:
                    steps = options.n_steps if name == "integrated_gradients" else 0
                    scores, error = gradient_edges(prediction, presence, ids, places, steps)
                    scores = scores[known]
                    errors += [error] if steps else []
                sums[name].add(labels[:, known], labels[:, targets], scores.cpu().double().numpy())
        advance(1)
    return sums, float(np.mean(errors)) if errors else float("nan")


@torch.no_grad()
def gene_vectors(backbone: Backbone, batches: Sequence[Batch], genes: np.ndarray) -> dict[str, np.ndarray]:
    """Vectors (G, D) of genes: ``static`` the input embeddings, ``contextual`` the mean hidden states."""
    device = next(backbone.parameters()).device
    ids = torch.from_numpy(genes).to(device)
    total = torch.zeros(len(genes), backbone.width, dtype=torch.float64)
    count = torch.zeros(len(genes), dtype=torch.float64)
    for batch in batches:
        hidden = backbone.hidden(batch, backbone.embedding_layer).cpu().double()
        place = torch.searchsorted(ids, batch.ids).clamp(max=len(genes) - 1)
        known = (ids[place] == batch.ids).cpu()
        place = place.cpu()[known]
        total.index_add_(0, place, hidden[known])
        count.index_add_(0, place, torch.ones(len(place), dtype=torch.float64))
    static = backbone.input_vectors(ids).cpu().double().numpy()
    return {"static": static, "contextual": (total / count[:, None]).numpy()}
