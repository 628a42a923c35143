"""Cell embeddings read from another layer, or pooled in another way, than the model's own rule."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from scfm.checkpoint import Checkpoint
from scfm.head.base import Head
from scfm.model.pooling import check_rule
from scfm.module import CellModule

log = logging.getLogger(__name__)

#: Poolings by weights of the model's own, and where these lie in a checkpoint.
WITH_WEIGHTS = ("weighted", "denoised")
_READOUT = "backbone.readout."


@dataclass(frozen=True)
class EmbeddingRule:
    """What a user wants of the rule by which a model embeds cells.

    Attributes:
        layer: index into [input embeddings, layer 1, ..., layer n], -1 the last; None: the model's own.
        pool: ``mean``, ``all``, ``cls`` or ``first``, see :func:`scfm.model.pooling.pool`; None: the model's own.
    """

    layer: int | None = None
    pool: str | None = None

    @property
    def is_own(self) -> bool:
        """Whether nothing is asked for."""
        return self.layer is None and self.pool is None

    @contextmanager
    def applied(self, module: CellModule) -> Iterator[CellModule]:
        """The module with its backbone under this rule, for as long as this lasts.

        A head was trained on the rule of its checkpoint, so it is left out where the rule is another.

        Raises:
            ValueError: the model has no such layer, no token ``<cls>``, or no weights to pool by.
        """
        if self.is_own:
            yield module
            return
        backbone = module.backbone
        before: dict[str, Any] = {
            name: getattr(backbone, name, None) for name in ("embedding_layer", "embedding_pool", "readout")
        }
        layer: int = before["embedding_layer"] if self.layer is None else self.layer
        pool: str = before["embedding_pool"] if self.pool is None else self.pool
        check_rule(layer, pool, backbone.n_layers)
        if pool == "cls":
            module.spec.vocab.special("cls")
        if pool in WITH_WEIGHTS and pool != before["embedding_pool"]:
            raise ValueError(
                f"embedding_pool={pool} needs a model that was made with it; this one pools by "
                f"{before['embedding_pool']}: take mean, all, cls or first"
            )
        if module.task.hooks:
            log.warning("The head was trained on another embedding than this one: it is left out.")
        readout = before["readout"] if pool in WITH_WEIGHTS else None
        try:
            _set(backbone, {"embedding_layer": layer, "embedding_pool": pool, "readout": readout})
            yield CellModule(backbone, Head(), module.spec, {}).eval().to(module.device)
        finally:
            _set(backbone, before)


def _set(backbone: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        setattr(backbone, name, value)


def reread(checkpoint: Checkpoint, rule: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint whose model embeds by another rule, to be compared with an embedding that was made by it.

    Args:
        checkpoint: any.
        rule: ``embedding_layer`` and ``embedding_pool``, as a record of an embedding or a model's config has them;
            what is missing stays.
    """
    keys = {"embedding_layer": int, "embedding_pool": str}
    before = checkpoint.config["model"]
    model = {**before, **{key: plain(rule[key]) for key, plain in keys.items() if rule.get(key) is not None}}
    if all(model.get(key) == before.get(key) for key in keys):
        return checkpoint
    weights = checkpoint.weights
    if model.get("embedding_pool") not in WITH_WEIGHTS:
        weights = {name: value for name, value in weights.items() if not name.startswith(_READOUT)}
    return replace(checkpoint, config={**checkpoint.config, "model": model}, weights=weights)
