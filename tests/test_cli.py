"""The command lines as a user meets them: quick help, all misspellings at once, no traceback."""

import errno
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig

from scfm import cli

REPOSITORY = Path(__file__).resolve().parents[1]


def call(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    own = {**os.environ, "PYTHONPATH": str(cwd)} if (cwd / "scfm").is_dir() else None
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, env=own)


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


def test_four_misspelled_overrides_are_four_errors_in_one_message(tmp_path):
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


def test_a_misspelled_choice_lists_the_choices():
    done = call("train.py", "objective=arr")
    assert done.returncode == 1
    assert "mlm" in done.stderr
    assert "ar" in done.stderr


def test_a_folder_that_cannot_be_made_and_a_log_that_cannot_be_written_are_one_sentence(tmp_path):
    """Hydra makes both before the command runs."""
    (tmp_path / "file").touch()
    (tmp_path / "run" / "train-rank0.log").mkdir(parents=True)
    for output, said in (
        ("file/run", "Not a directory: 'file/run'"),
        ("run", "Is a directory: '.*run/train-rank0.log'"),
        ("${nothing}", "Interpolation key 'nothing' not found"),
    ):
        done = call(str(REPOSITORY / "train.py"), f"output={output}", cwd=tmp_path)
        assert done.returncode == 1
        assert re.search(said, done.stderr)
        assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 3


def test_it_runs_from_another_folder(tmp_path):
    assert call(str(REPOSITORY / "train.py"), "--cfg", "job", cwd=tmp_path).returncode == 0


def test_a_command_is_one_file_one_yaml_and_one_line(tmp_path):
    """A copy of the package with one more file and yaml has one more command; nothing else knows of it."""
    shutil.copytree(REPOSITORY / "scfm", tmp_path / "scfm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    (tmp_path / "scfm/commands/greet.py").write_text(
        'def run(cfg):\n    open(cfg.output, "w").write(f"hello {cfg.who}")\n'
    )
    (tmp_path / "configs/greet.yaml").write_text("who: ???\noutput: greeting.txt\nhydra: {run: {dir: .}}\n")
    entry = "import sys; sys.argv = ['scfm-greet', *sys.argv[1:]]; from scfm.cli import greet; greet()"
    done = call("-c", entry, "who=world", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "greeting.txt").read_text() == "hello world"
    done = call("-c", entry, "whom=world", cwd=tmp_path)
    assert done.returncode == 1
    assert "whom is unknown; did you mean 'who'?" in done.stdout + done.stderr


def test_every_command_has_its_file_yaml_and_line():
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    files = {path.stem for path in (REPOSITORY / "scfm/commands").glob("*.py")} - {"__init__"}
    assert scripts == {f"scfm-{name}": f"scfm.cli:{name}" for name in files}
    assert all((REPOSITORY / f"configs/{name}.yaml").is_file() for name in files)
    assert all(callable(getattr(cli, name)) for name in files)
    with pytest.raises(AttributeError, match="no command 'nothing'"):
        cli.nothing  # noqa: B018


@pytest.mark.parametrize(("command", "advice"), [("prepare", "The same command goes on"), ("train", "ckpt_path=last")])
def test_ctrl_c_ends_a_command_with_a_sentence(command, advice, tmp_path):
    code = f"""
import os, signal, threading
import scfm.commands.{command} as module
from scfm.cli import main
def run(cfg):
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(5)
module.run = run
main({command!r})
"""
    done = call("-c", code, "input=x", f"output={tmp_path / 'out'}") if command == "prepare" else call("-c", code)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Ctrl-C: stopped. ") and advice in done.stderr


def test_ctrl_c_while_the_command_line_is_read_is_a_sentence_too(monkeypatch, capsys):
    def stop(command):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_answer", stop)
    with pytest.raises(SystemExit) as ended:
        cli.main("embed")
    assert ended.value.code == 130
    assert capsys.readouterr().err == "Ctrl-C: stopped. The same command goes on after the parts that are finished.\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError('reading x needs tiledbsoma; pip install "scfm-framework[soma]"'), "reading x needs tiledbsoma"),
        (
            OSError(errno.EROFS, "Read-only file system", "x/.lock"),
            "x/.lock cannot be written: its file system is read",
        ),
        (OSError(errno.ENOSPC, "no space is left on the disk, x is not written"), "no space is left on the disk, x is"),
        (MemoryError("Unable to allocate 3.1 TiB"), "the memory is full (Unable to allocate 3.1 TiB)"),
        (
            type("UsageError", (Exception,), {"__module__": "wandb.errors"})("No API key"),
            "W&B: No API key; log in with",
        ),
    ],
)
def test_a_missing_package_and_a_full_memory_are_one_sentence(error, said, caplog):
    def fail():
        raise error

    with pytest.raises(SystemExit) as ended:
        cli._report_errors(fail)
    assert ended.value.code == 1
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage().startswith(said)
    assert record.exc_info is None


def test_other_errors_keep_their_traceback():
    def fail():
        raise RuntimeError("a fault of scfm's own")

    with pytest.raises(RuntimeError, match="own"):
        cli._report_errors(fail)


def test_paths_are_relative_to_where_the_command_was_typed(tmp_path, monkeypatch, caplog):
    """Also where Hydra was asked to change to the folder of the run."""
    seen = SimpleNamespace(job=SimpleNamespace(chdir=True), runtime=SimpleNamespace(cwd=str(tmp_path)))
    monkeypatch.setattr(HydraConfig, "get", lambda: seen)
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.chdir(REPOSITORY)
    cli._stay_where_typed()
    assert Path.cwd() == tmp_path
    assert "Hydra's chdir is not followed" in caplog.text
