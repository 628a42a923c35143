"""Published models by their name on the Hugging Face hub, through its local cache."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from scfm.published.exported import ABOUT, HEAD, READOUT
from scfm.published.weights import FILES, INDEXES

SCHEME = "hf://"
#: What an export of scfm has beside.
OWN = (ABOUT, HEAD, READOUT)
_ADDRESS = re.compile(r"hf://([\w.-]+)/([\w.-]+)((?:/[\w.-]+)*)(?:@([\w./-]+))?")
#: What is fetched of a model's folder. ``training_args.bin`` and ``optimizer.pt`` are pickles of other things.
_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    *FILES,
    "model-*.safetensors",
    "pytorch_model-*.bin",
    *OWN,
)
#: Dictionaries of a whole repository.
_DICTIONARIES = ("token_dictionary*.pkl", "gene_median_dictionary*.pkl", "ensembl_mapping_dict*.pkl")


def find_snapshot(address: str) -> Path:
    """The local folder of a model: from the cache, or fetched into it where that is allowed.

    Args:
        address: ``hf://USER/NAME``, with ``/FOLDER`` of the repository and ``@REVISION`` where wanted.

    Raises:
        FileNotFoundError: it is not in the cache, and the hub is offline or has no such model.
        ValueError: no such address.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or ".." in address:
        raise ValueError(f"{address!r} is no address of a model; expected hf://USER/NAME, or hf://USER/NAME/FOLDER@REV")
    repository, below, revision = f"{found[1]}/{found[2]}", found[3].strip("/"), found[4]
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, revision=revision, local_files_only=True)) / below
        if (folder / "config.json").is_file() and any((folder / name).is_file() for name in FILES):
            return folder
    except LocalEntryNotFoundError:
        pass
    home = Path(constants.HF_HUB_CACHE) / f"models--{found[1]}--{found[2]}"
    missing = f"{address} is not in the cache ({home})"
    copy = "copy that folder from a machine that has it, or give init_from= the folder of the model itself"
    if constants.HF_HUB_OFFLINE:
        raise FileNotFoundError(f"{missing} and HF_HUB_OFFLINE is set; {copy}")
    try:
        names = huggingface_hub.list_repo_files(repository, revision=revision)
        wanted = choose_files(names, below)
        root = huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=wanted)
    except (HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(f"{missing} and cannot be fetched ({type(error).__name__}); {copy}") from error
    return Path(root) / below


def choose_files(names: list[str], below: str) -> list[str]:
    """The files of a repository that a model needs, the others left where they are.

    Args:
        names: of all files.
        below: the model's folder; empty for the root.
    """
    own = [name for name in names if name.rpartition("/")[0] == below and _is(name, _FILES)]
    flat = [name.rpartition("/")[2] for name in own]
    first = next((name for name in FILES if name in flat), None)
    weights = [name for name in own if _is(name, (*FILES, "model-*.safetensors", "pytorch_model-*.bin"))]
    shards = {INDEXES[0]: "model-*", INDEXES[1]: "pytorch_model-*"}
    kept = [name for name in weights if _is(name, (first or "", shards.get(first or "", "")))]
    return [name for name in own if name not in weights] + kept + [name for name in names if _is(name, _DICTIONARIES)]


def _is(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name.rpartition("/")[2], pattern) for pattern in patterns)
