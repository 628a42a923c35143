"""Names of earlier versions: targets and keys of stored configs, keys that users still type, and names of weights.

A released format is read for ever. The tables of this module are the one place that knows the old names.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

log = logging.getLogger(__name__)

#: Old ``_target_`` -> its place today.
MOVED_TARGETS = {
    "scfm.data.quality.Quality": "scfm.cells.quality.Quality",
    "scfm.data.options.Genes": "scfm.preparation.options.Genes",
    "scfm.data.pool.Local": "scfm.preparation.executors.Local",
    "scfm.data.pool.Dask": "scfm.preparation.executors.Dask",
    "scfm.run.source.Source": "scfm.training.demo_store.Source",
    "scfm.data.demo.demo_file": "scfm.datasets.demo_cells.demo_file",
    "scfm.data.mix.open_mix": "scfm.store.mix.open_mix",
    "scfm.data.synthetic.synthetic_file": "scfm.datasets.synthetic.synthetic_file",
    "scfm.strategy.files.SafeFiles": "scfm.strategy.checkpoint_io.SafeFiles",
    "scfm.callback.consolidate.Consolidate": "scfm.callback.head_update.Consolidate",
    "scfm.callback.table.MetricsTable": "scfm.callback.metrics_table.MetricsTable",
}

_STATE = {"genes": "gene_components", "context": "max_tokens"}
_SHARED = {"size": "width", "genes": "gene_components", "longest": "max_tokens"}
_CONTRASTIVE = {
    **_SHARED,
    "stay": "neighbor_weight",
    "drop": "view.drop",
    "jitter": "view.jitter",
    "context": "view.min_share",
    "thin": "view.min_depth",
}
_NEIGHBORS = {"neighbours": "neighbors"}

#: Target -> old key -> its key today, where a dot leads into a node below.
RENAMED_KEYS: dict[str, dict[str, str]] = {
    "scfm.head.annotation.classifier.Classifier": _STATE,
    "scfm.head.annotation.prototype.Prototype": {**_STATE, "dim": "width"},
    "scfm.head.integration.adversarial.Adversarial": _CONTRASTIVE,
    "scfm.head.integration.batch_token.BatchToken": _CONTRASTIVE,
    "scfm.head.integration.batch_token_prototype.BatchTokenPrototype": _CONTRASTIVE,
    "scfm.head.integration.cond_decoder.CondDecoder": _SHARED,
    "scfm.head.integration.contrastive_sampler.ContrastiveSampler": {**_CONTRASTIVE, **_NEIGHBORS},
    "scfm.head.integration.distill.Distill": _CONTRASTIVE,
    "scfm.head.integration.triplet.Triplet": {
        **_SHARED,
        **_NEIGHBORS,
        "stay": "neighbor_weight",
        "meet": "offset_weight",
        "within": "own_batch_share",
    },
    "scfm.head.trajectory.ordinal.Ordinal": _STATE,
    "scfm.head.trajectory.pseudotime.Pseudotime": {**_STATE, **_NEIGHBORS},
    "scfm.head.trajectory.time.Time": _STATE,
    "scfm.head.visualization.parametric_umap.ParametricUMAP": {"genes": "gene_components", **_NEIGHBORS},
}

#: The target of a node below that the first version did not have, by the key of the node.
NEW_NODES = {"view": "scfm.head.views.ViewOptions"}

#: Patterns in the names of a head's weights -> what stands there today.
RENAMED_WEIGHTS = {
    r"^task\.(state\.)?bag\.rows$": r"task.\1components.loadings",
    r"^task\.(state\.)?bag\.centre$": r"task.\1components.center",
    r"^(task\..*\b)centre(s?)$": r"\1center\2",
}


def migrate_config(value: Any) -> Any:
    """A stored config under today's names; the argument is not changed.

    Args:
        value: plain values, at any depth.
    """
    if isinstance(value, list):
        return [migrate_config(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    node = {key: migrate_config(item) for key, item in value.items()}
    target = node.get("_target_")
    if isinstance(target, str):
        node["_target_"] = target = MOVED_TARGETS.get(target, target)
        for old, new in RENAMED_KEYS.get(target, {}).items():
            if old in node:
                _set(node, new, node.pop(old))
    return node


def _set(node: dict[str, Any], path: str, value: Any) -> None:
    """Set a key of a node, or of the node below that the path names."""
    *above, key = path.split(".")
    for name in above:
        node = node.setdefault(name, {"_target_": NEW_NODES[name]})
    node[key] = value


def accept_old_keys(cfg: DictConfig) -> None:
    """Give the values of old keys that a user typed to today's keys, with a warning for each.

    Args:
        cfg: the composed config of a command, changed in place.
    """
    with open_dict(cfg):
        for path, node in _nodes(OmegaConf.to_container(cfg, resolve=False), ""):
            for old, new in RENAMED_KEYS.get(node["_target_"], {}).items():
                if old in node:
                    log.warning("%s.%s is now called %s.%s; the old name still works", path, old, path, new)
                    for below in new.split(".")[:-1]:
                        if OmegaConf.select(cfg, f"{path}.{below}") is None:
                            OmegaConf.update(cfg, f"{path}.{below}", {"_target_": NEW_NODES[below]})
                    OmegaConf.update(cfg, f"{path}.{new}", node[old])
                    del OmegaConf.select(cfg, path)[old]


class OldSweptKeys(Callback):
    """Renames old keys among ``hydra.sweeper.params`` of a user's yaml; ``configs/base.yaml`` has Hydra call it.

    Keys that are typed reach :func:`accept_old_keys` in each trial; those of the sweeper are checked by Hydra before.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Rename them before the sweeper reads them.

        Args:
            config: with the node ``hydra``, changed in place.
        """
        params = OmegaConf.select(config, "hydra.sweeper.params")
        if not OmegaConf.is_config(params):
            return
        with open_dict(params):
            for swept in [str(key) for key in params]:
                place, dot, old = swept.lstrip("+").rpartition(".")
                head = OmegaConf.select(config, f"{place}._target_") if dot else None
                today = RENAMED_KEYS.get(str(head), {}).get(old)
                if today is not None:
                    log.warning("%s.%s is now called %s.%s; the old name still works", place, old, place, today)
                    params.update({f"{place}.{today}": params.pop(swept)})


def _nodes(value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every node with a target, and its path."""
    if isinstance(value, Mapping):
        if isinstance(value.get("_target_"), str):
            yield path, value
        for key, item in value.items():
            yield from _nodes(item, f"{path}.{key}" if path else str(key))


def migrate_weights(weights: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Weights of a checkpoint under today's names.

    Args:
        weights: tensors by name; names of the head's begin with ``task.``.
        config: the stored config. Where its head is not one of scfm's, names are left as they are.
    """
    if not str((config.get("head") or {}).get("_target_")).startswith("scfm.head."):
        return dict(weights)
    return {_today(name): value for name, value in weights.items()}


def _today(name: str) -> str:
    for pattern, today in RENAMED_WEIGHTS.items():
        name = re.sub(pattern, today, name)
    return name
