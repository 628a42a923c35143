"""What a published folder is refused for: one sentence that says what was found and what to do."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from published_folders import make_model, write_dictionaries
from scfm.published.dictionaries import Dictionaries
from scfm.published.folder import read_checkpoint


class Harmful:
    """Would make a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def refusal(folder, **given):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read_checkpoint(folder, Dictionaries(**given))
    assert "\n" not in str(error.value)
    return str(error.value)


def change_config(folder, **keys):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | keys))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_missing_dictionaries_are_named(geneformer):
    folder, _ = geneformer
    shutil.rmtree(folder.parent / "geneformer")
    message = refusal(folder)
    for name in ("tokenizer.token_dictionary", "tokenizer.gene_median", "tokenizer.gene_mapping", "44 tokens"):
        assert name in message


def test_a_vocabulary_of_another_size_is_refused(geneformer, tmp_path):
    folder, _ = geneformer
    write_dictionaries(tmp_path / "other", ("<pad>", "<mask>"), "_gc30M")
    other = tmp_path / "other"
    given = {
        "token_dictionary": str(other / "token_dictionary_gc30M.pkl"),
        "gene_median": str(other / "gene_median_dictionary_gc30M.pkl"),
    }
    assert "has 42 tokens" in (message := refusal(folder, **given)) and "has 44" in message
    shutil.copy(given["token_dictionary"], folder)
    shutil.rmtree(folder.parent / "geneformer")
    assert "no vocabulary beside it has as many" in refusal(folder)


def test_the_right_release_is_chosen_by_its_size(geneformer):
    folder, _ = geneformer
    write_dictionaries(folder.parent / "geneformer" / "gene_dictionaries_30m", ("<pad>", "<mask>"), "_gc30M")
    write_dictionaries(folder.parent / "geneformer", ("<pad>", "<mask>"), "_a_first_by_name")
    assert len(read_checkpoint(folder).tokenizer["vocab"]["tokens"]) == 44


def test_other_ids_of_special_tokens_are_refused(geneformer):
    folder, _ = geneformer
    change_config(folder, pad_token_id=3)
    assert "pad id 0" in (message := refusal(folder)) and "says 3" in message


@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "RobertaForMaskedLM", "BertForPreTraining"])
def test_another_class_is_refused(geneformer, name):
    change_config(geneformer[0], architectures=[name])
    assert name in (message := refusal(geneformer[0])) and "BertForMaskedLM" in message


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_git_lfs_pointer_is_told(geneformer, name):
    (geneformer[0] / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")
    assert "git lfs pull" in refusal(geneformer[0])


def test_a_pointer_among_the_dictionaries_is_told(geneformer):
    pointer = geneformer[0].parent / "geneformer" / "token_dictionary_gc104M.pkl"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")
    assert "git lfs pull" in refusal(geneformer[0])


def test_unsafe_pickles_are_refused_and_run_nothing(geneformer, tmp_path):
    folder, made = geneformer
    (folder / "model.safetensors").unlink()
    torch.save({**made.state_dict(), "x": Harmful(tmp_path / "ran")}, folder / "pytorch_model.bin")
    assert "asks for more than tensors" in refusal(folder)
    torch.save(made.state_dict(), folder / "pytorch_model.bin")
    path = folder.parent / "geneformer" / "gene_median_dictionary_gc104M.pkl"
    path.write_bytes(pickle.dumps({"ENSG00000000001": Harmful(tmp_path / "ran")}))
    assert "read safely" in refusal(folder)
    assert not (tmp_path / "ran").exists()


def test_pickles_of_training_are_never_opened(geneformer, tmp_path):
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt"):
        (geneformer[0] / name).write_bytes(pickle.dumps(Harmful(tmp_path / "ran")))
    read_checkpoint(geneformer[0])
    assert not (tmp_path / "ran").exists()


def test_no_weights_and_no_config(geneformer):
    folder, _ = geneformer
    config = (folder / "config.json").read_text()
    (folder / "config.json").unlink()
    assert "no config.json" in refusal(folder)
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").unlink()
    assert "no weights" in refusal(folder)


def test_a_duplicate_that_is_not_tied_is_refused(geneformer):
    folder, _ = geneformer
    change_weights(folder, lambda weights: weights.update({"cls.predictions.decoder.weight": torch.zeros(44, 32)}))
    assert "not tied" in refusal(folder)


def test_any_other_difference_lists_both_sides(geneformer):
    folder, _ = geneformer

    def change(weights):
        del weights["bert.encoder.layer.1.output.dense.bias"]
        weights["bert.encoder.layer.9.output.dense.bias"] = torch.zeros(32)
        weights["bert.embeddings.LayerNorm.weight"] = torch.ones(31)

    change_weights(folder, change)
    message = refusal(folder)
    for part in ("layer.1.output.dense.bias", "layer.9.output.dense.bias", "(31,) for (32,)"):
        assert part in message


@pytest.mark.parametrize(
    "keys",
    [
        {"hidden_size": -1},
        {"num_hidden_layers": "six"},
        {"vocab_size": None},
        {"hidden_dropout_prob": "x"},
        {"num_hidden_layers": 10**7},
        {"hidden_size": 33},
        {"hidden_act": "no_such"},
    ],
)
def test_a_forged_config_is_refused(geneformer, keys):
    change_config(geneformer[0], **keys)
    refusal(geneformer[0])


def test_an_index_that_leads_outside_or_to_a_lost_shard_is_refused(tmp_path):
    made = make_model("BertForMaskedLM")
    made.save_pretrained(tmp_path, max_shard_size="20KB")
    write_dictionaries(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    first = next(iter(content["weight_map"]))
    index.write_text(json.dumps({**content, "weight_map": {**content["weight_map"], first: "../x.safetensors"}}))
    assert "weight_map" in refusal(tmp_path)
    index.write_text(json.dumps(content))
    (tmp_path / content["weight_map"][first]).unlink()
    assert "not there" in refusal(tmp_path)


def test_class_names_that_do_not_fit_are_refused(tmp_path):
    make_model("BertForSequenceClassification").save_pretrained(tmp_path)
    write_dictionaries(tmp_path)
    labels = tmp_path / "id_class_dict.pkl"
    labels.write_bytes(pickle.dumps({0: "B", 1: "T"}))
    assert "the model has 3" in refusal(tmp_path, labels=str(labels))
