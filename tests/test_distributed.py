"""Runs of two ranks in trouble: one signaled rank, a rank that dies or stalls. Launchers are in test_launch.py."""

import signal
import time
from pathlib import Path

import pytest

from ranks import start_ranks
from scfm.callback.save import RESUME_ME

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(200)]
TESTS = Path(__file__).resolve().parent
COMMON = ("data.tokens_per_step=512", "strategy=ddp", "trainer.devices=2", "callbacks.watch.sign_of_life=0.5")


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_until_it_trains(folder: Path, processes, seconds: float = 100) -> None:
    until = time.monotonic() + seconds
    while lines(folder / "cells-0.jsonl") < 5 or lines(folder / "cells-1.jsonl") < 5:
        dead = [process for process in processes if process.poll() is not None]
        assert not dead, dead[0].communicate()[0][-3000:]
        assert time.monotonic() < until, "the run does not begin"
        time.sleep(0.05)


@pytest.fixture
def begin(made_store, tmp_path):
    """Two ranks that train until they are stopped."""
    begun = []

    def start(*overrides: str):
        processes = start_ranks(
            TESTS / "stoppable.py", made_store, tmp_path, *COMMON, "trainer.max_steps=100000", *overrides
        )
        begun.extend(processes)
        wait_until_it_trains(tmp_path, processes)
        return processes

    yield start
    for process in begun:
        process.kill()


def test_one_signaled_rank_is_enough(begin, tmp_path):
    first, second = begin("callbacks.checkpoint.every_n_train_steps=null")
    second.send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [RESUME_ME, RESUME_ME], said
    (saved,) = (tmp_path / "checkpoints").glob("step-*.ckpt")
    assert lines(tmp_path / "cells-0.jsonl") == lines(tmp_path / "cells-1.jsonl")
    assert saved.stat().st_size > 0


def test_a_dead_rank_is_named(begin):
    first, second = begin()
    second.kill()
    said = first.communicate(timeout=60)[0]
    assert first.returncode not in (0, RESUME_ME)
    assert "rank 1 is silent" in said


def test_a_stalled_rank_is_named_in_bounded_time(begin):
    """Its machine hangs: it is there, and says nothing."""
    first, second = begin("callbacks.watch.minutes=0.08")
    second.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    said = first.communicate(timeout=60)[0]
    assert time.monotonic() - began < 30
    assert first.returncode == 70
    assert "No progress for" in said
    assert "rank 1 is silent" in said
