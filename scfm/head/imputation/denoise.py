"""Expected counts of genes, from a cell's own molecules."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.head.base import Arrays, Outputs, Written
from scfm.head.cell_state import CellState, StateHead
from scfm.head.imputation.profiles import LANDMARKS, Landmarks, Thinned, fit_profiles, gene_shares
from scfm.head.layers import perceptron
from scfm.head.negative_binomial import log_nb
from scfm.head.ranges import check_not_negative, check_positive, check_proper_shares
from scfm.head.survey import Survey
from scfm.head.views import batch_generator
from scfm.metrics.denoising import explained_deviance
from scfm.model.ranking import rank_again
from scfm.types import Backbone, Metrics, Ragged, Spec

log = logging.getLogger(__name__)

#: What scfm-embed writes.
WRITTEN = "scfm_denoised"
#: Cells that profiles are fitted on before training, times the copies of each; at most four copies.
MAX_ROWS, COPIES = 8000, 4
#: The fewest training cells to learn from.
MIN_CELLS = 20
#: Where unused landmarks lie.
FAR = 1e4
#: Dispersions θ are kept between these.
DISPERSIONS = (0.1, 1e3)


class Denoise(StateHead):
    """Shares of genes that predict molecules of the same cell which were not read.

    A cell's counts are thinned, x_a ~ Binomial(x, 1 − ε) and x_b = x − x_a, with ε drawn for each cell: for Poisson
    counts the two are independent given the cell, so that only what is of the cell, and not its noise, predicts x_b
    (Batson et al. 2019). The state h_a of x_a gives the shares p = softmax(s(h_a) + W h_a + f(h_a)) over the genes
    that are told, with s the scores of the profiles of groups of similar training cells
    (:class:`~scfm.head.imputation.profiles.Landmarks`), and L = −log NB(x_b; ℓ_b p, θ_g) / G. W begins at a penalized
    fit, its columns of the backbone and the perceptron f at 0; the penalty, and which genes are told, are chosen by
    cross-validation (:func:`~scfm.head.imputation.profiles.fit_profiles`). A gene that is not predicted better than by
    its mean share gets that share in every cell: it can neither differ between groups nor correlate. What is predicted
    of a cell follows from its own molecules and from what training has kept; no other cell of the file is averaged in.

    Args:
        spec: vocabulary and width of the run.
        genes_out: genes that are predicted, those of most counts; at most.
        thinning: the least and the largest ε, the share of a cell's molecules that is hidden in training.
        errors: standard errors by which a gene has to be predicted better than by its mean.
        gene_components: linear components of the cell's genes beside the backbone's embedding.
        hidden: width of the perceptron; 0 for none.
        max_tokens: tokens of a cell that the backbone reads, at most.
        dropout: before each layer of the perceptron.
        seed: of the thinning before training.

    Raises:
        ValueError: a number out of its range.
    """

    metric: ClassVar[str] = "d2"
    scale: Tensor
    chosen: Tensor
    means: Tensor
    told: Tensor
    explained: Tensor
    centers: Tensor
    profiles: Tensor
    sharpness: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        genes_out: int = 2000,
        thinning: Sequence[float] = (0.1, 0.5),
        errors: float = 1.0,
        gene_components: int = 64,
        hidden: int = 64,
        max_tokens: int | None = None,
        dropout: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive(gene_components=gene_components)
        check_not_negative(hidden=hidden, errors=errors)
        check_proper_shares(dropout=dropout)
        if genes_out < 2:
            raise ValueError(f"head.genes_out={genes_out}; expected at least 2 genes")
        if len(thinning) != 2 or not 0 < thinning[0] <= thinning[1] < 1:
            raise ValueError(
                f"head.thinning={list(thinning)}; expected the least and the largest share of molecules to hide, as "
                "[0.1,0.5]"
            )
        self.thinning, self.errors, self.seed = tuple(thinning), errors, seed
        self.vocab, self.counts, self.learned = spec.vocab, True, ()
        self.state = CellState(spec, gene_components, max_tokens, score="counts")
        scale = np.ones(len(spec.vocab)) if spec.scale is None else np.asarray(spec.scale, dtype=np.float64)
        self.register_buffer("scale", torch.from_numpy(scale), persistent=False)
        g = min(genes_out, len(spec.vocab.gene_ids))
        self.line = nn.Linear(self.state.width, g, bias=False)
        nn.init.zeros_(self.line.weight)
        self.deep = perceptron([self.state.width, hidden, g], dropout=dropout) if hidden else None
        if self.deep is not None:
            nn.init.zeros_(self.deep[-1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(self.deep[-1].bias)  # type: ignore[arg-type]
        self.log_dispersion = nn.Parameter(torch.full((g,), float(np.log(DISPERSIONS[1]))))
        self.register_buffer("chosen", torch.from_numpy(spec.vocab.gene_ids[:g].astype(np.int64)))
        self.register_buffer("means", torch.full((g,), 1 / g))
        self.register_buffer("told", torch.zeros(g, dtype=torch.bool))
        self.register_buffer("explained", torch.zeros(()))
        self.register_buffer("centers", torch.zeros(LANDMARKS, gene_components))
        self.register_buffer("profiles", torch.full((LANDMARKS, g), 1 / g))
        self.register_buffer("sharpness", torch.ones(()))

    def prepare(self, survey: Survey) -> None:
        """Choose genes, and fit their shares to hidden molecules of training cells.

        Raises:
            ValueError: too few training cells, or counts that are no whole numbers.
        """
        places = np.flatnonzero(survey.train)
        if len(places) < MIN_CELLS:
            raise ValueError(
                f"{len(places)} training cells; head=imputation/denoise learns from at least {MIN_CELLS}: add cells, "
                "or lower data.val, data.test and calibration"
            )
        super().prepare(survey)
        places = places[np.unique(np.linspace(0, len(places) - 1, min(len(places), MAX_ROWS)).astype(np.int64))]
        assert survey.tokens is not None, "the head asks for tokens"
        assert survey.counts is not None, "the head asks for counts"
        cells, counts = survey.tokens(places), survey.counts(places)
        if not np.array_equal(counts, np.rint(counts)):
            raise ValueError(
                "the store keeps counts that are no whole numbers: molecules can only be hidden where they were "
                "counted. Prepare raw counts (scfm-prepare layer=NAME, without counts=decimals_ok)"
            )
        total = np.asarray(self._matrix(cells, counts).sum(axis=0)).ravel()
        order = np.sort(np.argsort(-total[self.vocab.gene_ids], kind="stable")[: len(self.chosen)])
        self.chosen.copy_(torch.from_numpy(self.vocab.gene_ids[order].astype(np.int64)))
        share = total[self.vocab.gene_ids][order]
        self.means.copy_(torch.from_numpy(share / max(share.sum(), 1.0)))
        n_copies = min(COPIES, max(1, MAX_ROWS // len(places)))
        rng = np.random.default_rng(self.seed)
        copies = [self._thin_survey(cells, counts, rng) for _ in range(n_copies)]
        groups = None if survey.groups is None else survey.groups[places]
        means = self.means.cpu().numpy().astype(np.float64)
        fit = fit_profiles(copies, means, self.errors, groups, self.seed)
        n = len(fit.landmarks.centers)
        with torch.no_grad():
            self.centers.fill_(FAR)  # of fewer landmarks, where the others have no weight
            self.centers[:n], self.profiles[:n] = fit.landmarks.centers, fit.landmarks.profiles
            self.sharpness.copy_(fit.landmarks.sharpness)
            self.line.weight[:, self.state.deep :] = torch.from_numpy(fit.weight.T).to(self.line.weight)
            self.told.copy_(torch.from_numpy(fit.told))
            self.explained.fill_(fit.d2)
            self.log_dispersion.copy_(self._dispersion(copies, fit.landmarks).log())
        log.info(
            "%d of %d genes are predicted better than by their means (D² %.3f, penalty %g, cells left out); the others "
            "get their means.", fit.told.sum(), len(fit.told), fit.d2, fit.penalty,
        )  # fmt: skip

    def _matrix(self, cells: Ragged, counts: np.ndarray) -> csr_matrix:
        """(n, V) CSR counts of packed cells."""
        return csr_matrix((counts, cells.values.astype(np.int64), cells.offsets), (len(cells), len(self.vocab)))

    def _thin_survey(self, cells: Ragged, counts: np.ndarray, rng: np.random.Generator) -> Thinned:
        """The cells with molecules hidden at random: components of the others."""
        low, high = self.thinning
        kept_share = 1 - rng.uniform(low, high, len(cells))
        kept = rng.binomial(counts.astype(np.int64), np.repeat(kept_share, cells.lengths)).astype(np.float32)
        hidden = self._matrix(cells, counts - kept)[:, self.chosen.cpu().numpy()].toarray()
        return Thinned(self.state.components.transform(cells, kept), hidden)

    def _dispersion(self, copies: Sequence[Thinned], landmarks: Landmarks) -> Tensor:
        """θ (G,) by moments, Σ μ² / Σ [(x − μ)² − μ] over cells (variance μ + μ²/θ)."""
        top = bottom = torch.zeros(len(self.means))
        weight = self.line.weight[:, self.state.deep :].detach().cpu()
        for copy in copies:
            state = torch.from_numpy(copy.state).float()
            scores = landmarks.scores(state) + state @ weight.T
            hidden = torch.from_numpy(copy.hidden).float()
            mean = hidden.sum(1, keepdim=True) * gene_shares(scores, self.means.cpu(), self.told.cpu())
            top, bottom = top + mean.square().sum(0), bottom + ((hidden - mean).square() - mean).sum(0)
        found = torch.where(bottom > 0, top / bottom.clamp(min=1e-12), torch.full_like(top, DISPERSIONS[1]))
        return found.clamp(*DISPERSIONS).to(self.log_dispersion)

    def gene_counts(self, batch: Batch) -> Tensor:
        """Counts of the predicted genes, (B, G) float32.

        Raises:
            ValueError: the batch carries none.
        """
        if batch.counts is None:
            raise ValueError(
                "head=imputation/denoise reads counts, but the store keeps ranks only: prepare it again with "
                "keep_counts=true"
            )
        column = torch.full((len(self.vocab),), -1, dtype=torch.int64, device=batch.ids.device)
        column[self.chosen] = torch.arange(len(self.chosen), device=batch.ids.device)
        place = column[batch.ids]
        table = torch.zeros(batch.n_cells, len(self.chosen), device=batch.ids.device)
        gene = place >= 0
        return table.index_put((batch.token_cell[gene], place[gene]), batch.counts[gene].float(), accumulate=True)

    def thin(self, batch: Batch) -> tuple[Batch, Tensor]:
        """The cells of x_a, ranked again, and x_b of the predicted genes, (B, G); drawn from the seed of the batch."""
        whole, generator = self.gene_counts(batch), batch_generator(batch)
        assert batch.counts is not None, "gene_counts has read them"
        low, high = self.thinning
        drawn = torch.rand(batch.n_cells, generator=generator, device=batch.ids.device)
        share = 1 - low - (high - low) * drawn
        kept = torch.binomial(batch.counts.float(), share[batch.token_cell], generator=generator)
        part = rank_again(batch, kept, self.vocab, self.scale)
        return part, whole - self.gene_counts(part)

    def shares(self, state: Tensor) -> Tensor:
        """Shares of the predicted genes, (B, G) float32 of sum 1, from states (B, D)."""
        landmarks = Landmarks(self.centers, self.profiles, self.sharpness)
        scores = landmarks.scores(state[:, self.state.deep :]) + self.line(state).float()
        if self.deep is not None:
            scores = scores + self.deep(state).float()
        return gene_shares(scores, self.means, self.told)

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss`` for a cell and gene, and ``d2``, the share of the deviance of x_b that is explained.

        Both are of one random x_b for each cell, which follows from the seed of the batch.
        """
        part, hidden = self.thin(batch)
        shares = self.shares(self.state(backbone, part))
        total = hidden.sum(1, keepdim=True)
        loss = -log_nb(hidden, total * shares, self.log_dispersion.exp()).mean()
        with torch.no_grad():
            arrays = (value.double().cpu().numpy() for value in (hidden, shares, self.means))
            d2 = explained_deviance(*arrays)
        return {"loss": loss, "d2": loss.new_tensor(d2)}

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> Outputs:
        """``denoised`` (B, G), expected counts at the cell's own total of these genes, and the ``state`` (B, D)."""
        total = self.gene_counts(batch).sum(1, keepdim=True)
        state = self.state(backbone, batch)
        return {"state": state, "denoised": total * self.shares(state)}

    def write(self, outputs: Arrays) -> Written:
        """``scfm_denoised``, in the order of ``uns["genes"]``; ``uns["told"]`` says which genes are not their mean."""
        told = self.told.cpu().numpy()
        about = {
            "genes": [self.vocab.tokens[int(token)] for token in self.chosen.cpu()],
            "told": told,
            "units": "expected counts at the cell's total of these genes",
            "note": "tests of difference on denoised values are invalid: test the counts",
            "d2_before_training": float(self.explained),
        }
        return Written(obsm={WRITTEN: outputs["denoised"]}, uns=about)
