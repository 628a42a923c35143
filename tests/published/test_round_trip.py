"""What comes in and leaves again is the same: every tensor, every id, every class, and what is computed from them."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import scfm
from published_folders import (
    assert_same_states,
    cells,
    make_model,
    packed,
    write_dictionaries,
    write_multitask,
    write_tokenizer,
)
from scfm.datasets.demo_cells import demo_file
from scfm.published.folder import read_checkpoint
from support import SMALL, command

POOLS = {
    "weighted": ("objective=mlm", "model.embedding_pool=weighted", "model.embedding_value=rank"),
    "mean": ("objective=mlm", "model.layer_length=30", "model.max_length=60"),
}
UNTIED = {"tie_word_embeddings": False}


def import_and_export(tmp_path, model, **given):
    """A transformers model written, read and exported again: both folders."""
    model.save_pretrained(tmp_path / "in")
    if type(model).__name__.startswith("GPT2"):
        write_tokenizer(tmp_path / "in", ("<pad>", "</b>", "</s>", "<unk>"))
    else:
        write_dictionaries(tmp_path / "in")
    scfm.load(tmp_path / "in", **given).export(tmp_path / "out")
    return tmp_path / "in", tmp_path / "out"


def logits_of_cells(model, rows):
    with torch.inference_mode():
        return torch.cat([model(torch.tensor(row[None].astype(np.int64))).logits for row in rows])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("BertForMaskedLM", {}),
        ("BertForMaskedLM", UNTIED),
        ("GPT2LMHeadModel", UNTIED),
        ("BertForSequenceClassification", {}),
        ("BertForTokenClassification", {}),
    ],
)
def test_every_class_leaves_as_the_tensors_that_came(tmp_path, name, options):
    model = make_model(name, **options)
    source, out = import_and_export(tmp_path, model)
    before, after = (load_file(folder / "model.safetensors") for folder in (source, out))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == [name]
    theirs, told = getattr(transformers, name).from_pretrained(out, output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(
        logits_of_cells(theirs.eval(), cells()[:1]), logits_of_cells(model, cells()[:1]), atol=0, rtol=0
    )
    first, second = read_checkpoint(source), read_checkpoint(out)
    assert (first.classes, first.tokenizer["vocab"]) == (second.classes, second.tokenizer["vocab"])
    assert first.weights.keys() == second.weights.keys()
    torch.testing.assert_close(dict(second.weights), dict(first.weights), atol=0, rtol=0, equal_nan=True)
    assert_same_states(second, model)


def test_a_bare_model_leaves_without_a_prediction_head_that_nobody_trained(tmp_path):
    model = make_model("BertModel")
    source, out = import_and_export(tmp_path, model)
    after = load_file(out / "model.safetensors")
    assert not [name for name in after if name.startswith("cls.")]
    for name, value in load_file(source / "model.safetensors").items():
        if not name.startswith("pooler."):  # of no use to a language model: it was never trained
            assert torch.equal(value, after[f"bert.{name}"]), name
    assert "AutoModel.from_pretrained" in (card := (out / "README.md").read_text())
    assert "feature-extraction" in card
    assert_same_states(read_checkpoint(out), model)


def test_another_published_model_of_the_same_sizes_is_not_written_over(tmp_path):
    _, out = import_and_export(tmp_path, make_model("BertForMaskedLM"))
    make_model("BertForMaskedLM", seed=1).save_pretrained(tmp_path / "other")
    write_dictionaries(tmp_path / "other")
    with pytest.raises(FileExistsError, match="another run"):
        scfm.load(tmp_path / "other").export(out)
    scfm.load(tmp_path / "in").export(out)  # the same one is


@pytest.mark.parametrize("attention", [True, False])
def test_a_multi_task_classifier_keeps_its_scores(tmp_path, attention):
    (tmp_path / "in").mkdir()
    theirs = write_multitask(tmp_path / "in", attention=attention)
    scfm.load(tmp_path / "in").export(tmp_path / "out")
    again, rows = scfm.load(tmp_path / "out"), cells()
    with torch.inference_mode():
        outputs = again.module.predict_step(packed(rows), 0)
        for i, row in enumerate(rows):
            first, second = theirs(row)
            np.testing.assert_allclose(outputs["logits"][i], first, atol=1e-5)
            np.testing.assert_allclose(outputs["logits/published_1"][i], second, atol=1e-5)


class TestOurOwn:
    @pytest.mark.parametrize("kind", ["weighted", "mean", "scfm://small"])
    def test_embeddings_are_those_of_the_checkpoint(self, kind, trained, stores, tmp_path):
        if kind == "scfm://small":  # denoised
            path, cells = kind, read_cells(demo_file())[:20].copy()
        else:
            path, cells = (
                trained(kind, *POOLS[kind], store="rank"),
                read_cells(stores["rank"].path.parent / "cells.h5ad"),
            )
        model = scfm.load(path)
        model.export(tmp_path / "out")
        again = scfm.load(tmp_path / "out")
        assert again.checkpoint.tokenizer == model.checkpoint.tokenizer
        found = [one.embed(cells, copy=True).obsm["X_scfm"] for one in (model, again)]
        np.testing.assert_array_equal(*found)

    def test_a_head_comes_back_with_its_calibration(self, trained, stores, tmp_path):
        tuned = fine_tune(trained, stores, tmp_path, "head=annotation/classifier", "adapt=lora")
        scfm.load(tuned).export(tmp_path / "out")
        file = stores["median"].path.parent / "cells.h5ad"
        found = [scfm.load(path).annotate(read_cells(file), copy=True).obs for path in (tuned, tmp_path / "out")]
        names = [name for name in found[0] if name.startswith("scfm_cell_type")]
        assert len(names) >= 3
        assert (found[0]["scfm_cell_type"] == found[1]["scfm_cell_type"]).all()
        np.testing.assert_allclose(*(obs["scfm_cell_type_confidence"] for obs in found), atol=1e-5)

    def test_a_pooled_classifier_is_the_one_of_transformers(self, trained, stores, tmp_path):
        tuned = fine_tune(trained, stores, tmp_path, "head=annotation/pooled")
        model = scfm.load(tuned)
        model.export(tmp_path / "out")
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
        assert tuple(theirs.config.id2label.values()) == tuple(model.checkpoint.classes["cell_type"])
        tokens = stores["median"].gather(np.arange(5))
        rows = [tokens[i] for i in range(5)]
        with torch.inference_mode():
            ours = model.module.predict_step(packed(rows), 0)["logits"]
        np.testing.assert_allclose(logits_of_cells(theirs, rows), ours, atol=1e-5)
        assert "`BertForSequenceClassification` computes it" in (tmp_path / "out" / "README.md").read_text()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda about: about.pop("tokenizer"), "has no tokenizer"),
            (lambda about: about.update(classes={"a": "b"}), "no lists of names"),
            (lambda about: about["config"].update(head={"_target_": "os.system", "command": "x"}), "not safe"),
        ],
    )
    def test_a_forged_description_is_refused(self, change, message, trained, tmp_path):
        scfm.load(trained("mlm", "objective=mlm")).export(tmp_path / "out")
        about = json.loads((tmp_path / "out" / "scfm.json").read_text())
        change(about)
        (tmp_path / "out" / "scfm.json").write_text(json.dumps(about))
        with pytest.raises(ValueError, match=message):
            read_checkpoint(tmp_path / "out")

    def test_an_export_without_the_weights_of_its_pooling_is_refused(self, trained, tmp_path):
        scfm.load(trained("weighted", *POOLS["weighted"], store="rank")).export(tmp_path / "out")
        (tmp_path / "out" / "readout.safetensors").unlink()
        with pytest.raises(ValueError, match="does not hold the weights of that pooling; export the model again"):
            read_checkpoint(tmp_path / "out")


def read_cells(file):
    import anndata

    return anndata.read_h5ad(file)


def fine_tune(trained, stores, tmp_path, *overrides):
    """A checkpoint of a short fine-tune."""
    options = [option for option in SMALL if not option.startswith("model.")]
    given = (f"init_from={trained('mlm', 'objective=mlm')}", f"store={stores['median'].path}")
    steps = ("head.label=cell_type", "trainer.max_steps=3", "optim.lr=0.01", "report=false", "data.group=null")
    command("finetune", *overrides, *given, *steps, f"output={tmp_path / 'tuned'}", *options)
    return tmp_path / "tuned" / "checkpoints" / "best.ckpt"
