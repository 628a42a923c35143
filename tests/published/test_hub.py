"""Models by their name on the hub: from the cache, or fetched file by file; the client is a stand-in throughout."""

import shutil

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from scfm.published.folder import read_checkpoint
from scfm.published.hub import choose_files, find_snapshot


@pytest.fixture
def hub(geneformer, monkeypatch, tmp_path):
    """A repository on a made-up hub; what was asked of it."""
    asked = []
    cache = tmp_path / "cache" / "snapshot"

    def snapshot_download(repository, *, revision=None, local_files_only=False, allow_patterns=None):
        asked.append((repository, revision, "cache" if local_files_only else sorted(allow_patterns)))
        if local_files_only:
            if not cache.exists():
                raise LocalEntryNotFoundError("not here")
        else:
            for name in allow_patterns:
                (cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(geneformer[0].parent / name, cache / name)
        return str(cache)

    names = [str(path.relative_to(geneformer[0].parent)) for path in geneformer[0].parent.rglob("*") if path.is_file()]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(
        huggingface_hub,
        "list_repo_files",
        lambda repository, revision: [*names, "model/training_args.bin", "other/model.safetensors"],
    )
    return asked


def test_a_model_is_fetched_once_with_its_dictionaries_and_nothing_else(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    checkpoint = read_checkpoint("hf://user/name/model@v1")
    assert checkpoint.published and len(checkpoint.tokenizer["vocab"]["tokens"]) == 44
    fetched = hub[-1]
    assert fetched[:2] == ("user/name", "v1") and "model/model.safetensors" in fetched[2]
    assert not any("training_args" in name or name.startswith("other/") for name in fetched[2])
    hub.clear()
    read_checkpoint("hf://user/name/model@v1")
    assert hub == [("user/name", "v1", "cache")]


def test_offline_reads_the_cache_alone_and_names_the_folder_to_copy(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"models--user--name.*HF_HUB_OFFLINE.*copy that folder"):
        find_snapshot("hf://user/name/model")
    assert [question[2] for question in hub] == ["cache"]


def test_no_network_is_one_sentence(hub, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", fail)
    with pytest.raises(FileNotFoundError, match="cannot be fetched"):
        find_snapshot("hf://user/name")


@pytest.mark.parametrize("address", ["hf://user", "hf://user/../x", "hf://user/name@"])
def test_no_address_is_refused(address):
    with pytest.raises(ValueError, match="expected hf://USER/NAME"):
        find_snapshot(address)


def test_of_two_formats_safetensors_is_taken_and_of_shards_all():
    names = [
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "optimizer.pt",
        "sub/model.safetensors",
        "g/token_dictionary_gc104M.pkl",
    ]
    assert choose_files(names, "") == ["config.json", "model.safetensors", "g/token_dictionary_gc104M.pkl"]
    shards = [
        "a/config.json",
        "a/model.safetensors.index.json",
        "a/model-00001-of-00002.safetensors",
        "a/model-00002-of-00002.safetensors",
    ]
    assert choose_files(shards, "a") == shards


def test_what_an_export_of_scfm_has_beside_is_fetched_too():
    names = ["config.json", "model.safetensors", "scfm.json", "head.safetensors", "readout.safetensors", "README.md"]
    assert choose_files(names, "") == [*names[:1], *names[2:5], names[1]]
