"""An analysis: its folder is whole or not there, its parts outlive an interruption, its manifest names its origin."""

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from scfm.analysis.base import Analysis, file_hash
from scfm.analysis.cells import draw_rows, read_cells
from scfm.analysis.result import Result
from scfm.datasets.synthetic import synthetic_cells
from scfm.inference.cell_input import Reading, open_input
from scfm.inference.model import load
from scfm.inference.options import Settings
from support import SMALL, command

CALLS: list[int] = []


@dataclass(frozen=True)
class Lengths(Analysis):
    """Tokens of each cell, in parts of 20 cells."""

    name: ClassVar[str] = "lengths"
    stop_after: int = 99
    seed: int = 0

    def compute(self, model, cells, work):
        read = read_cells(cells, np.arange(cells.cells.n_cells))
        lengths = []
        for part in range(3):
            if part >= Stop.after:
                raise KeyboardInterrupt
            lengths.append(work.part(f"part-{part}", lambda part=part: self._part(read, part))["length"])
        table = pd.DataFrame({"cell": read.obs.index[:60], "length": np.concatenate(lengths)})
        return Result("Lengths", ["It ran."], {"cells": table, "few": table.head(2)}, large=frozenset({"cells"}),
                      shown={"few": ["cell", "length"]}, coverage={"cells": len(read)})  # fmt: skip

    def _part(self, read, part):
        CALLS.append(part)
        return {"length": read.ranked.lengths[part * 20 : part * 20 + 20]}


class Stop:
    after = 99


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysis")
    cells = synthetic_cells(n_cells=60, n_genes=200, n_types=3, seed=1)
    cells.write_h5ad(folder / "cells.h5ad")
    command("prepare", f"input={folder / 'cells.h5ad'}", f"output={folder / 'store'}", "workers=1")
    command(
        "train",
        f"output={folder / 'pre'}",
        f"store={folder / 'store'}",
        *SMALL,
        "trainer.max_steps=2",
        "data.max_length=64",
    )
    return folder


@pytest.fixture(scope="module")
def model(made):
    return load(made / "pre/checkpoints/last.ckpt")


def test_the_folder_holds_tables_report_and_a_manifest(made, model, tmp_path):
    Lengths().analyse(model, made / "cells.h5ad", Settings(Reading()), output=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "cells.parquet", "few.csv", "manifest.json", "report.html",
    ]  # fmt: skip
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["checkpoint_sha256"] == file_hash(model.checkpoint.path)
    assert manifest["options"] == {"stop_after": 99, "seed": 0}
    assert manifest["coverage"] == {"cells": 60}
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
    with pytest.raises(FileExistsError, match="overwrite=true"):
        Lengths().analyse(model, made / "cells.h5ad", Settings(Reading()), output=tmp_path / "out")


def test_overwriting_takes_only_results_of_an_analysis(made, model, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").touch()
    settings = Settings(Reading())
    with pytest.raises(FileExistsError, match="which scfm did not write"):
        Lengths().analyse(model, made / "cells.h5ad", settings, output=tmp_path / "thesis", overwrite=True)
    for _ in range(2):
        Lengths().analyse(model, made / "cells.h5ad", settings, output=tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "thesis"]


def test_an_interrupted_run_goes_on_and_equals_a_whole_one(made, model, tmp_path, monkeypatch):
    whole = Lengths().analyse(model, made / "cells.h5ad", Settings(Reading()))
    monkeypatch.setattr(Stop, "after", 2)
    with pytest.raises(KeyboardInterrupt):
        Lengths().analyse(model, made / "cells.h5ad", Settings(Reading()), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(Stop, "after", 99)
    CALLS.clear()
    resumed = Lengths().analyse(model, made / "cells.h5ad", Settings(Reading()), output=tmp_path / "out")
    assert CALLS == [2]
    pd.testing.assert_frame_equal(resumed.tables["cells"], whole.tables["cells"])


def test_parts_of_other_options_are_not_taken(made, model, tmp_path, monkeypatch):
    monkeypatch.setattr(Stop, "after", 2)
    with pytest.raises(KeyboardInterrupt):
        Lengths().analyse(model, made / "cells.h5ad", Settings(Reading()), output=tmp_path / "out")
    monkeypatch.setattr(Stop, "after", 99)
    CALLS.clear()
    Lengths(seed=1).analyse(model, made / "cells.h5ad", Settings(Reading()), output=tmp_path / "out")
    assert CALLS == [0, 1, 2]


def test_cells_in_memory_are_those_that_the_model_reads(made, model):
    with open_input(made / "cells.h5ad", model.checkpoint, Reading(), keep_counts=True) as given:
        read = read_cells(given, np.array([3, 10, 59]), block_size=7)
        batches = list(given.batches(tokens=4096, block_size=60, part_size=60))
    for cell, row in enumerate([3, 10, 59]):
        batch = next(batch for batch in batches if row in batch.index)
        place = batch.index.tolist().index(row)
        low, high = batch.boundaries[place : place + 2].tolist()
        assert batch.ids[low + 1 : high - 1].tolist() == read.read_genes(cell).tolist()
        np.testing.assert_allclose(
            batch.counts[low + 1 : high - 1], read.counts[cell].toarray()[0][read.read_genes(cell)]
        )


def test_draws_take_donors_in_turn():
    rows, donors = np.arange(100, 120), ["a"] * 17 + ["b"] * 3
    drawn = draw_rows(rows, 8, donors, seed=0)
    assert (drawn >= 117).sum() == 3
    assert len(drawn) == 8
    assert (np.diff(drawn) > 0).all()
    assert draw_rows(rows, None, donors, seed=0).tolist() == rows.tolist()
