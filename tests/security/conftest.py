"""A sound checkpoint of a tiny model, and ways to make hostile ones of it."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support import SMALL, command

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def sound(made_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a pretrained tiny model."""
    folder = tmp_path_factory.mktemp("sound")
    command("train", f"store={made_store}", f"output={folder}", *SMALL, "trainer.max_steps=2")
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture
def forge(sound: Path, tmp_path: Path):
    """A checkpoint that ``change(state)`` has been applied to."""
    state = torch.load(sound, weights_only=True)

    def make(change, name: str = "hostile.ckpt") -> Path:
        forged = copy.deepcopy(state)
        change(forged)
        torch.save(forged, tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def apart():
    """Run Python code in a process of its own: (exit status, what it wrote)."""

    def run(code: str, *arguments: object, cwd: Path | None = None, seconds: float = 120) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=seconds,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        return done.returncode, done.stdout + done.stderr

    return run
