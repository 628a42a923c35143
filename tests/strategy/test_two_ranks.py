"""Two ranks by every strategy are the run of one process; its checkpoints are read by everything."""

import json
import math

import pandas as pd
import pytest
import torch
from strategy.two_ranks import COMMON, STRATEGIES
from transformers import AutoModelForMaskedLM

import stoppable
from ranks import finish, start_ranks
from scfm import checkpoint
from scfm.run.restore import restore_backbone
from support import SMALL, command

pytestmark = pytest.mark.distributed

#: Largest difference of a weight after four steps: sums over ranks are taken in another order.
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def folder(made_store, tmp_path_factory):
    """What one process gives, and what two give."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ranks")
    one = (f"store={made_store}", *SMALL, *COMMON)
    command("train", *one, f"output={folder}/single")
    command("train", *one, f"output={folder}/ar_single", "objective=ar")
    command("train", *one, f"output={folder}/one_step", "trainer.max_steps=1")
    store, changing = str(made_store), f"{folder}/changing"
    stoppable.run(store, f"{folder}/unchanged", *stoppable.CHANGING, "trainer.max_steps=12")
    stoppable.run(store, changing, *stoppable.CHANGING, "trainer.max_steps=5")
    finish(start_ranks(two_ranks_script(), made_store, folder), seconds=180)
    stoppable.run(store, changing, *stoppable.CHANGING, "trainer.max_steps=12", "ckpt_path=last")
    return folder


def two_ranks_script():
    from pathlib import Path

    return Path(__file__).with_name("two_ranks.py")


def weights(folder):
    return checkpoint.read(folder / "checkpoints" / "last.ckpt").weights


def differ(first, second) -> float:
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_weights_are_those_of_one_process(folder, name):
    assert differ(weights(folder / "single"), weights(folder / name)) < TOLERANCE


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "deepspeed_zero3"])
def test_next_gene_prediction_too(folder, name):
    assert differ(weights(folder / "ar_single"), weights(folder / f"ar_{name}")) < TOLERANCE


def test_ddp_is_bit_by_bit_one_process(folder):
    assert differ(weights(folder / "single"), weights(folder / "ddp")) == 0


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_first_loss_is_that_of_a_uniform_guess(folder, name):
    """A model built in pieces, or handed out from the first rank, begins as one built whole."""
    first = pd.read_csv(folder / name / "metrics.csv")["train/loss"].dropna().iloc[0]
    assert first == pytest.approx(math.log(44), abs=0.15)


@pytest.mark.parametrize("name", ["fsdp2", "fsdp2_sharded", "deepspeed_zero2", "deepspeed_zero3"])
def test_stopped_and_resumed(folder, name):
    assert differ(weights(folder / name), weights(folder / f"stopped_{name}")) < TOLERANCE


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3"])
def test_one_unhealthy_rank_skips_the_step_of_all(folder, name):
    assert differ(weights(folder / "one_step"), weights(folder / f"unhealthy_{name}")) < TOLERANCE


@pytest.mark.parametrize("name", STRATEGIES)
def test_plain_transformers_reads_it(folder, name, tmp_path):
    read = checkpoint.read(folder / name / "checkpoints" / "last.ckpt")
    restore_backbone(read).model.save_pretrained(tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path)
    expected = read.weights["backbone.model.bert.embeddings.word_embeddings.weight"]
    assert torch.equal(model.get_input_embeddings().weight, expected)


@pytest.mark.parametrize("name", ["fsdp2_sharded", "deepspeed_zero3"])
def test_finetune_reads_it(folder, made_store, tmp_path, name):
    command(
        "finetune", f"init_from={folder / name / 'checkpoints' / 'last.ckpt'}", f"store={made_store}",
        f"output={tmp_path}", "head.label=cell_type", "trainer.max_steps=1", "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false", "callbacks.progress=null", "data.tokens_per_batch=256",
    )  # fmt: skip
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_one_rank_then_two_then_one_sees_the_same_cells(folder):
    assert cells(folder / "changing") == cells(folder / "unchanged")
    assert differ(weights(folder / "changing"), weights(folder / "unchanged")) < TOLERANCE


def cells(folder):
    steps: dict[int, list[int]] = {}
    for path in folder.glob("cells-*.jsonl"):
        for line in path.read_text().splitlines():
            step, _, index = json.loads(line)
            steps.setdefault(step, []).extend(index)
    return {step: sorted(found) for step, found in steps.items()}
