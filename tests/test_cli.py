"""The command lines as a user meets them: quick help, all misspellings at once, no traceback."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def call(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_cfg_job_answers_in_two_seconds():
    call("train.py", "--cfg", "job")  # bytecode and page cache
    began = time.perf_counter()
    done = call("train.py", "--cfg", "job", "objective=ar")
    assert time.perf_counter() - began < 2
    assert "scfm.objective.ar.AR" in done.stdout


@pytest.mark.parametrize("script", ["train.py", "finetune.py"])
def test_help(script):
    done = call(script, "--help")
    assert done.returncode == 0
    assert "objective" in done.stdout or "head" in done.stdout


def test_four_misspelt_overrides_are_four_errors_in_one_message(tmp_path):
    done = call(
        "train.py", "trainer.max_stepz=3", "optim.lrr=1", "modle=tiny", "data.worker=2", f"output={tmp_path / 'run'}"
    )
    assert done.returncode == 1
    assert "4 error(s)" in done.stderr
    for key, near in (("max_stepz", "max_steps"), ("optim.lrr", "lr"), ("modle", "model"), ("data.worker", "workers")):
        assert key in done.stderr
        assert f"did you mean '{near}'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_misspelt_choice_lists_the_choices():
    done = call("train.py", "objective=arr")
    assert done.returncode == 1
    assert "mlm" in done.stderr
    assert "ar" in done.stderr


def test_it_runs_from_another_folder(tmp_path):
    assert call(str(REPOSITORY / "train.py"), "--cfg", "job", cwd=tmp_path).returncode == 0
