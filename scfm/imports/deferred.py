"""Imports that a command does without: what they load takes longer than the command's own work."""

import importlib
import logging
import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

#: What Lightning takes of torchmetrics, and where it is.
_METRICS = {
    "Metric": "torchmetrics.metric",
    "MetricCollection": "torchmetrics.collections",
    "__version__": "torchmetrics.__about__",
}


def defer_torchmetrics() -> None:
    """Have ``import torchmetrics`` load nothing of it until more than Lightning's two classes is asked for.

    Lightning needs these as types alone, but the package loads all of its metrics, those of texts, sounds and pictures
    included: 1 to 2 seconds. For a command's own process; the package is whole as soon as anything else of it is used.
    """
    spec = None if "torchmetrics" in sys.modules else find_spec("torchmetrics")
    if spec is None or spec.loader is None:
        return
    package = module_from_spec(spec)
    package.__dict__["_logger"] = logging.getLogger("torchmetrics")  # which its modules ask for
    package.__dict__["__getattr__"] = lambda name: _load(package, name)
    sys.modules["torchmetrics"] = package


def _load(package: ModuleType, name: str) -> Any:
    """An attribute of the package: one of Lightning's, a module of it, or after the whole package is loaded."""
    if name in _METRICS:
        if name != "__version__":
            importlib.import_module("torchmetrics.utilities")  # goes first: the two import each other
        return getattr(importlib.import_module(_METRICS[name]), name)
    if name.startswith("__"):
        raise AttributeError(f"module 'torchmetrics' has no attribute {name!r}")
    if "__getattr__" in vars(package):
        del package.__dict__["__getattr__"]
        importlib.reload(package)
    return getattr(package, name)
