import pytest
import torch

from support import SMALL, command


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def train(made_store, tmp_path):
    def run(*overrides: str, output: str = "run"):
        folder = tmp_path / output
        command(
            "train", f"store={made_store}", f"output={folder}", *SMALL, "trainer.log_every_n_steps=1",
            "schedule=constant", *overrides,
        )  # fmt: skip
        return folder

    return run
