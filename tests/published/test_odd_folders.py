"""Folders as they lie about: other formats, old keys, ids and limits that disagree. Read, or told why not."""

import json
import pickle
from collections import OrderedDict

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_matrix

import scfm
from published_folders import (
    GENES,
    SYMBOLS,
    assert_same_states,
    make_model,
    write_dictionaries,
    write_tokenizer,
)
from scfm.published.dictionaries import Dictionaries
from scfm.published.folder import read_checkpoint

TEXT_SPECIALS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")


def change_config(folder, remove=(), **keys):
    config = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in config.items() if key not in remove}
    (folder / "config.json").write_text(json.dumps(kept | keys))


def made_cells(names, n=12):
    counts = csr_matrix(np.random.default_rng(0).poisson(1.0, (n, len(names))).astype(np.float32))
    return anndata.AnnData(counts, var=pd.DataFrame(index=names))


def test_sharded_bfloat16_pickles_with_stored_duplicates(geneformer):
    folder, model = geneformer
    half = {name: value.bfloat16() for name, value in load_file(folder / "model.safetensors").items()}
    half["cls.predictions.decoder.weight"] = half["bert.embeddings.word_embeddings.weight"].clone()
    names = sorted(half)
    places = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(names)}
    for shard in set(places.values()):
        torch.save({name: half[name] for name in names if places[name] == shard}, folder / shard)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "model.safetensors").unlink()
    change_config(folder, remove=("dtype",), torch_dtype="bfloat16")
    assert_same_states(read_checkpoint(folder), model.bfloat16().float())


def test_a_pointer_among_the_shards_is_told(tmp_path):
    make_model("BertForMaskedLM").save_pretrained(tmp_path, max_shard_size="20KB")
    write_dictionaries(tmp_path)
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")
    with pytest.raises(ValueError, match="git lfs pull") as error:
        read_checkpoint(tmp_path)
    assert shard.name in str(error.value)


def test_a_pointer_in_place_of_a_tokenizer_is_told(tmp_path):
    make_model("GPT2LMHeadModel").save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")
    with pytest.raises(ValueError, match="git lfs pull"):
        read_checkpoint(tmp_path)


def test_a_config_without_architectures_is_known_by_its_type(geneformer):
    folder, model = geneformer
    change_config(folder, remove=("architectures",))
    assert_same_states(read_checkpoint(folder), model)


def test_a_config_of_2021(geneformer):
    folder, model = geneformer
    change_config(
        folder, remove=("dtype", "use_cache"), gradient_checkpointing=False, transformers_version="4.6.0",
        output_past=True, directionality="bidi", xla_device=True,
    )  # fmt: skip
    assert_same_states(read_checkpoint(folder), model)


def test_the_default_pad_of_transformers_is_no_other_vocabulary(tmp_path):
    model = make_model("BertForMaskedLM", len(TEXT_SPECIALS))
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, TEXT_SPECIALS)
    change_config(tmp_path, pad_token_id=0)
    assert_same_states(read_checkpoint(tmp_path), model, n_specials=len(TEXT_SPECIALS))


@pytest.mark.parametrize(
    ("given", "config", "tokenizer", "expected"),
    [
        (None, {}, None, 64),  # the scheme's 4,096 are cut to the table
        (None, {}, 10**30, 64),  # as transformers writes "no limit"
        (None, {}, 48, 48),
        (None, {"scfm_max_length": 10**6}, None, 64),
        (20, {}, 48, 20),
        (500, {}, None, 64),
    ],
)
def test_the_limit_is_never_beyond_the_positions(geneformer, given, config, tokenizer, expected):
    folder, _ = geneformer
    change_config(folder, **config)
    if tokenizer is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": tokenizer}))
    checkpoint = read_checkpoint(folder, Dictionaries(max_length=given))
    assert (checkpoint.config["model"]["max_length"], checkpoint.tokenizer["options"]["max_length"]) == (expected,) * 2


def test_gpt2_with_a_limit_of_its_own_and_ids_of_a_language_model(tmp_path):
    model = make_model("GPT2LMHeadModel")
    model.save_pretrained(tmp_path)
    change_config(tmp_path, n_ctx=32, bos_token_id=50256, eos_token_id=50256, task_specific_params={"a": 1})
    write_tokenizer(tmp_path, ("<pad>", "</b>", "</s>", "<unk>"))
    checkpoint = read_checkpoint(tmp_path, Dictionaries(max_length=32))
    assert checkpoint.config["model"]["max_length"] == 32
    assert_same_states(read_checkpoint(tmp_path), model)


@pytest.mark.parametrize("missing", ["<mask>", "<eos>"])
def test_a_vocabulary_that_lacks_a_special_token_still_embeds(tmp_path, missing):
    specials = tuple(token for token in ("<pad>", "<mask>", "<cls>", "<eos>") if token != missing)
    make_model("BertForMaskedLM", len(specials)).save_pretrained(tmp_path)
    write_dictionaries(tmp_path, specials)
    adata = made_cells(SYMBOLS)
    scfm.load(tmp_path).embed(adata)
    assert np.isfinite(adata.obsm["X_scfm"]).all()


def test_a_vocabulary_without_any_is_refused(tmp_path):
    make_model("BertForMaskedLM", 0).save_pretrained(tmp_path)
    write_dictionaries(tmp_path, ())
    with pytest.raises(ValueError, match="none of the special tokens"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("kind", ["ordered", "protocol_5", "numpy", "json"])
def test_dictionaries_as_others_save_them(geneformer, kind):
    folder, model = geneformer
    source = folder.parent / "geneformer"
    values = {path.name: pickle.loads(path.read_bytes()) for path in source.iterdir()}
    tokens, medians = values["token_dictionary_gc104M.pkl"], values["gene_median_dictionary_gc104M.pkl"]
    made = {name: int(i) for name, i in tokens.items()}, {name: float(value) for name, value in medians.items()}
    if kind == "ordered":
        made = OrderedDict(made[0]), OrderedDict(made[1])
    if kind == "numpy":
        made = {k: np.int64(v) for k, v in made[0].items()}, {k: np.float32(v) for k, v in made[1].items()}
    given = {}
    for name, table in zip(("token_dictionary", "gene_median"), made, strict=True):
        path = folder.parent / f"{name}.{'json' if kind == 'json' else 'pkl'}"
        text = json.dumps(table).encode() if kind == "json" else pickle.dumps(table, protocol=5)
        path.write_bytes(text)
        given[name] = str(path)
    assert_same_states(read_checkpoint(folder, Dictionaries(**given)), model)


def test_embeddings_padded_to_a_round_number_are_told_by_both_sizes(geneformer):
    folder, _ = geneformer
    weights = load_file(folder / "model.safetensors")
    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"):
        extra = torch.zeros(4, *weights[name].shape[1:])
        weights[name] = torch.cat([weights[name], extra])
    save_file(weights, folder / "model.safetensors")
    change_config(folder, vocab_size=48)
    with pytest.raises((ValueError, FileNotFoundError), match="48 tokens"):
        read_checkpoint(folder)


def test_wrappers_of_other_trainers_are_told_by_their_names(geneformer):
    folder, _ = geneformer
    weights = {f"module.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"left over: .*module\.bert"):
        read_checkpoint(folder)


class TestSpecies:
    @pytest.fixture
    def mouse(self, tmp_path):
        """A model of mouse genes, as Mouse-Geneformer is published."""
        folder = tmp_path / "mouse"
        make_model("BertForMaskedLM").save_pretrained(folder)
        genes = [gene.replace("ENSG", "ENSMUSG") for gene in GENES]
        tokens = {token: i for i, token in enumerate(["<pad>", "<mask>", "<cls>", "<eos>", *genes])}
        values = {
            "token_dictionary_mouse.pkl": tokens,
            "gene_median_dictionary_mouse.pkl": {gene: 1.0 + i for i, gene in enumerate(genes)},
            "ensembl_mapping_dict_mouse.pkl": {name.title(): gene for name, gene in zip(SYMBOLS, genes, strict=True)},
        }
        for name, value in values.items():
            (folder / name).write_bytes(pickle.dumps(value))
        return folder, genes

    def test_its_own_cells_are_embedded(self, mouse):
        folder, genes = mouse
        adata = made_cells(genes)
        scfm.load(folder).embed(adata)
        assert np.isfinite(adata.obsm["X_scfm"]).all()

    def test_cells_of_another_species_are_refused(self, mouse):
        with pytest.raises(ValueError, match="gene"):
            scfm.load(mouse[0]).embed(made_cells(GENES))


def test_class_names_of_a_config_that_do_not_fit_are_told(tmp_path):
    make_model("BertForSequenceClassification").save_pretrained(tmp_path)
    write_dictionaries(tmp_path)
    change_config(tmp_path, id2label={"0": "B", "1": "B", "2": "T"})
    with pytest.raises(ValueError, match=r"id2label of config\.json .* give labels="):
        read_checkpoint(tmp_path)
