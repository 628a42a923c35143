"""Ctrl-C and signals at any moment: the run saves, ends with exit code 75, and says how to go on."""

import json
import os
import pty
import signal

import pandas as pd
import pytest
import torch

from scfm import checkpoint
from scfm.callback.save import RESUME_ME, leave_terminal
from scfm.objective.mlm import MLM


@pytest.fixture
def send(monkeypatch):
    """``send(signals, after=3)``: at the next forward pass of training (or validation) after so many training steps."""
    forward = MLM.forward

    def at(*numbers, after, training=True):
        state = {"steps": 0, "left": list(numbers)}

        def watched(self, backbone, batch):
            if state["left"] and state["steps"] == after and self.training == training:
                os.kill(os.getpid(), state["left"].pop(0))
            else:
                state["steps"] += self.training
            return forward(self, backbone, batch)

        monkeypatch.setattr(MLM, "forward", watched)

    return at


def names(folder) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


def weights(folder):
    return checkpoint.read(folder / "checkpoints" / "last.ckpt").weights


OPTIONS = ("trainer.max_steps=6", "validate_every=4", "callbacks.checkpoint.every_n_train_steps=null")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_saves_at_the_end_of_the_step_and_resumes(train, send, number, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("scfm.callback.save.leave_terminal", lambda: None)  # the terminal of the tests stays
    send(number, after=2)
    with pytest.raises(SystemExit) as ended:
        train(*OPTIONS)
    assert ended.value.code == RESUME_ME
    assert names(tmp_path / "run") == {"step-3.ckpt"}
    assert f"{number.name}: saved" in caplog.text
    assert "Resume with ckpt_path=last" in caplog.text
    resumed, whole = train(*OPTIONS, "ckpt_path=last"), train(*OPTIONS, output="whole")
    first, second = weights(resumed), weights(whole)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_under_nohup_goes_on_when_its_terminal_closes(train, send):
    send(signal.SIGHUP, after=2)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert names(train(*OPTIONS)) == {"last.ckpt"}
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_bar_on_a_terminal_that_has_closed_ends_nothing():
    def draw(leaves):
        terminal, screen = pty.openpty()
        os.dup2(screen, 1)
        os.close(screen)
        os.close(terminal)
        if leaves:
            leave_terminal()
        os.write(1, b"step 3 of 6")

    statuses = []
    for leaves in (False, True):
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            try:
                draw(leaves)
            except OSError:
                os._exit(5)
            os._exit(0)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    assert statuses == [5, 0]


@pytest.mark.parametrize(("every", "expected"), [("2", "goes on from .*step-2.ckpt"), ("null", "Nothing is saved yet")])
def test_a_second_ctrl_c_ends_the_run_at_once(train, send, tmp_path, caplog, every, expected):
    options = ("data.tokens_per_step=512", "trainer.max_steps=6", f"callbacks.checkpoint.every_n_train_steps={every}")
    send(signal.SIGINT, signal.SIGINT, after=4)  # two micro-batches a step: both come within the third
    with pytest.raises(SystemExit) as ended:
        train(*options)
    assert ended.value.code == 1
    assert pd.Series([caplog.text]).str.contains(f"Ctrl-C: stopped at once. .*{expected}").all()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("steps", [4, 6])
def test_a_stop_in_the_last_validation(train, send, tmp_path, caplog, steps, number):
    """Within training (step 4) and after it (step 6): exit code 75, and the final metrics come when it is resumed."""
    options = (*OPTIONS, f"trainer.max_steps={steps}")
    send(number, after=steps, training=False)
    with pytest.raises(SystemExit) as ended:
        train(*options)
    assert ended.value.code == RESUME_ME
    assert names(tmp_path / "run") == {"last.ckpt"}
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert "ckpt_path=last computes the final metrics" in caplog.text
    folder = train(*options, "ckpt_path=last")
    assert json.loads((folder / "metrics.json").read_text())["val/loss"] > 0
