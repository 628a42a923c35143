"""scfm: rank-token transformers for single cells.

``load``, ``prepare``, ``open_store``, ``train``, ``finetune`` and ``evaluate`` are the Python API
(:mod:`scfm.api`); they are imported when they are first used, so that ``import scfm`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scfm.imports.numba_cache import choose_folder

__version__ = "0.2.0"

if TYPE_CHECKING:
    from scfm.api import Model, TokenStore, evaluate, finetune, load, open_store, prepare, train

choose_folder()  # before numba is imported

__all__ = ["Model", "TokenStore", "__version__", "evaluate", "finetune", "load", "open_store", "prepare", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("scfm.api"), name)
    raise AttributeError(f"module 'scfm' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")


def __dir__() -> list[str]:
    return sorted(__all__)
