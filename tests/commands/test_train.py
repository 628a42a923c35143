"""Pretraining learns, describes itself, resumes bit by bit, and refuses bad input before it starts."""

import json

import pandas as pd
import pytest
import torch

from scfm import checkpoint
from support import command, write_made_store


def losses(folder):
    table = pd.read_csv(folder / "metrics.csv")
    return table[["step", "train/loss"]].dropna().set_index("step")["train/loss"]


@pytest.mark.parametrize("objective", ["mlm", "ar"])
def test_it_learns_more_than_gene_frequencies(train, objective):
    loss, folder = train(
        f"objective={objective}", "trainer.max_steps=150", "optim.lr=3e-3", "trainer.precision=32-true"
    )
    found = json.loads((folder / "metrics.json").read_text())
    assert loss == found["val/loss"] < found["val/unigram_loss"]
    assert found["val/top10"] > found["val/top1"] > 0
    assert (folder / "curves.png").stat().st_size > 1000
    assert (folder / "config.yaml").exists()


@pytest.mark.parametrize("objective", ["mlm", "ar"])
def test_the_first_loss_is_that_of_a_uniform_guess(train, objective):
    _, folder = train(f"objective={objective}", "start=random", "trainer.max_steps=1", "trainer.log_every_n_steps=1")
    assert losses(folder).iloc[0] == pytest.approx(torch.tensor(44.0).log().item(), abs=0.15)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [3, 17])
def test_resume_is_bitwise_the_uninterrupted_run(train, workers, stop):
    """With warm-up, dropout, an epoch's end in between (there are about 15 steps an epoch) and any workers."""
    common = (
        "trainer.max_steps=24",
        "trainer.log_every_n_steps=1",
        "schedule=linear",
        "schedule.warmup=5",
        "model.dropout=0.1",
        f"data.workers={workers}",
        "validate_every=10",
    )
    _, whole = train(*common, output="whole")
    # every step's checkpoint is kept; the resumed run starts from the one a killed run would have left
    _, part = train(
        *common, "callbacks.checkpoint.every_n_train_steps=1", "callbacks.checkpoint.keep_last=100", output="part"
    )
    _, resumed = train(*common, f"ckpt_path={part}/checkpoints/step-{stop}.ckpt", output="resumed")
    after = losses(resumed)
    assert len(after) == 24 - stop
    pd.testing.assert_series_equal(after, losses(whole).loc[after.index], check_exact=True)
    first, second = (checkpoint.read(folder / "checkpoints" / "last.ckpt").weights for folder in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_accumulation_makes_the_same_steps_of_smaller_batches(train):
    _, folder = train("data.tokens_per_step=512", "trainer.max_steps=4", "trainer.log_every_n_steps=1")
    read = checkpoint.read(folder / "checkpoints" / "last.ckpt")
    assert read.step == 4
    assert len(losses(folder)) >= 4


def test_a_checkpoint_describes_itself(train, made_store):
    _, folder = train("trainer.max_steps=1")
    read = checkpoint.read(folder / "checkpoints" / "last.ckpt")
    assert read.command == "train"
    assert read.causal is False
    assert read.config["model"]["width"] == 32
    assert read.tokenizer["vocab"]["tokens"][4] == "G0"
    assert read.classes["cell_type"] == ("B", "NK", "T")


class TestRefusals:
    def test_a_folder_that_holds_a_run(self, train):
        train("trainer.max_steps=1")
        with pytest.raises(FileExistsError, match="ckpt_path=last"):
            train("trainer.max_steps=1")
        train("trainer.max_steps=1", "overwrite=true")

    def test_overwriting_removes_nothing_before_the_new_run_begins(self, train, tmp_path):
        """A refused command takes no checkpoint away; one that begins leaves no result of the earlier run."""
        _, folder = train("trainer.max_steps=2")
        (folder / "report.html").write_text("of the earlier run")
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for wrong in ("store=nowhere", "data.group=nosuch", "optim.lr=-1", "init_from=nowhere.ckpt"):
            with pytest.raises((ValueError, FileNotFoundError)):
                train("trainer.max_steps=2", "overwrite=true", wrong)
            assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before, wrong
        train("trainer.max_steps=3", "overwrite=true")
        assert not (folder / "report.html").exists()
        assert pd.read_csv(folder / "metrics.csv")["step"].max() <= 3

    def test_a_store_that_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            command("train", "store=nowhere", f"output={tmp_path}")

    def test_cells_longer_than_the_positions(self, train):
        with pytest.raises(ValueError, match=r"positions; cut the cells with data.max_length=8"):
            train("model.positions=8")
        train("model.positions=8", "data.max_length=8", "trainer.max_steps=1", output="cut")

    def test_a_budget_below_the_longest_cell(self, train):
        with pytest.raises(ValueError, match="less than the longest cell"):
            train("data.tokens_per_batch=10")

    def test_no_checkpoint_to_resume(self, train):
        with pytest.raises(FileNotFoundError, match="ckpt_path=last"):
            train("ckpt_path=last")

    def test_a_model_of_the_other_causality(self, train):
        with pytest.raises(ValueError, match="causal"):
            train("objective=ar", "model.architecture=bert")

    def test_a_group_that_is_not_there(self, train):
        with pytest.raises(ValueError, match="not a categorical obs column"):
            train("data.group=age")

    def test_no_end(self, train):
        with pytest.raises(ValueError, match="no end"):
            train("trainer.max_steps=-1")

    def test_no_cells(self, tmp_path):
        with pytest.raises(ValueError, match="no cells: give store="):
            command("train", "source=null", f"output={tmp_path}")


def test_too_few_cells(tmp_path):
    store = write_made_store(tmp_path / "few", n_cells=8)
    with pytest.raises(ValueError, match="too few"):
        command("train", f"store={store.path}", f"output={tmp_path / 'run'}", "data.tokens_per_step=16384000")
