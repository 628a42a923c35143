"""Without a store, the cells that come with the package, or made-up ones, are prepared once and used again."""

import logging

import pytest

from support import SMALL, command

TINY = (*(part for part in SMALL if "positions" not in part), "data.max_length=32", "trainer.max_steps=2")


@pytest.mark.parametrize(
    "cells", [("data=demo",), ("data=synthetic", "source.cells.n_cells=200", "source.cells.n_genes=300")]
)
def test_training_needs_no_store(cells, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for name in ("first", "second"):
        command("train", f"output={tmp_path / name}", *cells, *TINY)
        assert (tmp_path / name / "checkpoints" / "last.ckpt").exists()
    assert caplog.text.count("No store is given") == 1
    assert len(list((tmp_path / "stores").iterdir())) == 1
