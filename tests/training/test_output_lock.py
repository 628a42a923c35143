"""One folder, one run: a second one is refused before it removes or writes anything."""

import os

import pytest

from scfm.checkpoint import read
from scfm.io import PART, hold
from scfm.training.start import LOCK
from support import SMALL, command


@pytest.fixture
def train(made_store, tmp_path):
    def run(*overrides: str):
        command("train", f"store={made_store}", f"output={tmp_path / 'run'}", *SMALL, "trainer.max_steps=2", *overrides)

    return run


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("wanted", ["overwrite=true", "ckpt_path=last", "ckpt_path=auto", "overwrite=false"])
def test_a_second_run_is_refused_and_changes_nothing(train, tmp_path, wanted):
    train()
    before = contents(tmp_path / "run")
    assert LOCK not in before
    expected = rf"another run is writing {tmp_path}/run \(process {os.getpid()} on .*\); wait for it, or stop it"
    with hold(tmp_path / "run" / LOCK, "it"):
        with pytest.raises(BlockingIOError, match=expected):
            train(wanted)
        assert {name: data for name, data in contents(tmp_path / "run").items() if name != LOCK} == before
    train("overwrite=true")


def test_the_lock_ends_with_a_run_that_fails(train, tmp_path):
    with pytest.raises(ValueError, match="keep_last=0"):
        train("callbacks.checkpoint.keep_last=0")
    train()


def test_other_ranks_take_no_lock(train, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with hold(tmp_path / "run" / LOCK, "it"):
        train("trainer.devices=1")


def test_what_a_killed_run_left_unfinished_is_removed(train, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    left = [tmp_path / "run" / f".metrics.csv.1{PART}", tmp_path / "run" / "checkpoints" / f".step-5.ckpt.1{PART}"]
    for path in left:
        path.write_text("")
    train("overwrite=true")
    assert not any(path.exists() for path in left)


def test_a_run_that_begins_anew_leaves_no_best_checkpoint_of_the_one_before(train, made_store, tmp_path):
    """Ended by a full disk before its first save, a run leaves a best.ckpt that would stand beside the right one."""
    train()
    kept = tmp_path / "fine" / "checkpoints"
    kept.mkdir(parents=True)
    (kept / "best.ckpt").write_text("of the run before")
    options = (part for part in SMALL if not part.startswith("model."))
    command(
        "finetune", f"init_from={tmp_path / 'run/checkpoints/last.ckpt'}", f"store={made_store}",
        f"output={tmp_path / 'fine'}", "head.label=cell_type", "trainer.max_steps=2", "validate_every=2",
        "ckpt_path=auto", "report=false", *options,
    )  # fmt: skip
    assert {path.name for path in kept.iterdir()} == {"best.ckpt", "last.ckpt"}
    assert read(kept / "best.ckpt").step == 2


def test_fine_tuning_and_embedding_too(train, made_store, tmp_path):
    train()
    begun = f"init_from={tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}"
    with hold(tmp_path / "fine" / LOCK, "it"), pytest.raises(BlockingIOError, match="another run is writing .*fine"):
        command("finetune", f"store={made_store}", begun, f"output={tmp_path / 'fine'}", "head.label=cell_type")
    with hold(tmp_path / ".out.h5ad.lock", "it"), pytest.raises(BlockingIOError, match="another run is .*out.h5ad"):
        command("embed", begun, "input=in.h5ad", f"output={tmp_path / 'out.h5ad'}")


def test_evaluating_too(tmp_path):
    with hold(tmp_path / ".report.lock", "it"), pytest.raises(BlockingIOError, match="another run is .*report"):
        command("evaluate", "input=in.h5ad", f"output={tmp_path / 'report'}")
    with pytest.raises(FileNotFoundError, match=r"in\.h5ad does not exist"):
        command("evaluate", "input=in.h5ad", f"output={tmp_path / 'report'}")
    assert not list(tmp_path.iterdir())
