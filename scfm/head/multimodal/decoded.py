"""Which genes and which peaks or proteins cross decoders predict, and what a cell shows of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.head.multimodal.towers import PanelValues, PeakComponents
from scfm.head.survey import Survey
from scfm.types import PEAKS, Spec


class Decoded(nn.Module):
    """Genes of most counts, and peaks open in most cells or all proteins.

    Args:
        spec: vocabulary and features of the run.
        other: ``peaks`` or ``protein``.
        most: features of each modality, at most; of proteins all are decoded.

    Attributes:
        genes: (G,) token ids.
        chosen: (P,) features of the other modality.
    """

    genes: Tensor
    chosen: Tensor

    def __init__(self, spec: Spec, other: str, most: int) -> None:
        super().__init__()
        self.vocab, self.other, self.features_all = spec.vocab, other, tuple(spec.fields[other])
        self.n_genes = min(most, len(spec.vocab.gene_ids))
        self.n_features = min(most, len(self.features_all)) if other == PEAKS else len(self.features_all)
        self.register_buffer("genes", torch.from_numpy(spec.vocab.gene_ids[: self.n_genes].astype(np.int64)))
        self.register_buffer("chosen", torch.arange(self.n_features))

    def fit(self, survey: Survey, values: np.ndarray, places: np.ndarray) -> None:
        """Choose the features on training cells.

        Args:
            survey: with tokens and counts.
            values: (n, K) open peaks of the training cells, or their proteins.
            places: of the training cells that have both modalities.
        """
        total = np.asarray(self._matrix(survey, places).sum(axis=0)).ravel()[self.vocab.gene_ids]
        order = np.sort(np.argsort(-total, kind="stable")[: self.n_genes])
        self.genes.copy_(torch.from_numpy(self.vocab.gene_ids[order].astype(np.int64)))
        if self.other == PEAKS:
            n_open = np.bincount(values[values >= 0].astype(np.int64), minlength=len(self.features_all))
            self.chosen.copy_(torch.from_numpy(np.sort(np.argsort(-n_open, kind="stable")[: self.n_features])))

    def survey_counts(self, survey: Survey, places: np.ndarray) -> np.ndarray:
        """(n, G) float32 counts of the genes of some surveyed cells."""
        return self._matrix(survey, places)[:, self.genes.cpu().numpy()].toarray()

    def _matrix(self, survey: Survey, places: np.ndarray) -> csr_matrix:
        assert survey.tokens is not None, "the head asks for tokens"
        assert survey.counts is not None, "the head asks for counts"
        cells, counts = survey.tokens(places), survey.counts(places)
        return csr_matrix((counts, cells.values.astype(np.int64), cells.offsets), (len(cells), len(self.vocab)))

    def gene_counts(self, batch: Batch) -> Tensor:
        """(B, G) float32 counts of the genes of packed cells."""
        assert batch.counts is not None, "the head asks for counts"
        place = _places(self.genes, len(self.vocab))[batch.ids]
        table = torch.zeros(batch.n_cells, self.n_genes, device=batch.ids.device)
        gene = place >= 0
        return table.index_put((batch.token_cell[gene], place[gene]), batch.counts[gene].float(), accumulate=True)

    def features(self, given: Tensor, reader: PeakComponents | PanelValues) -> Tensor:
        """(B, P) float32: 1 for open peaks and 0 for others, or standardized proteins, NaN where not measured."""
        if isinstance(reader, PanelValues):
            return reader.panel.standardize(given).float()
        cell, slot = (given >= 0).nonzero(as_tuple=True)
        place = _places(self.chosen, len(self.features_all))[given[cell, slot]]
        table = torch.zeros(len(given), self.n_features, device=given.device)
        table[cell[place >= 0], place[place >= 0]] = 1.0
        return table

    def restore(self, values: Tensor, reader: PeakComponents | PanelValues) -> Tensor:
        """Predictions (B, P) as users read them: probabilities, or ln(1 + counts) of proteins."""
        return reader.panel.restore(values) if isinstance(reader, PanelValues) else values

    def names(self) -> dict[str, Any]:
        """What the columns of the written arrays are."""
        return {
            "genes": [self.vocab.tokens[int(token)] for token in self.genes.cpu()],
            "features": [self.features_all[int(place)] for place in self.chosen.cpu()],
            "units": {
                "features": "probability of being open" if self.other == PEAKS else "ln(1 + counts)",
                "genes": "expected counts per 10,000 of these genes",
            },
        }


def _places(chosen: Tensor, n: int) -> Tensor:
    """(n,) int64: the column of each chosen id, -1 for others."""
    table = torch.full((n,), -1, dtype=torch.int64, device=chosen.device)
    table[chosen] = torch.arange(len(chosen), device=chosen.device)
    return table
