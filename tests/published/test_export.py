"""Exported folders load in transformers and compute what the checkpoint computes; nothing is invented or lost."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

import scfm
from support import SMALL, command


@pytest.fixture(scope="module")
def annotated(trained, stores, tmp_path_factory):
    """A fine-tune with low-rank additions."""
    output = tmp_path_factory.mktemp("heads") / "lora"
    options = [option for option in SMALL if not option.startswith("model.")]
    command(
        "finetune",
        "head=annotation/classifier",
        "head.label=cell_type",
        "adapt=lora",
        "report=false",
        "data.group=null",
        f"init_from={trained('mlm')}",
        f"store={stores['median'].path}",
        f"output={output}",
        "trainer.max_steps=3",
        "optim.lr=0.01",
        *options,
    )
    return output / "checkpoints" / "last.ckpt"


KINDS = {
    "mlm": ("objective=mlm",),
    "ar": ("objective=ar",),
    "untied_mlm": ("objective=mlm", "+model.options={tie_word_embeddings: false}"),
    "untied_ar": ("objective=ar", "+model.options={tie_word_embeddings: false}"),
    "ema": ("objective=mlm", "callbacks=ema"),
}


def logits_of(model, cell):
    """(L, V) of one cell by ours, in float32."""
    from scfm.data.packing import pack
    from scfm.types import Ragged

    batch = pack(Ragged(cell.astype(np.int64), np.array([0, len(cell)])), np.array([0]), obs={}, seed=0, counts=None)
    with torch.inference_mode():
        return model.backbone.logits(model.backbone(batch))


def require_equal(folder, model, store):
    auto = AutoModelForCausalLM if model.checkpoint.causal else AutoModelForMaskedLM
    theirs, told = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for row in (0, 5):
        cell = store.gather(np.array([row])).values
        with torch.inference_mode():
            logits = theirs.eval()(torch.from_numpy(cell.astype(np.int64))[None]).logits[0]
        torch.testing.assert_close(logits, logits_of(model, cell), atol=1e-6, rtol=1e-5)
    return theirs


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_loads_it_and_computes_the_same(kind, trained, stores, tmp_path):
    model = scfm.load(trained(kind, *KINDS[kind]))
    files = model.export(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files
    theirs = require_equal(tmp_path / "out", model, stores["median"])
    tied = theirs.get_output_embeddings().weight is theirs.get_input_embeddings().weight
    assert tied == (not kind.startswith("untied"))
    ours = model.backbone.model.state_dict()
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, ours[name]), name
    assert (theirs.dtype, model.backbone.config.pad_token_id) == (torch.float32, None if "ar" in kind else 0)


def test_low_rank_additions_are_merged_and_the_head_lies_beside(annotated, stores, tmp_path):
    model = scfm.load(annotated)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    assert any("lora" in name for name in before)
    model.export(tmp_path / "out")
    torch.testing.assert_close(dict(model.module.state_dict()), before, atol=0, rtol=0, equal_nan=True)
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert not any("lora" in name for name in theirs.state_dict())
    cell = stores["median"].gather(np.array([3])).values
    with torch.inference_mode():
        logits = theirs.eval()(torch.from_numpy(cell.astype(np.int64))[None]).logits[0]
    torch.testing.assert_close(logits, logits_of(model, cell), atol=1e-5, rtol=1e-5)
    head = load_file(tmp_path / "out" / "head.safetensors")
    torch.testing.assert_close(head, dict(model.head.state_dict()), atol=0, rtol=0, equal_nan=True)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Low-rank additions (LoRA) are merged" in card
    assert "Classifier" in card


def test_config_says_what_old_and_new_transformers_ask_for(trained, tmp_path):
    for kind in ("mlm", "ar"):
        scfm.load(trained(kind, *KINDS[kind])).export(tmp_path / kind)
        config = json.loads((tmp_path / kind / "config.json").read_text())
        assert config["dtype"] == config["torch_dtype"] == "float32"
        assert (config["pad_token_id"], config["bos_token_id"], config["eos_token_id"]) == (0, 2, 3)
        assert config["scfm_max_length"] == 80
        assert config.get("position_embedding_type") == ("absolute" if kind == "mlm" else None)


def test_half_precision_on_request(trained, tmp_path):
    model = scfm.load(trained("mlm", *KINDS["mlm"]))
    model.export(tmp_path / "out", dtype="bfloat16")
    assert {value.dtype for value in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert model.backbone.model.dtype == torch.float32
    with pytest.raises(ValueError, match="dtype='int8'; expected float32"):
        model.export(tmp_path / "other", dtype="int8")


@pytest.mark.parametrize(("kind", "store"), [("mlm", "median"), ("rank", "rank")])
def test_the_vocabulary_as_pickles_tables_and_a_tokenizer(kind, store, trained, stores, tmp_path):
    model = scfm.load(trained(kind, "objective=mlm", store=store))
    out = tmp_path / "out"
    model.export(out)
    tokens = pickle.loads((out / "token_dictionary.pkl").read_bytes())
    assert tokens == model.vocab.ids
    assert {type(value) for value in tokens.values()} == {int}
    table = pd.read_csv(out / "token_dictionary.tsv", sep="\t", keep_default_na=False)
    assert dict(zip(table["token"], table["id"], strict=True)) == tokens
    genes = [model.vocab.tokens[i] for i in model.vocab.gene_ids]
    mapping = pickle.loads((out / "ensembl_mapping_dict.pkl").read_bytes())
    assert {mapping[gene.upper()] for gene in genes} == set(genes)
    assert all(name == name.upper() for name in mapping)
    assert set(pickle.loads((out / "gene_name_id_dict.pkl").read_bytes()).values()) <= set(genes)
    if store == "median":
        medians = pickle.loads((out / "gene_median_dictionary.pkl").read_bytes())
        stored = model.checkpoint.tokenizer["medians"]
        assert medians == {gene: stored[tokens[gene]] for gene in genes}
        exact = (out / "gene_median_dictionary.tsv").read_text().splitlines()[1:]
        assert {line.split("\t")[0]: float(line.split("\t")[1]) for line in exact} == medians
    else:
        assert not (out / "gene_median_dictionary.pkl").exists()
    words = AutoTokenizer.from_pretrained(out)
    cell = stores[store].gather(np.array([7])).values
    line = " ".join(model.vocab.tokens[i] for i in cell[1:-1])
    assert words(line)["input_ids"] == cell.tolist()
    assert (words.pad_token_id, words.mask_token_id, words.model_max_length) == (0, 1, 80)
    with pytest.raises(Exception, match="UNK"):
        words("NO_GENE")


class TestCard:
    def test_it_holds_the_numbers_of_the_run_beside_the_baseline(self, trained, stores, tmp_path):
        path = trained("mlm", *KINDS["mlm"])
        scfm.load(path).export(tmp_path / "out", license="apache-2.0")
        card = (tmp_path / "out" / "README.md").read_text()
        found = json.loads((path.parent.parent / "metrics.json").read_text())
        assert f"| val/loss | {found['val/loss']:.4f} | {found['val/unigram_loss']:.4f} |" in card
        assert f"{len(stores['median'])} cells, {stores['median'].lengths.sum():,} tokens" in card
        front = card.split("---")[1]
        assert 'license: "apache-2.0"' in front
        assert "pipeline_tag: fill-mask" in front
        assert "special tokens are left out" in card

    def test_what_is_not_known_is_not_claimed(self, trained, stores, tmp_path):
        path = trained("mlm", *KINDS["mlm"])
        other = tmp_path / "moved" / "model.ckpt"
        other.parent.mkdir()
        other.write_bytes(path.read_bytes())
        scfm.load(other).export(tmp_path / "out")
        card = (tmp_path / "out" / "README.md").read_text()
        assert "nothing is claimed" in card
        assert "val/loss" not in card
        assert "no license was stated" in card
        assert str(tmp_path.parent) not in (tmp_path / "out" / "scfm.json").read_text()


class TestFolder:
    def test_an_earlier_export_of_the_run_is_replaced(self, trained, tmp_path):
        model = scfm.load(trained("mlm", *KINDS["mlm"]))
        model.export(tmp_path / "out")
        model.export(tmp_path / "out", dtype="float16")
        assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float16"
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_anything_else_is_refused(self, trained, tmp_path):
        model = scfm.load(trained("mlm", *KINDS["mlm"]))
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("mine")
        with pytest.raises(FileExistsError, match="no export of scfm; choose another output"):
            model.export(tmp_path / "mine")
        assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
        scfm.load(trained("ar", *KINDS["ar"])).export(tmp_path / "ar")
        with pytest.raises(FileExistsError, match="another run"):
            model.export(tmp_path / "ar")
        model.export(tmp_path / "out")
        (tmp_path / "out" / "notes.txt").write_text("mine")
        with pytest.raises(FileExistsError, match=r"holds notes\.txt"):
            model.export(tmp_path / "out")
        (tmp_path / "out" / "notes.txt").unlink()
        about = json.loads((tmp_path / "out" / "scfm.json").read_text())
        about["export"]["step"] = 99
        (tmp_path / "out" / "scfm.json").write_text(json.dumps(about))
        with pytest.raises(FileExistsError, match="step 99 of this run, later than step 2"):
            model.export(tmp_path / "out")

    def test_nothing_is_left_of_a_failed_export(self, trained, tmp_path, monkeypatch):
        def fail(*_, **__):
            raise OSError("broken disk")

        monkeypatch.setattr("scfm.published.export.write_card", fail)
        with pytest.raises(OSError, match="broken disk"):
            scfm.load(trained("mlm", *KINDS["mlm"])).export(tmp_path / "out")
        assert not list(tmp_path.iterdir())


class TestCommand:
    def test_one_of_checkpoint_and_store(self, stores, tmp_path):
        with pytest.raises(ValueError, match="nothing to export; expected checkpoint"):
            command("export", f"output={tmp_path / 'out'}")
        both = (f"store={stores['rank'].path}", "checkpoint=x.ckpt", f"output={tmp_path / 'out'}")
        with pytest.raises(ValueError, match="checkpoint and store to export"):
            command("export", *both)
        with pytest.raises(ValueError, match="cells of a store are not uploaded"):
            command("export", f"store={stores['rank'].path}", f"output={tmp_path / 'out'}", "push=a/b")

    def test_a_name_of_no_repository(self, trained, tmp_path):
        with pytest.raises(ValueError, match="push=USER/NAME"):
            command("export", f"checkpoint={trained('mlm', *KINDS['mlm'])}", f"output={tmp_path / 'out'}", "push=me")
        assert not (tmp_path / "out").exists()
