"""A run that begins at another's weights: the same loss, the same ids, the same logits; and what it refuses."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
import torch

from prepared import median_tokenizer, rank_tokenizer
from scfm import checkpoint
from scfm.data.module import CellData
from scfm.datasets.synthetic import synthetic_cells
from scfm.inference.load import restore_backbone
from scfm.store.token_store import TokenStore
from scfm.tokenizer import GeneStatistics, from_dict
from scfm.training.initial_weights import coexpressed
from support import SMALL, command, made_vocab, write_made_store

FREE = tuple(option for option in SMALL if not option.startswith("model."))


@pytest.fixture
def go_on(train, made_store, tmp_path):
    """Train from the weights of another run: ``go_on(first, "optim.lr=…")`` -> output folder."""

    def run(first, *overrides, output="second", store=None):
        folder = tmp_path / output
        common = (f"init_from={first}/checkpoints/last.ckpt", f"store={store or made_store}", f"output={folder}")
        command("train", *common, "trainer.max_steps=3", *FREE, *overrides)
        return folder

    return run


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def weights(folder, name="last"):
    return checkpoint.read(folder / "checkpoints" / f"{name}.ckpt").weights


@pytest.fixture
def larger_store(tmp_path):
    """The genes of the made store, and six more."""
    return write_made_store(tmp_path / "larger", n_genes=46, seed=3).path


@pytest.mark.parametrize("objective", ["mlm", "ar"])
def test_it_begins_at_the_loss_of_the_model(objective, train, go_on):
    loss, first = train(f"objective={objective}", "trainer.max_steps=20", "optim.lr=3e-3")
    found = metrics(go_on(first, f"objective={objective}"))
    assert found["val/loss_before"] == pytest.approx(loss, abs=1e-6)
    assert found["val/loss_after"] == pytest.approx(found["val/loss"], abs=1e-6)
    assert found["val/loss_after"] != found["val/loss_before"]


def test_a_new_run_says_what_its_start_knows(train):
    """With the spectral start's bias at log frequency the model begins near the unigram table."""
    _, first = train("objective=mlm", "trainer.max_steps=2", "optim.lr=1e-12", "start=spectral")
    found = metrics(first)
    assert found["val/loss_before"] == pytest.approx(found["val/loss"], abs=1e-3)
    assert found["val/loss_before"] < found["val/unigram_loss"] + 0.5
    assert "val/neighbors_loss" in found


def test_it_begins_at_step_0_with_its_own_schedule_and_the_model_of_the_checkpoint(train, go_on):
    _, first = train("trainer.max_steps=20")
    second = go_on(first, "trainer.log_every_n_steps=1", "schedule.warmup=2", "optim.lr=1e-4")
    read = checkpoint.read(second / "checkpoints" / "last.ckpt")
    assert read.step == 3
    assert read.config["model"] == checkpoint.read(first / "checkpoints" / "last.ckpt").config["model"]
    assert read.config["init_from"] == str((first / "checkpoints" / "last.ckpt").resolve())
    rates = pd.read_csv(second / "metrics.csv").filter(like="lr-").max(axis=1).dropna()
    assert rates.max() <= 1e-4


def test_resume_is_bitwise_the_uninterrupted_run(train, go_on, larger_store):
    _, first = train("trainer.max_steps=5")
    common = ("vocab=extend", "trainer.max_steps=8", "callbacks.checkpoint.every_n_train_steps=1")
    keep = "callbacks.checkpoint.keep_last=100"
    whole = go_on(first, *common, keep, output="whole", store=larger_store)
    again = f"ckpt_path={whole}/checkpoints/step-3.ckpt"
    resumed = go_on(first, *common, again, output="resumed", store=larger_store)
    a, b = weights(whole), weights(resumed)
    assert all(torch.equal(a[name], b[name]) for name in a)


class TestGrowth:
    @pytest.mark.parametrize("options", [(), ("+model.options={tie_word_embeddings: false}",)])
    @pytest.mark.parametrize("objective", ["mlm", "ar"])
    def test_old_ids_and_logits_stay_bitwise(self, objective, options, train, go_on, larger_store, made_store):
        from scfm.data.packing import pack

        _, first = train(f"objective={objective}", "trainer.max_steps=5", *options)
        second = go_on(
            first, f"objective={objective}", "vocab=extend", "optim.lr=0.0", store=larger_store, output="grown"
        )
        pair = [checkpoint.read(folder / "checkpoints" / "last.ckpt") for folder in (first, second)]
        assert pair[1].tokenizer["vocab"]["tokens"][:44] == pair[0].tokenizer["vocab"]["tokens"]
        rows = np.arange(20)
        batch = pack(TokenStore.open(made_store).gather(rows, None, np.int64), rows, obs={}, seed=0, counts=None)
        with torch.inference_mode():
            old, new = (model.logits(model(batch)) for model in (restore_backbone(read).eval() for read in pair))
        assert torch.equal(old, new[:, :44])
        assert new.shape[1] == 50

    def test_new_genes_begin_among_those_they_come_with(self, train, go_on, larger_store, caplog):
        _, first = train("trainer.max_steps=5")
        with caplog.at_level(logging.INFO):
            second = go_on(first, "vocab=extend", "optim.lr=0.0", store=larger_store)
        table = weights(second)["backbone.model.bert.embeddings.word_embeddings.weight"]
        neighbors = coexpressed(CellData(TokenStore.open(larger_store)), 44)
        assert len(neighbors) >= 3
        assert f"6 new genes: {len(neighbors)} begin at the mean" in caplog.text
        for gene, others in neighbors.items():
            torch.testing.assert_close(table[gene], table[torch.from_numpy(others)].mean(0), atol=0, rtol=0)

    def test_neighbors_are_those_of_the_correlation_matrix(self, larger_store):
        """The oracle: numpy's correlation of presence, cell by cell."""
        data = CellData(TokenStore.open(larger_store))
        present = np.zeros((len(data.split.train), 50))
        for i, row in enumerate(data.split.train):
            present[i, data.store.gather(np.array([row])).values] = 1
        with np.errstate(invalid="ignore"):
            expected = np.corrcoef(present.T)
        for gene, others in coexpressed(data, 44).items():
            scores = np.nan_to_num(expected[gene, 4:44])
            best = np.sort(scores)[::-1][: len(others)]
            np.testing.assert_allclose(np.sort(scores[others - 4])[::-1], best, atol=1e-6)
            assert (best > 0).all()

    def test_a_gene_of_too_few_cells_begins_at_random(self, train, go_on, tmp_path, caplog):
        _, first = train("trainer.max_steps=1")
        cells = write_made_store(tmp_path / "rare", n_genes=46, seed=3)
        rare = TokenStore.open(cells.path)
        vocab = made_vocab(47)
        from scfm.store.from_cells import write_store
        from scfm.store.writer import Cells

        rows = np.arange(len(rare))
        made = Cells(
            rare.gather(rows),
            names=np.array(rare.names(rows)),
            file=np.zeros(len(rows), dtype=np.int64),
            hashes=np.arange(len(rows), dtype=np.uint64),
            obs={},
        )
        state = {"name": "made_up", "vocab": vocab.to_dict()}
        write_store(tmp_path / "seven", [made], tokenizer=state, columns={})
        with caplog.at_level(logging.INFO):
            go_on(first, "vocab=extend", store=tmp_path / "seven")
        neighbors = coexpressed(CellData(TokenStore.open(tmp_path / "seven")), 44)
        assert 50 not in neighbors  # no cell has it
        assert f"7 new genes: {len(neighbors)} begin at the mean" in caplog.text
        assert f", {7 - len(neighbors)} at random" in caplog.text


class TestForgetting:
    def test_the_loss_of_the_old_cells_before_and_after(self, train, go_on, made_store, tmp_path):
        loss, first = train("trainer.max_steps=40", "optim.lr=3e-3")
        other = write_made_store(tmp_path / "other", seed=9).path
        found = metrics(go_on(first, f"old_store={made_store}", "optim.lr=3e-3", "trainer.max_steps=20", store=other))
        assert found["old/val/loss_before"] == pytest.approx(loss, abs=1e-6)
        assert found["old/val/loss_after"] > found["old/val/loss_before"]
        assert found["val/loss_after"] < found["val/loss_before"]

    def test_an_old_store_of_other_genes(self, train, go_on, larger_store):
        _, first = train("trainer.max_steps=1")
        with pytest.raises(ValueError, match="old_store="):
            go_on(first, f"old_store={larger_store}")


class TestPositions:
    def test_more_positions_keep_the_old_ones(self, train, go_on, caplog):
        _, first = train("trainer.max_steps=2")
        with caplog.at_level(logging.INFO):
            second = go_on(first, "model.positions=96", "optim.lr=0.0")
        name = "backbone.model.bert.embeddings.position_embeddings.weight"
        assert torch.equal(weights(second)[name][:64], weights(first)[name])
        assert len(weights(second)[name]) == 96
        assert "Positions 64 to 95 are new and begin at random" in caplog.text

    def test_shorter_cells_leave_positions_as_they_are(self, train, go_on, caplog):
        _, first = train("trainer.max_steps=2")
        with caplog.at_level(logging.INFO):
            second = go_on(first, "data.max_length=8")
        name = "backbone.model.bert.embeddings.position_embeddings.weight"
        assert "No cell reaches positions 8 to 63" in caplog.text
        assert len(weights(second)[name]) == 64

    def test_longer_than_trained_is_said(self, train, go_on, caplog):
        _, first = train("trainer.max_steps=2", "model.max_length=10", "data.max_length=10")
        with pytest.raises(ValueError, match="positions"):
            go_on(first, output="refused")
        with caplog.at_level(logging.INFO):
            go_on(first, "model.max_length=64", output="longer")
        assert "Positions 10 to" in caplog.text
        assert "never trained" in caplog.text

    def test_fewer_positions_are_refused(self, train, go_on):
        _, first = train("trainer.max_steps=1")
        with pytest.raises(ValueError, match=r"model.positions=32 is fewer than the 64 .* data.max_length=32"):
            go_on(first, "model.positions=32")


class TestRefusals:
    def test_other_genes(self, train, go_on, larger_store, tmp_path):
        _, first = train("trainer.max_steps=1")
        with pytest.raises(ValueError, match=r"ids mean different genes.*give vocab=extend"):
            go_on(first, store=larger_store)
        fewer = write_made_store(tmp_path / "fewer", n_genes=30).path
        with pytest.raises(ValueError, match="different genes"):
            go_on(first, store=fewer)
        with pytest.raises(ValueError, match="does not begin with the 44 tokens"):
            go_on(first, "vocab=extend", store=fewer)

    def test_another_model(self, train, go_on):
        _, first = train("trainer.max_steps=1")
        with pytest.raises(ValueError, match=r"model.width=64 \(there 32\); leave model out"):
            go_on(first, "model.width=64")

    def test_another_objective(self, train, go_on):
        _, first = train("trainer.max_steps=1")
        with pytest.raises(ValueError, match=r"trained with objective=mlm and cannot go on with objective=ar"):
            go_on(first, "objective=ar")

    def test_options_without_weights(self, train):
        for option in ("vocab=extend", "old_store=stores/x"):
            with pytest.raises(ValueError, match="give init_from=CHECKPOINT"):
                train(option)
        with pytest.raises(ValueError, match="expected same or extend"):
            train("vocab=grow")


class TestTokenizer:
    @pytest.mark.parametrize("make", [median_tokenizer, rank_tokenizer])
    def test_a_growing_vocabulary_keeps_ids_medians_and_ranks(self, make):
        from dataclasses import replace

        cells = synthetic_cells(n_cells=60, n_genes=90, seed=2)
        names, counts = list(cells.var["gene_id"]), cells.X.tocsr()
        part, both = GeneStatistics(), GeneStatistics()
        part.update(counts[:, :50], names[:50])
        both.update(counts, names)
        old = make().fit(part)
        new = replace(old, growing=True).fit(both)
        n = len(old.vocab)
        assert new.fitted
        assert new.vocab.tokens[:n] == old.vocab.tokens
        assert len(new.vocab) > n
        assert dict(new.vocab.specials) == dict(old.vocab.specials)
        if hasattr(old, "medians"):
            assert np.array_equal(new.medians[:n], old.medians)
        assert from_dict(new.to_dict()).vocab.hash == new.vocab.hash
        assert "growing" not in new.to_dict()["options"]
        columns = np.where(np.arange(90) < 50, new.harmonize(names).columns, -1).astype(np.int32)
        totals = np.asarray(counts.sum(1)).ravel()
        a, b = new.encode(counts, columns, totals), old.encode(counts, columns, totals)
        assert np.array_equal(a.values, b.values)
        same = replace(new, growing=True).fit(both)
        assert same.vocab.hash == new.vocab.hash

    def test_prepare_extend_then_train_extend(self, tmp_path):
        cells = synthetic_cells(n_cells=120, n_genes=90, seed=2)
        cells[:, :50].write_h5ad(tmp_path / "small.h5ad")
        cells.write_h5ad(tmp_path / "large.h5ad")
        small, large, run = tmp_path / "small", tmp_path / "large", tmp_path / "run"
        command("prepare", f"input={tmp_path / 'small.h5ad'}", f"output={small}")
        command("train", f"store={small}", f"output={run}", *SMALL, "model.positions=128", "trainer.max_steps=2")
        ckpt = run / "checkpoints" / "last.ckpt"
        with pytest.raises(ValueError, match="give init_from=CHECKPOINT"):
            command("prepare", f"input={tmp_path / 'large.h5ad'}", f"output={large}", "vocab=extend")
        command("prepare", f"input={tmp_path / 'large.h5ad'}", f"output={large}", f"init_from={ckpt}", "vocab=extend")
        old, new = TokenStore.open(small).vocab, TokenStore.open(large).vocab
        assert new.tokens[: len(old)] == old.tokens
        assert len(new) > len(old)
        options = (f"init_from={ckpt}", "vocab=extend", f"output={tmp_path / 'grown'}", "trainer.max_steps=2", *FREE)
        command("train", f"store={large}", f"old_store={small}", *options)
        assert "old/val/loss_after" in metrics(tmp_path / "grown")
