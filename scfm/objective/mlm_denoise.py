"""Masked gene modeling, and beside it the prediction of one half of a cell's counts from the other."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.model.denoiser import Denoiser
from scfm.model.pooling import read_cells, shorten
from scfm.objective.halves import HalvesMLM
from scfm.types import Backbone, Metrics, Spec


class MLMDenoise(HalvesMLM):
    """MLM on one half of a cell's counts, whose embedding predicts the gene axes of the other half.

    The model reads the first half (:class:`~scfm.objective.halves.HalvesMLM`), masked, and the squared error of its
    embedding z to the axes y of the second is the loss: what predicts an independent measurement is the cell, not its
    noise (Batson & Royer 2019, Noise2Self). z begins as the linear prediction
    (:class:`~scfm.model.denoiser.Denoiser`), so that ``denoise_linear`` - ``denoise`` is what the layers add to it.

    Args:
        spec: see :class:`~scfm.objective.halves.HalvesMLM`.
        denoise: weight of the squared error, a mean over cells and axes; the MLM loss has weight 1.
        smallest, mask_fraction, mask_share, random_share: see :class:`~scfm.objective.halves.HalvesMLM`.

    Raises:
        ValueError: numbers out of range, and what HalvesMLM refuses.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        denoise: float = 10.0,
        smallest: float = 0.2,
        mask_fraction: float = 0.15,
        mask_share: float = 0.8,
        random_share: float = 0.1,
    ) -> None:
        shares = {"mask_fraction": mask_fraction, "mask_share": mask_share, "random_share": random_share}
        super().__init__(spec, smallest=smallest, **shares)
        if denoise <= 0:
            raise ValueError(f"objective.denoise={denoise}; expected a weight above 0 (objective=mlm has none)")
        self.denoise = denoise

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """Loss of one batch; in evaluation that of MLM, on whole cells.

        Returns:
            What MLM returns; and ``denoise`` and ``denoise_linear``, the squared errors of the embedding of one half,
            and of its linear part alone, to the axes of the other; in training also ``mlm``.

        Raises:
            ValueError: the backbone's embedding is no denoised one.
        """
        readout = require_denoiser(backbone)
        one, two = self.divide(batch)
        short = shorten(backbone, one)
        if self.training:
            masked, picked, targets = self.mask(short)
            hidden = backbone(masked)
            found = self.compare(backbone, hidden[picked], targets)
        else:
            found, hidden = super().forward(backbone, batch), backbone(short)
        wanted = readout.project(two, self.vocab)
        error = F.mse_loss(read_cells(backbone, hidden, short, self.vocab, one).float(), wanted)
        with torch.no_grad():
            linear = F.mse_loss(readout.project(one, self.vocab) @ readout.linear.float(), wanted)
        found |= {"denoise": error.detach(), "denoise_linear": linear}
        if not self.training:
            return found
        return found | {"loss": found["loss"] + self.denoise * error, "mlm": found["loss"].detach()}


def require_denoiser(backbone: Backbone) -> Denoiser:
    """The backbone's read-out.

    Raises:
        ValueError: it is no denoised one.
    """
    readout = getattr(backbone, "readout", None)
    if not isinstance(readout, Denoiser):
        raise ValueError(
            f"objective=mlm_denoise trains model.embedding_pool=denoised; this model has {backbone.embedding_pool!r}"
        )
    return readout
