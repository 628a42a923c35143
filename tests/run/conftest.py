"""Commands run in this process on made-up cells."""

from pathlib import Path

import pytest
import torch

from support import SMALL, command


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def train(made_store: Path, tmp_path: Path):
    """Pretrain a tiny model: ``train("objective=ar", output="name")`` -> (value of the metric, output folder)."""

    def run(*overrides: str, output: str = "run"):
        folder = tmp_path / output
        found = command("train", f"store={made_store}", f"output={folder}", *SMALL, *overrides)
        return found, folder

    return run
