"""How likely a model takes a gene of a cell to be, given the cell's other genes: what edges by gradients explain."""

from __future__ import annotations

import torch
from torch import Tensor

from scfm.analysis.attribution.gradients import CellScore, Presence, integrated_gradients
from scfm.batch import Batch
from scfm.model.backbone import Backbone
from scfm.vocab import Vocab


class GenePrediction:
    """Copies of a cell, each of which leaves one gene to be predicted, and the log-probability of that gene.

    A bidirectional model sees the mask token in the gene's place and all other genes; a causal one sees the genes
    before it. Probabilities are over genes alone.

    Args:
        backbone: in evaluation mode.
        vocab: the tokens.
    """

    def __init__(self, backbone: Backbone, vocab: Vocab) -> None:
        self.backbone, self.causal = backbone, backbone.causal
        self.mask = -1 if backbone.causal else vocab.special("mask")
        device = next(backbone.parameters()).device
        self.is_gene = torch.zeros(len(vocab), dtype=torch.bool, device=device)
        self.is_gene[torch.from_numpy(vocab.gene_ids).to(device)] = True

    def places(self, ids: Tensor) -> Tensor:
        """Places of a cell's tokens (L,) whose gene can be predicted."""
        able = self.is_gene[ids].clone()
        if self.causal:
            able[0] = False
        return able.nonzero().squeeze(1)

    def copies(self, ids: Tensor, places: Tensor) -> tuple[Batch, CellScore]:
        """A copy of a cell for each place, and the log-probability of the gene that was there.

        Args:
            ids: (L,) tokens of the cell.
            places: (J,).

        Returns:
            The batch of J cells, and a score that reads it.
        """
        if self.causal:
            rows = [ids[:place] for place in places.tolist()]
        else:
            rows = [ids.index_fill(0, place, self.mask) for place in places.split(1)]
        batch = pack_rows(rows, ids.device)
        asked = batch.boundaries[1:].long() - 1 if self.causal else batch.boundaries[:-1].long() + places
        return batch, self._score(asked, ids[places])

    def _score(self, asked: Tensor, genes: Tensor) -> CellScore:
        def score(batch: Batch) -> Tensor:
            logits = self.backbone.logits(self.backbone(batch)[asked]).float()
            logits = logits.masked_fill(~self.is_gene, -torch.inf)
            return logits.log_softmax(-1).gather(1, genes[:, None]).squeeze(1)

        return score


def gradient_edges(
    prediction: GenePrediction, presence: Presence, ids: Tensor, places: Tensor, n_steps: int = 0
) -> tuple[Tensor, float]:
    """How each token of a cell changes the log-probability of genes of the cell.

    Args:
        prediction: makes the copies and reads them.
        presence: how genes are taken away.
        ids: (L,) tokens of the cell.
        places: (J,) of the predicted genes.
        n_steps: steps of integrated gradients; 0 for the gradient at the cell times its inputs.

    Returns:
        (L, J) source × target, NaN for a source that the model does not see; and the relative completeness error, NaN
        for plain gradients.
    """
    batch, score = prediction.copies(ids, places)
    error = float("nan")
    if n_steps:
        found = integrated_gradients(presence, score, batch, n_steps)
        tokens, error = found.tokens, found.relative_error
    else:
        tokens = presence.gradient(score, batch)
    return _by_source(tokens, batch, places, len(ids)), error


@torch.no_grad()
def occlusion_edges(prediction: GenePrediction, ids: Tensor, sources: Tensor, places: Tensor) -> Tensor:
    """Fall of the log-probability of genes when another gene is taken out of the cell and later ones move up.

    Args:
        prediction: makes the copies and reads them.
        ids: (L,) tokens of the cell.
        sources: (I,) places of the genes that are taken out.
        places: (J,) of the predicted genes.

    Returns:
        (I, J), log p(gene | cell) − log p(gene | cell without the source); NaN for a source that is not seen.
    """
    batch, score = prediction.copies(ids, places)
    whole = score(batch)
    falls = torch.full((len(sources), len(places)), torch.nan, device=ids.device)
    for row, source in enumerate(sources.tolist()):
        seen = places > source if prediction.causal else places != source
        # a causal model needs a token before the gene
        left = seen & (places > 1) if prediction.causal else seen
        if not left.any():
            continue
        shorter = torch.cat([ids[:source], ids[source + 1 :]])
        moved = places[left] - (places[left] > source).long()
        part, part_score = prediction.copies(shorter, moved)
        falls[row, left] = whole[left] - part_score(part)
    return falls


def pack_rows(rows: list[Tensor], device: torch.device) -> Batch:
    """Cells as one packed row, named by their place."""
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return Batch(
        ids=torch.cat(rows),
        positions=torch.cat([torch.arange(len(row), device=device) for row in rows]),
        boundaries=torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).int(),
        longest=int(lengths.max()),
        index=torch.arange(len(rows), device=device),
    )


def _by_source(tokens: Tensor, batch: Batch, places: Tensor, length: int) -> Tensor:
    table = torch.full((len(places), length), torch.nan, device=tokens.device)
    table[batch.token_cell, batch.positions] = tokens.detach()
    table[torch.arange(len(places), device=tokens.device), places] = torch.nan
    return table.T
