"""Packages that only some evaluations need."""

import importlib
from typing import Any


def need(package: str, install: str) -> Any:
    """Import a package of an extra.

    Args:
        package: its import name.
        install: what pip is to be told.

    Returns:
        The module.

    Raises:
        ModuleNotFoundError: that says what to install.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"this needs {package}, which is not installed: pip install {install}") from error
