"""Names of cells do not depend on which rows were asked for before."""

import anndata as ad
import h5py
import numpy as np

from scfm.cells.formats.frame import Frame


def test_any_order_of_windows_gives_the_names_of_the_file(tmp_path):
    names = [f"cell-{i}" for i in range(50)]
    cells = ad.AnnData(np.ones((50, 2), dtype=np.float32))
    cells.obs_names = names
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad") as file:
        frame = Frame(file["obs"])
        for start, stop in [(10, 20), (12, 15), (10, 20), (15, 30), (0, 50), (49, 50), (7, 7), (0, 1), (30, 50)]:
            assert list(frame.rows(start, stop, []).index) == names[start:stop]
