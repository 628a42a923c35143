"""The logistic regression that a head's last layer begins and ends at, with a penalty for each block of its inputs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scfm.head.blocks import class_log_likelihood, is_gain, replace_scale
from scfm.head.logistic import Penalty, choose_penalty, fit_model, set_layer

log = logging.getLogger(__name__)


class BlockRegression(nn.Module):
    """Sets a linear layer, and remembers by which penalty.

    The penalty is chosen once, on the state of the pretrained backbone, and kept in the checkpoint: a fine-tuned
    backbone has seen the labels of the training cells, so that a cross-validation among them would believe it too much.

    Args:
        blocks: widths of the blocks of the inputs, the backbone's first.
        penalties: candidates, see :func:`scfm.head.logistic.choose_penalty`.

    Attributes:
        chosen: (2 + blocks,) C, balance and scales; NaN until chosen.
    """

    chosen: Tensor

    def __init__(self, blocks: Sequence[int], penalties: Sequence[Penalty]) -> None:
        super().__init__()
        self.blocks, self.penalties = tuple(blocks), tuple(penalties)
        self.register_buffer("chosen", torch.full((2 + len(self.blocks),), torch.nan))

    @property
    def penalty(self) -> Penalty | None:
        """What was chosen; None until then."""
        if self.chosen.isnan().any():
            return None
        c, balance, *scales = (round(value, 6) for value in self.chosen.tolist())
        return Penalty(c, balance, tuple(scales) if len(scales) > 1 else ())

    def regress(
        self,
        layer: nn.Linear,
        values: np.ndarray,
        codes: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        trained: np.ndarray | None = None,
    ) -> None:
        """Set a layer to the logistic regression of the labeled cells, unless these are of a single class.

        Args:
            layer: (D → C), whose weights are set.
            values: (n, D) its inputs.
            codes: (n,) class codes, -1 where missing.
            groups: (n,) donors or the like that stay together in folds; None for none.
            trained: (n,) bool: cells that the backbone was fine-tuned on. A backbone that was left out at first is
                used after all where that names the others better (:meth:`_readmit`). None: nothing is chosen again.
        """
        known = codes >= 0
        values, codes = values[known], codes[known]
        if len(np.unique(codes)) < 2:
            return
        penalty = self.penalty
        if penalty is None:
            penalty = choose_penalty(
                values, codes, self.penalties, self.blocks, None if groups is None else groups[known]
            )
            self._say(penalty)
        elif trained is not None:
            penalty = self._readmit(penalty, values, codes, trained[known])
        scales = penalty.scales or (1.0,) * len(self.blocks)
        self.chosen.copy_(torch.tensor([penalty.c, penalty.balance, *scales]))
        set_layer(layer, values, codes, replace(penalty, scales=scales), self.blocks)

    def _readmit(self, penalty: Penalty, values: np.ndarray, codes: np.ndarray, trained: np.ndarray) -> Penalty:
        """The penalty with the backbone, where a fine-tune has made it worth more than one standard error."""
        used = not penalty.scales or penalty.scales[0] > 0
        if used or len(np.unique(codes[trained])) < 2 or (~trained).sum() < 2:
            return penalty
        whole = replace(penalty, scales=replace_scale(penalty.scales, 0, 1.0))
        scores = []
        for one in (whole, penalty):
            model, columns = fit_model(values[trained], codes[trained], one, self.blocks)
            held = values[~trained][:, columns > 0] * columns[columns > 0]
            scores.append(class_log_likelihood(model.classes_, model.predict_proba(held), codes[~trained]))
        if not is_gain(scores[0] - scores[1]):
            return penalty
        log.info("The fine-tuned backbone is used: validation cells are named better with it.")
        return whole

    def _say(self, penalty: Penalty) -> None:
        if len(self.blocks) > 1 and penalty.scales and penalty.scales[0] == 0:
            log.info("The classifier begins without the backbone, which adds nothing to the components here.")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Checkpoints of before there were blocks have no entry."""
        state_dict.setdefault(f"{prefix}chosen", torch.full_like(self.chosen, torch.nan))
        super()._load_from_state_dict(state_dict, prefix, *args)
