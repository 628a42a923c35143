"""Two ranks by every strategy are the run of one process; its checkpoints are read by everything."""

import itertools
import json
import math

import pandas as pd
import pytest
import torch
from strategy.two_ranks import COMMON, DENOISED, STRATEGIES
from transformers import AutoModelForMaskedLM

import stoppable
from ranks import finish, start_ranks
from scfm import checkpoint
from scfm.datasets.synthetic import synthetic_cells
from scfm.inference.load import restore_backbone
from scfm.module import CellModule
from scfm.preparation.api import prepare
from scfm.tokenizer import MedianTokenizer
from support import SMALL, command, write_made_store

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(900)]  # the first test waits for all runs of two ranks

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
    command("train", *one, f"output={folder}/spectral_single", "start=spectral")
    command("train", *one, f"output={folder}/one_step", "trainer.max_steps=1")
    counted = prepare_counted(folder)
    command("train", f"store={counted}", *SMALL, *COMMON, *DENOISED, f"output={folder}/denoised_single")
    store, changing = str(made_store), f"{folder}/changing"
    stoppable.run(store, f"{folder}/unchanged", *stoppable.CHANGING, "trainer.max_steps=12")
    stoppable.run(store, changing, *stoppable.CHANGING, "trainer.max_steps=5")
    finish(start_ranks(two_ranks_script(), made_store, folder), seconds=600)
    finish(start_ranks(two_ranks_script(), made_store, folder, world=1), seconds=200)
    stoppable.run(store, changing, *stoppable.CHANGING, "trainer.max_steps=12", "ckpt_path=last")
    return folder


def prepare_counted(folder):
    """A small store that keeps counts."""
    synthetic_cells(n_cells=120, n_genes=40, n_types=3, n_batches=1, seed=0).write_h5ad(folder / "cells.h5ad")
    specials = {"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"}
    tokenizer = MedianTokenizer(name="small", max_length=24, specials=specials)
    prepare([folder / "cells.h5ad"], folder / "counted", tokenizer, keep_counts=True, workers=1)
    return folder / "counted"


@pytest.fixture(scope="module")
def second_rank_in_parts(made_store, tmp_path_factory):
    """One process that does what a second rank short of memory does: every other micro-batch in two parts."""
    folder, fitting, turn = tmp_path_factory.mktemp("parts"), CellModule._fitting, itertools.cycle((1, 2))

    def alternating(self, batch):
        self.parts = next(turn)
        return fitting(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CellModule, "_fitting", alternating)
        command("train", f"store={made_store}", f"output={folder}", *SMALL, *COMMON)
    return folder


def test_a_rank_whose_memory_runs_out_in_the_backward_pass_loses_no_step(folder, second_rank_in_parts):
    assert differ(weights(folder / "out_of_memory"), weights(second_rank_in_parts)) < TOLERANCE
    assert differ(weights(folder / "out_of_memory"), weights(folder / "ddp")) > TOLERANCE, "it was done in parts"


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


@pytest.mark.parametrize("name", ["ddp", "ddp_apart", "fsdp2", "deepspeed_zero2", "deepspeed_zero3"])
def test_the_spectral_start_is_that_of_one_process(folder, name):
    assert differ(weights(folder / "spectral_single"), weights(folder / f"spectral_{name}")) < TOLERANCE
    assert differ(weights(folder / "spectral_single"), weights(folder / "single")) > 0.1


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "deepspeed_zero3"])
def test_the_denoised_embedding_is_that_of_one_process(folder, name):
    difference = differ(weights(folder / "denoised_single"), weights(folder / f"denoised_{name}"))
    assert difference < 3 * TOLERANCE  # a layer that begins at 0 divides small gradients by small ones


@pytest.mark.parametrize("name", ["ddp", "ddp_apart"])
def test_ddp_is_bit_by_bit_one_process(folder, name):
    assert differ(weights(folder / "single"), weights(folder / name)) == 0


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_first_loss_is_that_of_a_uniform_guess(folder, name):
    """A model built in pieces, or handed out from the first rank, begins as one built whole."""
    first = pd.read_csv(folder / name / "metrics.csv")["train/loss"].dropna().iloc[0]
    assert first == pytest.approx(math.log(44), abs=0.15)


@pytest.mark.parametrize("kind", ["fsdp2", "deepspeed_zero3"])
def test_a_large_model_is_whole_on_no_rank_but_the_first_while_it_is_built(folder, kind):
    first, second = (json.loads((folder / f"{kind}-{rank}.json").read_text()) for rank in range(2))
    assert first["built"] == first["total"]
    assert second["built"] == 0
    assert first["held"] <= 0.55 * first["total"]
    assert second["held"] <= 0.55 * first["total"]


@pytest.mark.parametrize("name", ["fsdp2", "fsdp2_sharded", "fsdp2_async", "deepspeed_zero2", "deepspeed_zero3"])
def test_stopped_and_resumed(folder, name):
    assert differ(weights(folder / name), weights(folder / f"stopped_{name}")) < TOLERANCE


@pytest.mark.parametrize("name", ["ddp", "ddp_apart", "fsdp2", "deepspeed_zero2", "deepspeed_zero3"])
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


@pytest.mark.parametrize("name", ["fsdp2", "fsdp2_sharded"])
def test_a_divided_run_goes_on_with_fewer_ranks(folder, name):
    assert differ(weights(folder / name), weights(folder / f"alone_{name}")) < TOLERANCE


class TestAFolderOfAnotherRunIsRefusedBeforeTraining:
    SHARDS = ("strategy=fsdp2", "strategy.sharded_checkpoint=true")

    def refused(self, folder, store, tmp_path, name, *overrides):
        begun = folder / f"stopped_{name}" / "checkpoints" / "last.ckpt"
        command("train", f"store={store}", f"output={tmp_path}", *SMALL, *COMMON, f"ckpt_path={begun}", *overrides)

    def test_zero_on_another_number_of_ranks(self, folder, made_store, tmp_path):
        with pytest.raises(ValueError, match=r"by 2 processes, .* this run has 1: .*scfm-consolidate checkpoint="):
            self.refused(folder, made_store, tmp_path, "deepspeed_zero2", "strategy=deepspeed_zero2")

    def test_another_stage(self, folder, made_store, tmp_path):
        with pytest.raises(ValueError, match=r"a folder of shards \(deepspeed_zero2\), which the strategy of this run"):
            self.refused(folder, made_store, tmp_path, "deepspeed_zero2", "strategy=deepspeed_zero3")

    def test_another_model(self, folder, made_store, tmp_path):
        with pytest.raises(ValueError, match=r"another model: model.width=16 \(was 32\)"):
            self.refused(folder, made_store, tmp_path, "fsdp2_sharded", *self.SHARDS, "model.width=16")

    def test_another_vocabulary(self, folder, tmp_path):
        other = write_made_store(tmp_path / "other", n_genes=30).path
        with pytest.raises(ValueError, match="has the vocabulary .* the store .*: resume on the store"):
            self.refused(folder, other, tmp_path, "fsdp2_sharded", *self.SHARDS)


def cells(folder):
    steps: dict[int, list[int]] = {}
    for path in folder.glob("cells-*.jsonl"):
        for line in path.read_text().splitlines():
            step, _, index = json.loads(line)
            steps.setdefault(step, []).extend(index)
    return {step: sorted(found) for step, found in steps.items()}
