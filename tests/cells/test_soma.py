"""A TileDB-SOMA experiment gives the blocks of the .h5ad.

TileDB is native code with threads of its own, and has died of a segmentation fault on a machine where nothing else
did: it gets a process of its own, so that it takes no other test with it.
"""

import subprocess
import sys
from pathlib import Path

import pytest


def test_soma():
    pytest.importorskip("tiledbsoma")
    cases = Path(__file__).with_name("soma.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(cases)]
    done = subprocess.run(command, cwd=cases.parents[2], capture_output=True, text=True, timeout=240)
    if done.returncode < 0:
        pytest.skip(f"TileDB died of signal {-done.returncode} on this machine:\n{done.stdout}{done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
