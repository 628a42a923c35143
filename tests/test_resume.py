"""A run killed at any moment and resumed is bit by bit the run that was left alone."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
import zipfile
from multiprocessing import forkserver
from pathlib import Path

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

import stoppable
from ranks import environment, finish, start_ranks
from scfm import checkpoint
from scfm.callback.save import RESUME_ME
from scfm.strategy.sharded import atomic_folder
from scfm.training.resume import find_damage, newest_whole, resume_path
from support import write_made_store

STEPS = 240
COMMON = (
    f"trainer.max_steps={STEPS}",
    "trainer.log_every_n_steps=1",
    "model.dropout=0.1",
    "schedule.warmup=5",
    "data.tokens_per_step=512",
    "validate_every=7",
    "callbacks.checkpoint.every_n_train_steps=5",
)


@pytest.fixture(scope="module")
def processes():
    """Processes forked from one that has imported everything; it finds the tests' modules by PYTHONPATH alone."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stoppable"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return context


@pytest.fixture(scope="module")
def whole(made_store, tmp_path_factory):
    """The run that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    stoppable.run(str(made_store), str(folder), *COMMON)
    return folder


def losses(folder) -> pd.Series:
    table = pd.read_csv(folder / "metrics.csv")
    return table[["step", "train/loss"]].dropna().set_index("step")["train/loss"]


def cells(folder) -> dict[int, set[int]]:
    """The cells of every optimizer step; a step that a killed run repeated counts as it was last done."""
    seen: dict[int, dict[tuple[int, ...], None]] = {}
    for path in sorted(folder.glob("cells-*.jsonl")):
        for line in path.read_text().splitlines():
            step, _, index = json.loads(line)
            seen.setdefault(step, {})[tuple(index)] = None
    return {step: {cell for batch in batches for cell in batch} for step, batches in seen.items()}


def weights(folder):
    return checkpoint.read(folder / "checkpoints" / "last.ckpt").weights


def test_killed_at_twenty_random_moments(whole, made_store, processes, tmp_path):
    draw, stops, ended = random.Random(0), 0, None
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1]
    while ended != 0:
        worker = processes.Process(
            target=stoppable.run_quietly, args=(str(made_store), str(tmp_path), *COMMON, "ckpt_path=auto")
        )
        seen = len(_lines(tmp_path))
        worker.start()
        until = time.monotonic() + 60
        wanted = draw.randint(1, 2 * STEPS // 12)
        while worker.is_alive() and len(_lines(tmp_path)) < seen + wanted and time.monotonic() < until:
            time.sleep(0.01)
        number = signals[stops % 3]
        if worker.is_alive() and stops < 20:
            time.sleep(draw.random() * 0.02)
            os.kill(worker.pid, number)
        worker.join(60)
        ended = worker.exitcode
        if ended == 0:
            break
        expected = -signal.SIGKILL if number == signal.SIGKILL else RESUME_ME
        assert ended == expected, (tmp_path / "said.txt").read_text()[-3000:]
        stops += 1
    assert stops >= 20
    assert "Resume with ckpt_path=last" in (tmp_path / "said.txt").read_text()
    found, expected = losses(tmp_path), losses(whole)
    # SIGKILL between a checkpoint and the next line of metrics.csv may cost that line
    assert len(found) >= len(expected) - 7
    pd.testing.assert_series_equal(found, expected.loc[found.index], check_exact=True)
    assert cells(tmp_path) == cells(whole)
    first, second = weights(whole), weights(tmp_path)
    assert all(torch.equal(first[name], second[name]) for name in first)


def _lines(folder) -> list[str]:
    path = folder / "cells-0.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def test_a_copy_whose_times_changed_is_said(whole, tmp_path, caplog):
    shutil.copytree(whole / "checkpoints", tmp_path, dirs_exist_ok=True)
    (tmp_path / "last.ckpt").unlink()
    earlier, later = sorted(tmp_path.iterdir(), key=lambda path: int(path.stem.removeprefix("step-")))
    assert newest_whole(tmp_path) == later
    assert not caplog.text
    os.utime(later, (1e9, 1e9))
    assert newest_whole(tmp_path) == earlier
    assert f"{later} holds more steps than {earlier.name}" in caplog.text
    assert f"give ckpt_path={later}" in caplog.text


class TestTorn:
    def test_a_torn_checkpoint_is_passed_over_and_named(self, whole, made_store, tmp_path, processes, caplog):
        folder = tmp_path / "checkpoints"
        shutil.copytree(whole / "checkpoints", folder)
        newest = max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        before = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)[-2]
        for damage in (_cut, _flip):
            shutil.copy2(whole / "checkpoints" / newest.name, newest)
            damage(newest)
            assert find_damage(newest) is not None
            caplog.clear()
            assert newest_whole(folder) == before
            assert newest.name in caplog.text
            assert "damaged" in caplog.text

    def test_none_is_whole(self, whole, tmp_path):
        shutil.copytree(whole / "checkpoints", tmp_path / "checkpoints")
        for path in (tmp_path / "checkpoints").glob("*.ckpt"):
            _cut(path)
        with pytest.raises(FileNotFoundError, match="no whole checkpoint"):
            resume_path("last", tmp_path)
        assert resume_path("auto", tmp_path) is None

    def test_a_folder_that_lacks_a_shard(self, tmp_path):
        final = tmp_path / "step-1.ckpt"
        with atomic_folder(final, first=True, barrier=lambda: None) as aside:
            (aside / "shard0").write_bytes(b"12345")
            (aside / "shard1").write_bytes(b"67890")
            assert not final.exists()
        assert find_damage(final) is None
        (final / "shard1").write_bytes(b"6")
        assert "shard1" in find_damage(final)


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path):
    """One byte in the middle of the largest tensor: the padding between tensors is covered by no checksum."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        inside = archive.read(largest)
    content = bytearray(path.read_bytes())
    content[content.index(inside) + len(inside) // 2] ^= 0xFF
    path.write_bytes(content)


def test_keep_last(whole):
    names = {path.name for path in (whole / "checkpoints").glob("step-*.ckpt")}
    assert names == {f"step-{STEPS - 5}.ckpt", f"step-{STEPS - 10}.ckpt"}


def test_other_micro_batches_are_refused(whole, made_store, tmp_path):
    with pytest.raises(ValueError, match=r"micro-batches, now it has .*data.tokens_per_batch"):
        stoppable.run(
            str(made_store), str(tmp_path), *COMMON, "data.tokens_per_batch=128", "data.tokens_per_step=512",
            f"ckpt_path={whole}/checkpoints/last.ckpt",
        )  # fmt: skip


def test_saving_in_the_background_writes_the_same(made_store, tmp_path, whole):
    options = ("trainer.max_steps=10", "files.asynchronous=true", "callbacks.checkpoint.every_n_train_steps=5")
    stoppable.run(str(made_store), str(tmp_path), *COMMON, *options, "schedule=constant")
    found = [checkpoint.read(path) for path in sorted((tmp_path / "checkpoints").glob("*.ckpt"))]
    assert {read.step for read in found} == {5, 10}
    stoppable.run(
        str(made_store), str(tmp_path / "at_once"), *COMMON, *options, "schedule=constant", "files.asynchronous=false"
    )
    first, second = weights(tmp_path), weights(tmp_path / "at_once")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", [(), ("strategy=fsdp2", "strategy.sharded_checkpoint=true")])
def test_killed_while_it_saves_in_the_background(made_store, tmp_path, strategy):
    """The checkpoint before stays the last good one, and resuming from it gives the run that was left alone."""
    options = (
        *COMMON, *strategy, "trainer.max_steps=12", "schedule=constant", "files.asynchronous=true", "validate_every=12",
    )  # fmt: skip
    script = Path(stoppable.__file__)
    (process,) = start_ranks(script, "--die", made_store, tmp_path, *options, world=1)
    said = process.communicate(timeout=100)[0]
    assert process.returncode == -signal.SIGKILL, said
    folder = tmp_path / "checkpoints"
    assert len(list(folder.glob(".step-10.ckpt*.part"))) == 1
    assert {path.name for path in folder.glob("[!.]*")} == {"step-5.ckpt"}
    assert newest_whole(folder) == folder / "step-5.ckpt"
    finish(start_ranks(script, made_store, tmp_path, *options, "ckpt_path=last", world=1))
    assert {path.name for path in folder.iterdir()} == {"step-5.ckpt", "step-10.ckpt", "last.ckpt"}
    stoppable.run(str(made_store), str(tmp_path / "alone"), *COMMON, "trainer.max_steps=12", "schedule=constant")
    first, second = weights(tmp_path), weights(tmp_path / "alone")
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 2e-6


def test_a_finished_run_goes_on_where_it_ended(made_store, tmp_path):
    """Eight steps are two whole epochs: the very end of an epoch is a place like any other."""
    for name, ends in {"once": (12,), "twice": (8, 12)}.items():
        for end in ends:
            stoppable.run(
                str(made_store), str(tmp_path / name), *stoppable.CHANGING, f"trainer.max_steps={end}", "ckpt_path=auto"
            )
    assert cells(tmp_path / "once") == cells(tmp_path / "twice")
    first, second = weights(tmp_path / "once"), weights(tmp_path / "twice")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def begun(made_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("begun")
    stoppable.run(str(made_store), str(folder), *COMMON, "trainer.max_steps=6", "schedule=constant")
    return folder


def _resumed(begun, folder, store, *options):
    shutil.copytree(begun, folder)
    stoppable.run(str(store), str(folder), *COMMON, "schedule=constant", "ckpt_path=last", *options)
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


def test_a_resumed_run_takes_the_rate_the_schedule_and_the_length_of_its_command(begun, made_store, tmp_path):
    found = _resumed(
        begun, tmp_path / "run", made_store, "trainer.max_steps=9", "optim.lr=1e-5", "schedule.warmup=0",
    )  # fmt: skip
    assert found["global_step"] == 9
    groups = found["optimizer_states"][0]["param_groups"]
    assert all(group["initial_lr"] == group["lr"] == pytest.approx(1e-5) for group in groups)
    record = OmegaConf.load(tmp_path / "run/config.yaml")
    assert record.optim.lr == 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("objective.mask_fraction=0.3",), r"objective.mask_fraction=0.15, now 0.3"),
        (("optim=muon",), r"optim._target_=.*AdamW, now .*Muon"),
        (("objective=ar",), r"objective._target_=scfm.objective.mlm.MLM, now scfm.objective.ar.AR"),
    ],
)
def test_another_objective_or_optimizer_is_refused_and_the_record_stays(begun, made_store, tmp_path, options, message):
    before = (begun / "config.yaml").read_bytes()
    with pytest.raises(ValueError, match=message):
        _resumed(begun, tmp_path / "run", made_store, "trainer.max_steps=9", *options)
    assert (tmp_path / "run/config.yaml").read_bytes() == before


def test_options_that_came_after_the_run_began(begun, made_store, tmp_path):
    """What the stored config does not say had the default of its class: the same is no change, another is one."""
    old = tmp_path / "old"
    shutil.copytree(begun, old)
    path = old / "checkpoints/last.ckpt"
    state = torch.load(path, weights_only=True)
    del state["scfm"]["config"]["model"]["embedding_value"], state["scfm"]["config"]["objective"]["mask_fraction"]
    torch.save(state, path)
    assert _resumed(old, tmp_path / "same", made_store, "trainer.max_steps=7")["global_step"] == 7
    with pytest.raises(ValueError, match=r"model.embedding_value=rank \(was counts\)"):
        _resumed(old, tmp_path / "model", made_store, "trainer.max_steps=7", "model.embedding_value=rank")
    with pytest.raises(ValueError, match=r"mask_fraction=0.15, now 0.3: .*; give objective.mask_fraction=0.15, or"):
        _resumed(old, tmp_path / "objective", made_store, "trainer.max_steps=7", "objective.mask_fraction=0.3")


def test_another_store_of_as_many_batches_is_refused(begun, tmp_path):
    other = write_made_store(tmp_path / "other", seed=1).path
    with pytest.raises(ValueError, match=r"was trained on the cells .* a run is resumed on its own store"):
        _resumed(begun, tmp_path / "run", other, "trainer.max_steps=9")


def test_that_nothing_was_left_to_do_is_said(begun, made_store, tmp_path, caplog):
    _resumed(begun, tmp_path / "run", made_store, "trainer.max_steps=6")
    assert "Nothing was left to train: the run has done all of its 6 steps" in caplog.text
