import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "run.py"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="takes ten minutes on a GPU")
def test_runs_at_toy_size_and_says_so(tmp_path):
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path), "--minutes", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "NO GPU" in done.stdout
    assert "FAILED" not in done.stdout
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["toy"]
    assert len(found["rows"]) == 12
    assert all(row.get("tokens_per_s", 1) > 0 and "failed" not in row for row in found["rows"])
    assert [row["strategy"] for row in found["runs"]] == ["single", "deepspeed_zero2"]
    losses = [row["first_loss"] for row in found["runs"]]
    assert max(losses) - min(losses) < 1e-3
    assert (tmp_path / "profile.txt").stat().st_size > 0
