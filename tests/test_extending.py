"""The examples of CONTRIBUTING.md run as they stand there, from a user's own folder."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import SMALL

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLE = re.compile(r"^`(my_parts/\S+)`\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that holds nothing but the files of the examples."""
    where = tmp_path_factory.mktemp("user")
    for name, text in EXAMPLE.findall((REPOSITORY / "CONTRIBUTING.md").read_text()):
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return where


def call(folder: Path, script: str, *overrides: str) -> str:
    done = subprocess.run(
        [sys.executable, REPOSITORY / script, "--config-dir", "my_parts/configs", "extensions=[my_parts]", *overrides],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_an_objective_and_a_head_of_ones_own(folder, made_store):
    small = (*SMALL, "trainer.max_steps=3", f"store={made_store}")
    call(folder, "train.py", "objective=top_gene", "output=pretrained", "metric=val/loss", *small)
    head = ("head=age", "head.label=age", "init_from=pretrained/checkpoints/last.ckpt", "metric=val/loss", "output=age")
    without_model = [part for part in small if not part.startswith("model.")]
    call(folder, "finetune.py", *head, "callbacks.best.mode=min", "callbacks.early_stopping.mode=min", *without_model)
    assert (folder / "age" / "checkpoints" / "best.ckpt").exists()


def test_a_tokenizer_of_ones_own(folder):
    from scfm.datasets.demo_cells import demo_file
    from scfm.store.token_store import TokenStore

    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "scfm-prepare", "--config-dir", "my_parts/configs"),
            *("extensions=[my_parts.detected]", "tokenizer=detected"),
            *(f"input={demo_file()}", "output=detected", "obs=[cell_type]"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    store = TokenStore.open(folder / "detected")
    assert store.tokenizer["kind"] == "detected"
    genes = store.gather([0]).values[1:-1].astype(int)
    assert (genes[1:] > genes[:-1]).all()


def test_a_part_that_is_not_named_is_not_run(folder, made_store):
    done = subprocess.run(
        [sys.executable, REPOSITORY / "train.py", "--config-dir", "my_parts/configs", "objective=top_gene"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert "objective._target_=my_parts.top_gene.TopGene is not allowed" in done.stderr
