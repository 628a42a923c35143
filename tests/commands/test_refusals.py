"""What cannot work is refused in one sentence, before it costs anything."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ranks import environment
from support import SMALL

REPOSITORY = Path(__file__).resolve().parents[2]


def test_no_gpu(train, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="torch sees no GPU here"):
        train("trainer.accelerator=gpu")


def test_more_gpus_than_there_are(train, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"trainer.devices=8, but this machine has 2 GPU"):
        train("trainer.accelerator=gpu", "trainer.devices=8")


def test_no_bfloat16(train, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    with pytest.raises(ValueError, match="Tesla V100 has no bfloat16"):
        train("trainer.accelerator=gpu", "trainer.precision=bf16-mixed")


def test_a_strategy_whose_package_is_missing(train, monkeypatch):
    monkeypatch.setattr("scfm.strategy.deepspeed.find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"scfm-framework\[deepspeed\]"):
        train("strategy=deepspeed_zero2")


def test_deepspeed_does_not_save_in_the_background(train):
    with pytest.raises(ValueError, match="files.asynchronous=true works with single, ddp and fsdp2"):
        train("strategy=deepspeed_zero2", "files.asynchronous=true")


def test_a_step_of_fewer_micro_batches_than_devices(train):
    with pytest.raises(ValueError, match=r"do not divide over 4 processes; change data.tokens_per_batch"):
        train("strategy=deepspeed_zero3", "trainer.devices=4", "data.tokens_per_step=512")


class TestResumingFromAnother:
    def test_model(self, train):
        _, folder = train("trainer.max_steps=1")
        with pytest.raises(ValueError, match=r"another model: model.width=16 \(was 32\)"):
            train("trainer.max_steps=2", "model.width=16", f"ckpt_path={folder}/checkpoints/last.ckpt", output="other")

    def test_strategy(self, train, tmp_path):
        (tmp_path / "shards.ckpt").mkdir()
        with pytest.raises(
            ValueError,
            match=r"a folder of shards \(of an unknown strategy\), which the strategy of this run does not resume from",
        ):
            train("trainer.max_steps=2", f"ckpt_path={tmp_path}/shards.ckpt")


def sweep(*arguments: str, folder: Path, store: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, "train.py", "-m", f"store={store}", f"output={folder}", *SMALL, "trainer.max_steps=2",
            *arguments,
        ],
        cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip


def test_a_failed_trial_does_not_end_a_sweep(made_store, tmp_path):
    done = sweep("data.tokens_per_batch=256,10,128", folder=tmp_path, store=made_store)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Trial 1 failed: data.tokens_per_batch=10 is less than the longest cell" in done.stderr
    assert sorted(path.parents[1].name for path in tmp_path.rglob("last.ckpt")) == ["0", "2"]


def test_a_sweep_ends_in_a_table_with_the_best_on_top(made_store, tmp_path):
    done = sweep("data.tokens_per_batch=256,10", folder=tmp_path, store=made_store)
    assert done.returncode == 0
    lines = done.stderr[done.stderr.index("Trials by val/loss, best first:") :].splitlines()
    assert "data.tokens_per_batch=256" in lines[1]
    assert "data.tokens_per_batch=10 is less than the longest cell" in lines[2]


def test_a_sweep_whose_trials_all_failed_exits_1(made_store, tmp_path):
    done = sweep("data.tokens_per_batch=10,11", folder=tmp_path, store=made_store)
    assert done.returncode == 1
    assert "All 2 trials of the sweep failed." in done.stderr


def test_a_sweep_over_a_misspelled_key(made_store, tmp_path):
    done = sweep("optim.lrr=1,2", folder=tmp_path, store=made_store)
    assert done.returncode == 1
    assert done.stderr.count("did you mean 'lr'?") == 1
    assert "Traceback" not in done.stderr


def test_optuna_finds_its_way_around_a_failed_trial(made_store, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    done = sweep("+sweep=lr", "hydra.sweeper.n_trials=3", folder=tmp_path, store=made_store)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "optim.lr" in (tmp_path / "optimization_results.yaml").read_text()
