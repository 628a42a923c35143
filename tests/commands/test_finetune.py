"""Fine-tuning starts from the checkpoint, learns the labels, and refuses what cannot be learned."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from scfm import checkpoint
from scfm.data.packing import pack
from scfm.head.annotation.classifier import Classifier
from scfm.head.trajectory.ordinal import Ordinal
from scfm.inference.load import restore_backbone, restore_predictor
from scfm.model.adapt import merge
from scfm.store.token_store import TokenStore
from scfm.training.stored_head import update_head
from support import command, write_made_store

FAST = (
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "callbacks.progress=null",
    "data.tokens_per_batch=256",
)


@pytest.fixture(scope="module")
def pretrained(made_store, tmp_path_factory):
    """A checkpoint of a tiny model on the made-up cells."""
    from support import SMALL

    folder = tmp_path_factory.mktemp("pretrained")
    command("train", f"store={made_store}", f"output={folder}", *SMALL, "trainer.max_steps=60", "optim.lr=3e-3")
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture
def finetune(pretrained, made_store, tmp_path):
    def run(*overrides: str, output: str = "run"):
        folder = tmp_path / output
        given = [f"init_from={pretrained}", f"store={made_store}", "head.label=cell_type"]
        wanted = [value for value in given if value.split("=")[0] not in {part.split("=")[0] for part in overrides}]
        return command("finetune", *wanted, f"output={folder}", *FAST, *overrides), folder

    return run


def test_it_learns_the_labels(finetune):
    score, folder = finetune("trainer.max_steps=100", "validate_every=20", "optim.lr=3e-3")
    found = json.loads((folder / "metrics.json").read_text())
    assert score == found["val/macro_f1"] > 0.9
    assert found["test/macro_f1"] > 0.8
    assert (folder / "confusion_cell_type.png").stat().st_size > 1000
    page = (folder / "report.html").read_text()
    for words in ("frozen backbone, linear probe", "random weights, linear probe", "Calibration: ", "majority class"):
        assert words in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page), "the report needs no other file"
    split = pd.read_csv(folder / "split.csv")
    assert set(split["part"]) == {"train", "val", "calibration", "test"}
    assert len(split) == 240
    assert split["cell"].is_unique
    assert (folder / "checkpoints" / "best.ckpt").exists()


def test_it_starts_from_the_checkpoint(finetune, pretrained):
    _, folder = finetune("trainer.max_steps=1", "adapt=frozen")
    before, after = (checkpoint.read(path).weights for path in (pretrained, folder / "checkpoints" / "last.ckpt"))
    backbone = [name for name in before if name.startswith("backbone.")]
    assert backbone
    assert all(torch.equal(before[name], after[name]) for name in backbone)


@pytest.mark.parametrize("before", [("adapt=frozen",), ("adapt=lora", "adapt.rank=2")], ids=["frozen", "lora"])
def test_a_fine_tune_may_begin_where_another_adapted(before, finetune):
    _, first = finetune("trainer.max_steps=2", *before, output="first")
    start = first / "checkpoints/last.ckpt"
    _, second = finetune("trainer.max_steps=2", "adapt=full", f"init_from={start}", output="second")
    began, ended = (restore_backbone(checkpoint.read(path)) for path in (start, second / "checkpoints/last.ckpt"))
    values = merge(began).state_dict()
    learned = [name for name, value in ended.state_dict().items() if not torch.equal(value, values[name])]
    assert any("layer.0." in name for name in learned)
    assert any("embeddings" in name for name in learned)


def test_several_label_columns(finetune):
    options = ("head.label=[cell_type,donor]", "head.weights=learned", "data.unseen=ignore")
    _, folder = finetune(*options, "trainer.max_steps=2", "trainer.log_every_n_steps=1")
    found = json.loads((folder / "metrics.json").read_text())
    assert {"test/macro_f1", "test/macro_f1/donor", "test/coverage", "test/coverage/donor"} <= set(found)
    assert f"Of donor, {found['test/coverage/donor']:.1%} keep a name" in (folder / "report.html").read_text()
    restored = restore_predictor(checkpoint.read(folder / "checkpoints/last.ckpt")).task
    assert (restored.weights.log_variance != 0).all()
    assert "train/weight/donor" in pd.read_csv(folder / "metrics.csv").columns


def test_thresholds_come_from_cells_kept_apart_and_are_shipped(finetune):
    _, folder = finetune("trainer.max_steps=60", "validate_every=20", "optim.lr=3e-3", "head.reject=0.3")
    found = json.loads((folder / "metrics.json").read_text())
    assert 0.5 <= found["calibration/coverage"] < 1
    assert found["test/coverage"] < 1
    assert found["test/ece"] != found["test/ece_uncalibrated"]
    task = restore_predictor(checkpoint.read(folder / "checkpoints/best.ckpt")).task
    assert task.columns[0].temperature.item() == pytest.approx(found["calibration/temperature"])
    called = task.write({"logits": np.array([[0.01, 0.0, 0.0], [9.0, 0.0, 0.0]])}).obs["scfm_cell_type"]
    assert list(called) == ["unknown", "B"]


def test_without_calibration_every_cell_is_named(finetune):
    _, folder = finetune("trainer.max_steps=2", "calibration=0")
    assert "calibration" not in set(pd.read_csv(folder / "split.csv")["part"])
    assert "test/coverage" not in json.loads((folder / "metrics.json").read_text())


def test_prototypes_are_means_of_all_cells_to_learn_from_and_take_new_classes(finetune, made_store):
    _, folder = finetune("head=annotation/prototype", "trainer.max_steps=30", "validate_every=10", "optim.lr=3e-3")
    best = folder / "checkpoints/best.ckpt"
    module, store = restore_predictor(checkpoint.read(best)), TokenStore.open(made_store)
    split = pd.read_csv(folder / "split.csv").set_index("cell")["part"]
    rows = np.flatnonzero(split[store.names(np.arange(len(store)))].isin(["train", "val", "calibration"]).to_numpy())
    batch = pack(store.gather(rows), rows)
    found = module.task.predict(module.backbone, batch)["position"].numpy()
    truth = store.obs("cell_type")[rows]
    for code in range(3):
        np.testing.assert_allclose(module.task.prototypes.means[code], found[truth == code].mean(axis=0), atol=1e-5)
    assert np.isfinite(module.task.prototypes.radius.numpy()).all()

    module.task.add_class("new", found[:5] + 50)
    update_head(best, module.task)
    again = restore_predictor(checkpoint.read(best)).task
    logits = np.zeros((1, 4))
    moved = again.write({"position": found[:5].mean(0, keepdims=True) + 50, "logits": logits})
    assert moved.obs["scfm_cell_type"] == "new"


def test_cells_teach_once_they_have_served(finetune, monkeypatch):
    seen = []
    monkeypatch.setattr(Classifier, "refit", lambda self, outputs, targets: seen.append(len(outputs["state"])))
    monkeypatch.setattr(Classifier, "calibrate", lambda *_: seen.append("calibrated") or {"coverage": 1.0})
    for name, options in (("a", ()), ("b", ("data.test=0",))):
        _, folder = finetune("trainer.max_steps=1", *options, output=name)
        parts = pd.read_csv(folder / "split.csv")["part"].value_counts()
        found = json.loads((folder / "metrics.json").read_text())
        assert parts["val"]
        before = parts["train"] + (parts["val"] if name == "a" else 0)
        assert seen == [before, "calibrated", before + parts["calibration"]]
        seen.clear()
        assert ("val/coverage" in found) == (name == "b")


def test_a_head_that_learns_once_more_is_judged_as_it_is_shipped(finetune, monkeypatch):
    calls = []
    monkeypatch.setattr(Ordinal, "refit", lambda self, outputs, targets: calls.append("refit"))
    monkeypatch.setattr(
        Ordinal, "summarize", lambda self, outputs, targets: calls.append("judged") or {"spearman": len(calls)}
    )
    _, folder = finetune("head=trajectory/ordinal", "head.stages=[T,B,NK]", "trainer.max_steps=1")
    found = json.loads((folder / "metrics.json").read_text())
    again = len(calls) - calls[::-1].index("refit")
    assert found["test/spearman"] > again > found["val/spearman"]


def test_the_head_says_what_to_watch(finetune):
    finetune("head=annotation/prototype", "trainer.max_steps=1", output="a")
    score, folder = finetune("trainer.max_steps=1", "metric=val/loss", output="b")
    config = OmegaConf.load(folder / "config.yaml")
    assert config.callbacks.best.mode == "min"
    assert score == json.loads((folder / "metrics.json").read_text())["val/loss"]


def test_wandb_gets_the_report(finetune, monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    _, folder = finetune("trainer.max_steps=2", "validate_every=1", "logger=wandb")
    pages = list(folder.rglob("media/html/report/page*.html"))
    assert pages[0].read_text() == (folder / "report.html").read_text()
    assert list(folder.rglob("media/images/report/maps*.png"))


class TestRefusals:
    def test_an_unknown_label_column(self, finetune):
        with pytest.raises(ValueError, match=r"'cell_typ'.*cell_type, donor"):
            finetune("head.label=cell_typ")

    def test_a_label_unseen_in_training(self, finetune):
        with pytest.raises(ValueError, match=r"no training cell has: d\d.*data.unseen=ignore"):
            finetune("head.label=donor")

    def test_too_many_calibration_cells(self, finetune):
        with pytest.raises(ValueError, match=r"calibration=0.7; expected a share"):
            finetune("calibration=0.7")

    def test_one_class_only(self, finetune, tmp_path):
        store = write_made_store(tmp_path / "one", types=["T"])
        with pytest.raises(ValueError, match="class"):
            finetune(f"store={store.path}")

    def test_a_store_of_another_vocabulary(self, finetune, tmp_path):
        other = write_made_store(tmp_path / "other", n_genes=41)
        with pytest.raises(ValueError, match=r"has vocabulary \w+ \(44 tokens\).* has \w+ \(45 tokens\)"):
            finetune(f"store={other.path}")

    def test_a_truncated_checkpoint(self, finetune, pretrained, tmp_path):
        torn = tmp_path / "torn.ckpt"
        torn.write_bytes(pretrained.read_bytes()[:5000])
        with pytest.raises(ValueError, match="cut off"):
            finetune(f"init_from={torn}")

    def test_a_checkpoint_that_is_not_there(self, finetune):
        with pytest.raises(FileNotFoundError, match="no checkpoint at nowhere.ckpt"):
            finetune("init_from=nowhere.ckpt")

    def test_a_checkpoint_of_something_else(self, finetune, tmp_path):
        torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
        with pytest.raises(ValueError, match="not written by scfm"):
            finetune(f"init_from={tmp_path / 'other.ckpt'}")

    def test_weights_that_do_not_fit(self, finetune, pretrained, tmp_path):
        state = torch.load(pretrained, weights_only=True)
        name = next(name for name in state["state_dict"] if name.startswith("backbone."))
        del state["state_dict"][name]
        torch.save(state, tmp_path / "holed.ckpt")
        with pytest.raises(ValueError, match="does not fit"):
            finetune(f"init_from={tmp_path / 'holed.ckpt'}")


@pytest.mark.parametrize("head", ["annotation/classifier", "annotation/prototype"])
def test_a_fine_tune_that_was_stopped_goes_on_as_if_it_was_not(finetune, head):
    """Also where the callbacks of its checkpoint hold best scores as tensors."""
    options = (
        f"head={head}", "head.gene_components=0", "schedule=constant", "validate_every=2",
        "callbacks.checkpoint.every_n_train_steps=2",
    )  # fmt: skip
    _, whole = finetune(*options, "trainer.max_steps=6", output="whole")
    finetune(*options, "trainer.max_steps=4", output="stopped")
    state = torch.load(whole.parent / "stopped/checkpoints/last.ckpt", weights_only=True)["callbacks"]
    assert any(isinstance(value, torch.Tensor) for callback in state.values() for value in callback.values())
    _, stopped = finetune(*options, "trainer.max_steps=6", "ckpt_path=last", output="stopped")
    for name in ("best.ckpt", "last.ckpt"):
        first, second = (checkpoint.read(folder / "checkpoints" / name).weights for folder in (whole, stopped))
        assert [key for key in first if first[key].numpy().tobytes() != second[key].numpy().tobytes()] == [], name
