"""Prediction runs the backbone once for embedding and head together, and gives what two runs give."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scfm import checkpoint
from scfm.data.packing import pack
from scfm.inference.load import restore_predictor
from scfm.model.backbone import Backbone
from scfm.model.cached import CachedBackbone
from scfm.store.token_store import TokenStore
from support import SMALL, command


@pytest.fixture(scope="module")
def fine(made_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("once")
    command("train", f"store={made_store}", f"output={folder}/pre", *SMALL, "trainer.max_steps=1")
    rest = [option for option in SMALL if not option.startswith("model.")]
    command(
        "finetune", f"store={made_store}", f"output={folder}/fine", *rest, "head.label=cell_type",
        f"init_from={folder}/pre/checkpoints/last.ckpt", "trainer.max_steps=1", "validate_every=1",
    )  # fmt: skip
    return restore_predictor(checkpoint.read(folder / "fine/checkpoints/best.ckpt"))


@pytest.fixture
def batch(made_store):
    rows = np.arange(12)
    return pack(TokenStore.open(made_store).gather(rows), rows)


@torch.inference_mode()
def test_one_pass_for_embedding_and_head(fine, batch, monkeypatch):
    passes, run = [], Backbone._run
    monkeypatch.setattr(Backbone, "_run", lambda self, *a, **k: passes.append(1) or run(self, *a, **k))
    once = fine.predict_step(batch, 0)
    assert len(passes) == 1
    twice = fine.task.predict(fine.backbone, batch)
    for name, value in twice.items():
        np.testing.assert_array_equal(once[name], value.float().numpy())


@torch.inference_mode()
def test_one_pass_for_loss_and_metrics_of_held_out_cells(fine, batch, monkeypatch):
    passes, run = [], Backbone._run
    monkeypatch.setattr(Backbone, "_run", lambda self, *a, **k: passes.append(1) or run(self, *a, **k))
    monkeypatch.setattr(fine, "_log", lambda stage, metrics, batch: None)
    fine._evaluate("val", replace(batch, obs={"cell_type": torch.zeros(batch.n_cells, dtype=torch.long)}))
    assert len(passes) == 1
    assert fine._seen.pop()["logits"].shape[0] == batch.n_cells


@torch.inference_mode()
def test_other_cells_or_another_layer_are_computed(fine, batch):
    once = CachedBackbone(fine.backbone)
    first = once.hidden(batch, -1)
    assert once.hidden(replace(batch), -1) is first
    assert torch.equal(once.hidden(batch, 1), fine.backbone.hidden(batch, 1))
    other = replace(batch, ids=batch.ids.flip(0))
    assert torch.equal(once(other), fine.backbone(other))
    moved = replace(batch, boundaries=torch.tensor([0, batch.longest, batch.n_tokens], dtype=torch.int32), longest=64)
    assert once(moved) is not first
    assert once.width == fine.backbone.width
