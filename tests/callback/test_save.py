"""When checkpoints are written, by steps and by a clock, and which are kept."""

import errno
import os
from types import SimpleNamespace

import pytest
import torch

from scfm.callback.save import adopt_best
from scfm.objective.mlm import MLM


@pytest.fixture
def clock(monkeypatch):
    """A clock by which every training step takes half a minute."""
    now, forward = [1000.0], MLM.forward

    def timed(self, backbone, batch):
        now[0] += 30.0 * self.training
        return forward(self, backbone, batch)

    monkeypatch.setattr(MLM, "forward", timed)
    monkeypatch.setattr("scfm.callback.save.time", SimpleNamespace(monotonic=lambda: now[0]))


def saved(folder) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


@pytest.mark.parametrize("keep_last", [1, 2, 5])
def test_every_two_minutes_and_the_last_ones_are_kept(train, clock, keep_last):
    folder = train(
        "trainer.max_steps=14", "callbacks.checkpoint.every_n_train_steps=null",
        "callbacks.checkpoint.every_n_minutes=2", f"callbacks.checkpoint.keep_last={keep_last}",
    )  # fmt: skip
    due = ["step-4.ckpt", "step-8.ckpt", "step-12.ckpt"]
    assert saved(folder) == {*due[-keep_last:], "last.ckpt"}


def test_steps_and_minutes_together(train, clock):
    """A save by steps sets the clock back: the next by minutes is two minutes after it."""
    folder = train(
        "trainer.max_steps=9", "callbacks.checkpoint.every_n_train_steps=3",
        "callbacks.checkpoint.every_n_minutes=2", "callbacks.checkpoint.keep_last=9",
    )  # fmt: skip
    assert saved(folder) == {"step-3.ckpt", "step-6.ckpt", "last.ckpt"}


def test_neither(train):
    folder = train("trainer.max_steps=5", "callbacks.checkpoint.every_n_train_steps=null")
    assert saved(folder) == {"last.ckpt"}


def test_a_clock_that_was_set_back_takes_no_new_checkpoint(train):
    """Files of the future are older than what a run writes now, whatever their times say."""
    options = ("callbacks.checkpoint.every_n_train_steps=2", "schedule=constant")
    folder = train("trainer.max_steps=6", *options)
    for path in (folder / "checkpoints").iterdir():
        os.utime(path, (4e9, 4e9))
    train("trainer.max_steps=12", *options, f"ckpt_path={folder}/checkpoints/last.ckpt")
    assert saved(folder) == {"step-8.ckpt", "step-10.ckpt", "last.ckpt"}


def test_none_to_keep(train):
    with pytest.raises(Exception, match="keep_last=0; at least 1 is needed to resume from"):
        train("trainer.max_steps=2", "callbacks.checkpoint.keep_last=0")


def test_a_full_disk_ends_the_run_in_a_sentence(train, monkeypatch, tmp_path):
    """No part of the checkpoint is left, the one before is named, and a resumed run begins there."""
    options = ("trainer.max_steps=6", "callbacks.checkpoint.every_n_train_steps=2")
    save, files = torch.save, []

    def full(state, file):
        files.append(file)
        save(state, file)
        if len(files) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    expected = r"no space is left on the disk, .*step-4.ckpt is not written; free some space, .*from .*step-2.ckpt with"
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match=expected):
            train(*options)
    assert saved(tmp_path / "run") == {"step-2.ckpt"}
    assert saved(train(*options, "ckpt_path=last")) == {"step-2.ckpt", "step-4.ckpt", "last.ckpt"}


def state_of_best(folder):
    """What Lightning stores of the best checkpoint of a run."""
    best = str(folder / "best.ckpt")
    state = {"dirpath": str(folder), "best_model_path": best, "kth_best_model_path": best, "last_model_path": ""}
    return {"callbacks": {"ModelCheckpoint": {**state, "best_k_models": {best: 0.5}, "best_model_score": 0.5}}}


@pytest.mark.parametrize("how", ["same", "copied", "elsewhere", "not there", "of a stranger"])
def test_a_run_in_another_folder_keeps_its_best_checkpoint_there(tmp_path, how, caplog):
    """The files of the run that was copied, or that a stranger's checkpoint names, are neither read nor changed."""
    before, now = tmp_path / "before", tmp_path / "now"
    before.mkdir()
    now.mkdir()
    (before / "best.ckpt").write_text("of the first run")
    if how == "copied":
        (now / "best.ckpt").write_text("a copy")
    folder = {"same": before, "of a stranger": tmp_path}.get(how, now)
    origin = {"elsewhere": before, "same": before}.get(how, now)
    checkpoint = state_of_best(before)
    adopt_best(checkpoint, folder, origin, first=True)
    (state,) = checkpoint["callbacks"].values()
    known = how in ("same", "copied", "elsewhere")
    expected = str(folder / "best.ckpt") if known else ""
    assert state["dirpath"] == str(folder)
    assert state["best_model_path"] == state["kth_best_model_path"] == expected
    assert state["best_k_models"] == ({expected: 0.5} if known else {})
    assert ("it is forgotten" in caplog.text) == (not known)
    assert (before / "best.ckpt").read_text() == "of the first run"
    if known:
        content = {"copied": "a copy"}.get(how, "of the first run")
        assert (folder / "best.ckpt").read_text() == content
