"""What was called otherwise in earlier versions: targets and keys of stored configs, and keys that users still type.

A released format is read for ever: :func:`migrate_config` is the one place that knows the old names.
"""

from collections.abc import Mapping
from typing import Any

#: Old ``_target_`` -> its place today.
MOVED_TARGETS = {
    "scfm.data.quality.Quality": "scfm.cells.quality.Quality",
    "scfm.data.options.Genes": "scfm.preparation.options.Genes",
    "scfm.data.pool.Local": "scfm.preparation.executors.Local",
    "scfm.data.pool.Dask": "scfm.preparation.executors.Dask",
    "scfm.run.source.Source": "scfm.training.demo_store.Source",
    "scfm.data.demo.demo_file": "scfm.datasets.demo.demo_file",
    "scfm.data.mix.open_mix": "scfm.store.mix.open_mix",
    "scfm.data.synthetic.synthetic_file": "scfm.datasets.synthetic.synthetic_file",
    "scfm.strategy.files.SafeFiles": "scfm.strategy.checkpoint_io.SafeFiles",
}


def migrate_config(value: Any) -> Any:
    """A stored config under today's names; the argument is not changed.

    Args:
        value: plain values, at any depth.
    """
    if isinstance(value, Mapping):
        moved = {key: migrate_config(item) for key, item in value.items()}
        if isinstance(moved.get("_target_"), str):
            moved["_target_"] = MOVED_TARGETS.get(moved["_target_"], moved["_target_"])
        return moved
    if isinstance(value, list):
        return [migrate_config(item) for item in value]
    return value
