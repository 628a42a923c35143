"""Published folders of every class: the same hidden states and scores as transformers' own, in every layer."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import scfm
from published_folders import (
    SYMBOLS,
    assert_same_states,
    cells,
    make_model,
    packed,
    write_dictionaries,
    write_multitask,
    write_tokenizer,
)
from scfm.inference.load import restore_predictor
from scfm.published.folder import read_checkpoint
from support import command

BERT_CLASSES = ("BertForMaskedLM", "BertModel", "BertForSequenceClassification", "BertForTokenClassification")


@pytest.mark.parametrize("name", BERT_CLASSES)
@pytest.mark.parametrize("weights", ["safetensors", "bin", "legacy_bin", "sharded"])
def test_every_bert_class_and_file_of_weights_gives_the_states_of_transformers(tmp_path, name, weights):
    model = make_model(name)
    model.save_pretrained(tmp_path, max_shard_size="20KB" if weights == "sharded" else "5GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == (weights == "sharded")
    if "bin" in weights:
        (tmp_path / "model.safetensors").unlink()
        modern = weights == "bin"
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=modern)
    write_dictionaries(tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.command == "train" and not checkpoint.causal
    assert_same_states(checkpoint, model)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "GPT2Model"])
def test_gpt2_with_the_buffers_of_older_releases_gives_the_states_of_transformers(tmp_path, name):
    model = make_model(name)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    prefix = "transformer." if name == "GPT2LMHeadModel" else ""
    for layer in range(3):
        weights[f"{prefix}h.{layer}.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.uint8)
        weights[f"{prefix}h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(weights, tmp_path / "model.safetensors")
    write_tokenizer(tmp_path, ("<pad>", "</b>", "</s>", "<unk>"))
    checkpoint = read_checkpoint(tmp_path)
    rule = {key: checkpoint.config["model"][key] for key in ("embedding_layer", "embedding_pool", "max_length")}
    assert checkpoint.causal and rule == {"embedding_layer": -1, "embedding_pool": "mean", "max_length": 64}
    assert_same_states(checkpoint, model)


def test_old_names_position_ids_and_tied_duplicates_are_the_same_model(geneformer):
    folder, model = geneformer
    weights = load_file(folder / "model.safetensors")
    assert "cls.predictions.decoder.weight" not in weights
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in weights.items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(64)[None]
    old["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"].clone()
    old["cls.predictions.decoder.bias"] = weights["cls.predictions.bias"].clone()
    old["bert.pooler.dense.weight"], old["bert.pooler.dense.bias"] = torch.zeros(32, 32), torch.zeros(32)
    save_file(old, folder / "model.safetensors")
    assert_same_states(read_checkpoint(folder), model)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"torch_dtype": "float32"},
        {"dtype": "float32"},
        {
            "position_embedding_type": "absolute",
            "gradient_checkpointing": True,
            "use_cache": True,
            "transformers_version": "4.6.0",
        },
    ],
)
def test_config_keys_of_old_and_new_releases_are_read(geneformer, keys):
    folder, model = geneformer
    config = json.loads((folder / "config.json").read_text())
    config.pop("dtype", None)
    (folder / "config.json").write_text(json.dumps(config | keys))
    assert_same_states(read_checkpoint(folder), model)


def test_half_precision_is_read_as_float32(geneformer):
    folder, model = geneformer
    model.half().save_pretrained(folder)
    assert_same_states(read_checkpoint(folder), model.float())


@pytest.mark.parametrize(
    ("specials", "layer", "how", "name"),
    [
        (("<pad>", "<mask>", "<cls>", "<eos>"), -2, "cls", "geneformer_v2"),
        (("<pad>", "<mask>"), -2, "mean", "geneformer_v1"),
        (("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"), -1, "first", "iseeek"),
    ],
)
def test_the_embedding_rule_is_the_published_one(tmp_path, specials, layer, how, name):
    pad = specials.index("[PAD]") if name == "iseeek" else 0
    model = make_model("BertForMaskedLM", len(specials), pad_token_id=pad)
    model.save_pretrained(tmp_path)
    if name == "iseeek":
        write_tokenizer(tmp_path, specials)
    else:
        write_dictionaries(tmp_path, specials)
    checkpoint = read_checkpoint(tmp_path)
    found = checkpoint.config["model"]
    assert (found["embedding_layer"], found["embedding_pool"], checkpoint.tokenizer["options"]["name"]) == (
        layer,
        how,
        name,
    )
    rows = cells(n_specials=len(specials))
    if how != "mean":  # a cell begins with its first special token
        rows = [
            np.concatenate([[specials.index("[CLS]" if name == "iseeek" else "<cls>")], row]).astype(np.uint16)
            for row in rows
        ]
    with torch.inference_mode():
        got = restore_predictor(checkpoint).predict_step(packed(rows), 0)["embedding"]
        for row, mine in zip(rows, got, strict=True):
            states = model(torch.tensor(row[None].astype(np.int64)), output_hidden_states=True).hidden_states[layer][0]
            theirs = states.mean(0) if how == "mean" else states[0]
            np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_a_cell_classifier_names_cells_as_transformers_does(tmp_path):
    model = make_model("BertForSequenceClassification")
    model.save_pretrained(tmp_path)
    write_dictionaries(tmp_path)
    labels = tmp_path / "ksplit_id_class_dict.pkl"
    labels.write_bytes(pickle.dumps({0: "B", 1: "NK", 2: "T"}))
    loaded = scfm.load(tmp_path, labels=str(labels))
    rows = cells()
    with torch.inference_mode():
        outputs = loaded.module.predict_step(packed(rows), 0)
        theirs = torch.cat([model(torch.tensor(row[None].astype(np.int64))).logits for row in rows]).numpy()
    np.testing.assert_allclose(outputs["logits"], theirs, atol=1e-5)
    names = loaded.head.write(outputs).obs["scfm_published_guess"]
    assert list(names) == [("B", "NK", "T")[i] for i in theirs.argmax(1)]
    assert scfm.load(tmp_path).checkpoint.classes == {"published": ("LABEL_0", "LABEL_1", "LABEL_2")}


@pytest.mark.parametrize("attention", [True, False])
def test_a_multi_task_classifier_gives_its_published_scores_whatever_else_is_in_the_batch(tmp_path, attention):
    theirs = write_multitask(tmp_path, attention=attention)
    labels = tmp_path / "task_label_mappings.pkl"
    labels.write_bytes(pickle.dumps({"cell_type": {"B": 0, "T": 2, "NK": 1}, "disease": {"healthy": 0, "ill": 1}}))
    loaded = scfm.load(tmp_path, labels=str(labels))
    assert loaded.checkpoint.classes == {"cell_type": ("B", "NK", "T"), "disease": ("healthy", "ill")}
    rows = cells()
    with torch.inference_mode():
        outputs = loaded.module.predict_step(packed(rows), 0)
        for i, row in enumerate(rows):
            first, second = theirs(row)
            np.testing.assert_allclose(outputs["logits"][i], first, atol=1e-5)
            np.testing.assert_allclose(outputs["logits/disease"][i], second, atol=1e-5)


@pytest.fixture
def adata():
    """Cells whose counts are of the made-up genes, by symbol, as the alias map knows them."""
    import anndata
    import pandas as pd
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    counts = csr_matrix(rng.poisson(1.0, (24, len(SYMBOLS))).astype(np.float32))
    obs = pd.DataFrame({"cell_type": ["a", "b", "c"] * 8}, index=[f"cell{i}" for i in range(24)])
    return anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=SYMBOLS))


def test_an_imported_model_embeds_saves_prepares_and_fine_tunes(geneformer, adata, tmp_path):
    folder, model = geneformer
    loaded = scfm.load(folder)
    loaded.embed(adata)
    saved = loaded.save(tmp_path / "saved.ckpt")
    again = scfm.load(saved).embed(adata, copy=True)
    np.testing.assert_array_equal(again.obsm["X_scfm"], adata.obsm["X_scfm"])
    file = tmp_path / "cells.h5ad"
    adata.write_h5ad(file)
    command("prepare", f"input={file}", f"output={tmp_path / 'store'}", f"init_from={folder}", "obs=[cell_type]")
    command("embed", f"init_from={folder}", f"input={file}", f"output={tmp_path / 'embedded.h5ad'}")
    for dictionary in (folder.parent / "geneformer").iterdir():
        dictionary.unlink()  # the store brings the vocabulary from now on
    command(
        "finetune", f"init_from={folder}", f"store={tmp_path / 'store'}", f"output={tmp_path / 'tuned'}",
        "head=annotation/pooled", "head.label=cell_type", "trainer.max_steps=1", "trainer.accelerator=cpu",
        "optim.lr=0", "callbacks.progress=null", "trainer.enable_progress_bar=false", "report=false", "calibration=0",
    )  # fmt: skip
    tuned = scfm.load(tmp_path / "tuned" / "checkpoints" / "last.ckpt")
    before = model.state_dict()
    for name, value in tuned.backbone.model.state_dict().items():  # the published weights were really loaded
        torch.testing.assert_close(value, before[name], msg=name)
    np.testing.assert_allclose(tuned.embed(adata, copy=True).obsm["X_scfm"], adata.obsm["X_scfm"], atol=1e-6)


def test_training_goes_on_and_is_planned_from_a_published_model(geneformer, adata, tmp_path):
    folder, model = geneformer
    file, store = tmp_path / "cells.h5ad", tmp_path / "store"
    adata.write_h5ad(file)
    command("prepare", f"input={file}", f"output={store}", f"init_from={folder}", "obs=[cell_type]")
    found = command("plan", f"init_from={folder}", f"store={store}", "trainer.max_steps=1")
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    command(
        "train", f"init_from={folder}", f"store={store}", f"output={tmp_path / 'on'}", "optim.lr=0",
        "trainer.max_steps=1", "trainer.accelerator=cpu", "callbacks.progress=null",
        "trainer.enable_progress_bar=false",
    )  # fmt: skip
    before = model.state_dict()
    for name, value in scfm.load(tmp_path / "on" / "checkpoints" / "last.ckpt").backbone.model.state_dict().items():
        torch.testing.assert_close(value, before[name], msg=name)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "GPT2LMHeadModel"])
def test_an_export_of_an_import_is_the_same_model(tmp_path, name):
    model = make_model(name)
    model.save_pretrained(tmp_path / "in")
    if name == "BertForMaskedLM":
        write_dictionaries(tmp_path / "in")
    else:
        write_tokenizer(tmp_path / "in", ("<pad>", "</b>", "</s>", "<unk>"))
    first = scfm.load(tmp_path / "in")
    first.export(tmp_path / "out")
    second = scfm.load(tmp_path / "out")
    assert second.vocab == first.vocab and second.checkpoint.config["model"] == first.checkpoint.config["model"]
    assert second.checkpoint.tokenizer.get("medians") == first.checkpoint.tokenizer.get("medians")
    weights = load_file(tmp_path / "in" / "model.safetensors")
    assert weights.keys() == (again := load_file(tmp_path / "out" / "model.safetensors")).keys()
    assert all(torch.equal(value, again[key]) for key, value in weights.items())


def test_the_shipped_model_files_and_an_import_describe_the_same_model(geneformer):
    found = read_checkpoint(geneformer[0]).config["model"]
    assert (found["layers"], found["width"], found["activation"], found["max_length"]) == (3, 32, "relu", 64)
