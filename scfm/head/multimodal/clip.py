"""One space for genes and another modality of the same cells."""

from __future__ import annotations

import logging
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.head.base import Arrays, Outputs, Written
from scfm.head.cell_state import CellState, Components, StateHead
from scfm.head.gene_components import DEPTH
from scfm.head.multimodal.contrast import canonical_directions, choose_start, contrast_loss, soft_targets
from scfm.head.multimodal.cross_decoder import CrossDecoders
from scfm.head.multimodal.decoded import Decoded
from scfm.head.multimodal.towers import PanelValues, PeakComponents, Projection
from scfm.head.ranges import check_not_negative, check_positive, check_proper_shares
from scfm.head.survey import Survey
from scfm.metrics.modality.alignment import foscttm, recall
from scfm.types import FIELDS, PEAKS, Backbone, Metrics, Sampling, Spec, field_key

log = logging.getLogger(__name__)

#: What scfm-embed writes: the cells by their genes, and by the other modality.
SHARED = "X_scfm_shared"
#: The least temperature.
COLDEST = 0.01


class Clip(StateHead):
    """Genes and peaks (or proteins) of a cell as two unit vectors that lie close together.

    Each modality has a tower: the state of the cell (backbone and components) or the components of its peaks, then a
    linear map plus a perceptron. The linear maps begin at the canonical correlation of the two, whose shrinkage and
    columns (the backbone's among them) are cross-validated, the perceptrons at 0.
    L = ½ [CE(S/τ, T) + CE(Sᵀ/τ, T)], S the cosines of a micro-batch's cells, T the pairs and, to the share ω, each
    cell's nearest others by genes, which are not pushed away. New cells may have genes alone.

    Args:
        spec: vocabulary, widths, peaks and proteins of the run.
        other: the second modality, ``peaks`` or ``protein``.
        width: d of the shared space.
        components: components of the peaks.
        gene_components: linear components of the cell's genes beside the backbone's embedding; 0 for none.
        variable_components: components of variable genes, from counts; 0 for none.
        hidden: width of the perceptrons; 0 for linear towers.
        max_tokens: tokens of a cell that the backbone reads, at most.
        dropout: before each linear layer.
        soft: ω.
        temperature: τ at the start; it is learned, and at least 0.01.
        batch_key: obs column of experimental batches; micro-batches then hold cells of one.
        decode: features of each modality that are predicted from the places of both: genes of most counts and peaks
            open in most cells, at most; 0 for none. It needs a store that keeps counts.
        decode_weight: of the decoders' loss beside L.

    Raises:
        ValueError: a store without the modality, or a number out of its range.
    """

    metric: ClassVar[str] = "foscttm"

    def __init__(
        self,
        spec: Spec,
        *,
        other: Literal["peaks", "protein"] = "peaks",
        width: int = 32,
        components: int = 100,
        gene_components: int = 64,
        variable_components: Components = 0,
        hidden: int = 64,
        max_tokens: int | None = None,
        dropout: float = 0.1,
        soft: float = 0.2,
        temperature: float = 0.1,
        batch_key: str | None = None,
        decode: int = 0,
        decode_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_proper_shares(dropout=dropout, soft=soft)
        check_positive(width=width, components=components, temperature=temperature)
        check_not_negative(hidden=hidden, decode=decode, decode_weight=decode_weight)
        if other not in FIELDS:
            raise ValueError(f"head.other={other!r}; expected peaks or protein")
        if not spec.fields.get(other):
            raise ValueError(
                f"head=multimodal/clip learns from pairs, but the store keeps no {other}: prepare it again with "
                f"side.{other}=auto from files that have both"
            )
        self.other, self.soft = other, soft
        self.fields = self.reads = (other,)
        self.learned = ()
        if batch_key is not None:
            spec.categories("head.batch_key", batch_key)
            self.labels, self.sampling = (batch_key,), Sampling(by=batch_key)
        counts = bool(variable_components)
        score: Literal["counts", "log"] = "counts" if counts else "log"
        self.state = CellState(spec, gene_components, max_tokens, score=score, variable_components=variable_components)
        self.counts = self.state.counts
        n = len(spec.fields[other])
        self.reader = PeakComponents(n, components) if other == PEAKS else PanelValues(n)
        sizes = {"hidden": hidden, "dropout": dropout}
        self.gene_tower = Projection(self.state.width, width, **sizes)  # type: ignore[arg-type]
        self.other_tower = Projection(self.reader.width, width, **sizes)  # type: ignore[arg-type]
        self.log_temperature = nn.Parameter(torch.tensor(float(np.log(temperature))))
        self.decode_weight, self.cross, self.decoded = decode_weight, None, None
        if decode:
            self.decoded = Decoded(spec, other, decode)
            kind: Literal["open", "values"] = "open" if other == PEAKS else "values"
            self.cross = CrossDecoders(width, self.decoded.n_genes, self.decoded.n_features, kind)
            self.counts = True

    def _decode_loss(self, one: Tensor, two: Tensor, batch: Batch, known: Tensor) -> Tensor:
        """Of the cells that have both modalities, (n, d) each."""
        assert self.cross is not None, "decode=0 has no decoders"
        assert self.decoded is not None, "decode=0 has no decoders"
        features = self.decoded.features(batch.obs[field_key(self.other)][known], self.reader)
        loss: Tensor = self.cross((one, two), self.decoded.gene_counts(batch)[known], features)
        return loss

    @property
    def temperature(self) -> Tensor:
        """τ, at least 0.01."""
        return self.log_temperature.exp().clamp(min=COLDEST)

    def prepare(self, survey: Survey) -> None:
        """Fit the components of both modalities on training cells, and begin at their canonical correlation.

        Raises:
            ValueError: fewer than ten training cells have both modalities.
        """
        super().prepare(survey)
        values = survey.fields[self.other](np.flatnonzero(survey.train))
        self.reader.fit(values)
        with torch.no_grad():
            other, known = (part.cpu().numpy() for part in self.reader(torch.from_numpy(values)))
        if known.sum() < 10:
            raise ValueError(
                f"{int(known.sum())} training cells have {self.other} beside their genes: expected at least 10 pairs"
            )
        states = self.state.from_survey(survey)[survey.train][known].astype(np.float64)
        other = other[known].astype(np.float64)
        width = self.gene_tower.line.out_features
        groups = None if survey.train_groups is None else survey.train_groups[known]
        read, shrinkage = choose_start(states, other, self.state.blocks, width, groups)
        left, right, weights = canonical_directions(states[:, read], other, width, shrinkage)
        directions = np.zeros((len(read), left.shape[1]))
        directions[read] = left
        self.gene_tower.begin(directions, states.mean(axis=0))
        self.other_tower.begin(right, other.mean(axis=0))
        blocks = [int(part.sum()) for part in np.split(read, np.cumsum(self.state.blocks)[:-1])]
        log.info(
            "Begins at canonical correlations %s of %d pairs; columns of the blocks %s of %s, shrinkage %g.",
            weights[:4].round(2).tolist(), known.sum(), blocks, list(self.state.blocks), shrinkage,
        )  # fmt: skip
        if self.cross is not None:
            self._begin_decoders(survey, values, known, torch.from_numpy(states), torch.from_numpy(other))

    @torch.no_grad()
    def _begin_decoders(
        self, survey: Survey, values: np.ndarray, known: np.ndarray, states: Tensor, other: Tensor
    ) -> None:
        """Decoders at their fits to the training cells (n, ...) that have both modalities."""
        assert self.cross is not None, "decode=0 has no decoders"
        assert self.decoded is not None, "decode=0 has no decoders"
        self.decoded.fit(survey, values, np.flatnonzero(survey.train)[known])
        was, _ = self.training, self.eval()
        places = self.gene_tower.cpu()(states.float()).numpy(), self.other_tower.cpu()(other.float()).numpy()
        self.train(was)
        counts = self.decoded.survey_counts(survey, np.flatnonzero(survey.train)[known])
        features = self.decoded.features(torch.from_numpy(values[known]), self.reader)
        self.cross.fit(places, counts, features.cpu().numpy())

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``, ``top1`` (pairs that find each other in the micro-batch), ``temperature``, ``n_targets``."""
        state = self.state(backbone, batch)
        values, known = self.reader(batch.obs[field_key(self.other)])
        one, two = self.gene_tower(state[known]), self.other_tower(values[known].to(state.dtype))
        n = known.sum()
        if len(one) < 2:
            nothing = (one.sum() + two.sum() + self.log_temperature) * 0
            nothing = nothing + (0 if self.cross is None else 0 * sum(p.sum() for p in self.cross.parameters()))
            found = {
                "loss": nothing,
                "top1": nothing.detach(),
                "temperature": self.temperature.detach(),
                "n_targets": n,
            }
            return found if self.cross is None else {**found, "decoding": nothing.detach()}
        reference = state[known][:, self.state.deep :] if self.state.width > self.state.deep else state[known]
        targets = soft_targets(reference.detach(), self.soft)
        loss = contrast_loss(one, two, self.temperature, targets)
        more: Metrics = {}
        if self.cross is not None:
            more["decoding"] = self._decode_loss(one, two, batch, known)
            loss = loss + self.decode_weight * more["decoding"]
            more["decoding"] = more["decoding"].detach()
        hits = ((one @ two.T).argmax(dim=1) == torch.arange(len(one), device=one.device)).float().mean()
        return {"loss": loss, "top1": hits, "temperature": self.temperature.detach(), "n_targets": n, **more}

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> Outputs:
        """``shared`` (B, d) by genes, and the ``state`` (B, D).

        Where the batch has the other modality also ``shared_other`` (B, d), NaN in cells without it. With decoders also
        ``decoded_other`` (B, P) by genes, and ``decoded_genes`` (B, G) by the other modality.
        """
        state = self.state(backbone, batch)
        outputs = {"state": state, "shared": self.gene_tower(state)}
        given = batch.obs.get(field_key(self.other))
        if given is not None:
            values, known = self.reader(given)
            found = self.other_tower(values.to(state.dtype))
            outputs["shared_other"] = torch.where(known[:, None], found, torch.nan)
        if self.cross is not None and self.decoded is not None:
            outputs["decoded_other"] = self.decoded.restore(self.cross.other.read(outputs["shared"]), self.reader)
            if given is not None:
                shares = self.cross.genes.read(outputs["shared_other"].nan_to_num())
                outputs["decoded_genes"] = torch.where(known[:, None], DEPTH * shares, torch.nan)
        return outputs

    def write(self, outputs: Arrays) -> Written:
        """``X_scfm_shared`` by genes, and ``X_scfm_shared_<other>`` where a cell has the other modality.

        With decoders also ``scfm_<other>_from_genes`` and ``scfm_genes_from_<other>``; their features are in ``uns``.
        """
        obsm = {SHARED: outputs["shared"]}
        if "shared_other" in outputs and np.isfinite(outputs["shared_other"]).any():
            obsm[f"{SHARED}_{self.other}"] = outputs["shared_other"]
        about: dict[str, Any] = {"other": self.other}
        if self.decoded is not None:
            obsm[f"scfm_{self.other}_from_genes"] = outputs["decoded_other"]
            if "decoded_genes" in outputs and np.isfinite(outputs["decoded_genes"]).any():
                obsm[f"scfm_genes_from_{self.other}"] = outputs["decoded_genes"]
            about |= self.decoded.names()
        return Written(obsm=obsm, uns=about)

    def summarize(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """``foscttm`` (0 best, 0.5 chance), ``recall1``, ``recall10`` of cells that have both modalities."""
        known = np.isfinite(outputs["shared_other"]).all(axis=1)
        one, two = outputs["shared"][known], outputs["shared_other"][known]
        if len(one) < 2:
            return {"foscttm": 0.5, "recall1": 0.0, "recall10": 0.0}
        return {"foscttm": foscttm(one, two), "recall1": recall(one, two, 1), "recall10": recall(one, two, 10)}
