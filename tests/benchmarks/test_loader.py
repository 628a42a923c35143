"""The loader's benchmark runs, and every way of shuffling mixes the files."""

import re
import runpy
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "loader.py"


def test_the_files_are_mixed_as_by_a_true_shuffle(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["loader.py", "--cells", "20000", "--repeats", "1"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    ours = [line for line in capsys.readouterr().out.splitlines() if "data.shuffle=" in line]
    assert len(ours) == 3
    for line in ours:
        assert float(re.search(r"mixing ([\d.]+)%", line)[1]) >= 95
