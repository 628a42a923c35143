"""Killed at random moments and started again: the same bytes."""

import json
import subprocess
import sys
from pathlib import Path

from scfm.datasets.synthetic import synthetic_cells
from scfm.preparation.workdir import WorkDir

KILLS = 22


def test_killed_at_random_moments(tmp_path):
    cells = synthetic_cells(n_cells=400, n_genes=150, seed=3)
    inputs = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    cells[:250].write_h5ad(inputs[0], compression="gzip")
    cells[230:].write_h5ad(inputs[1])  # 20 cells occur twice
    (tmp_path / "out").mkdir()
    command = [
        sys.executable,
        Path(__file__).with_name("killed.py"),
        *inputs,
        tmp_path / "out" / "store",
        str(KILLS),
        "0",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] >= KILLS
    assert len(told["finished"]) >= 2
    assert all(store == told["finished"][0] for store in told["finished"])
    assert told["left"] == ["store"]


def test_what_a_kill_left_half_written_does_not_stay(tmp_path):
    work = WorkDir(tmp_path / "store")
    with work.lock():
        work.begin({"inputs": []}, overwrite=False)
        (work.store / ".scfm.json.123.part").write_text("{")
        work.begin({"inputs": []}, overwrite=False)
        assert not list(work.store.iterdir())
