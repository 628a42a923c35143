"""Published dictionaries: pickles read without running what is in them, and tokenizers' JSON."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scfm.genes import read_alias
from scfm.vocab import Vocab

_GIT_LFS = b"version https://git-lfs.github.com/spec/"
_ALLOWED = {
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "scalar"): np._core.multiarray.scalar,  # type: ignore[attr-defined]
    ("numpy._core.multiarray", "scalar"): np._core.multiarray.scalar,  # type: ignore[attr-defined]
}


class _OnlyNumbers(pickle.Unpickler):
    """Builds plain values and NumPy scalars, and nothing else that a pickle may ask for."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"there is no dictionary {path}; expected a .pkl or .json as it was published")
    raw = path.read_bytes()
    if raw.startswith(_GIT_LFS):
        raise ValueError(
            f"{path} is a Git-LFS pointer of {len(raw)} bytes, not the dictionary itself: run `git lfs pull` where it "
            "comes from, or download the file itself"
        )
    return raw


def read_dictionary(path: str | Path) -> dict[str, Any]:
    """Read a published dictionary, as a pickle or as JSON; NumPy scalars become Python numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a Git-LFS pointer, a pickle that asks for anything but numbers and strings, or no dictionary.
    """
    path = Path(path)
    raw = _bytes(path)
    try:
        values = json.loads(raw) if raw.lstrip()[:1] == b"{" else _OnlyNumbers(io.BytesIO(raw)).load()
    except (pickle.UnpicklingError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a dictionary that can be read safely ({error}); expected a pickled dict of strings and "
            "numbers, or JSON"
        ) from error
    if not isinstance(values, dict) or not values:
        raise ValueError(f"{path} holds {type(values).__name__} of {len(values) if hasattr(values, '__len__') else 0}; "
                         "expected a dictionary with entries")  # fmt: skip
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in values.items()}


def _token_ids(values: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Token -> id of a token dictionary, or of a ``tokenizer.json`` with its added tokens."""
    if isinstance(values.get("model"), dict):
        ids = values["model"].get("vocab")
        if not isinstance(ids, dict):
            raise ValueError(
                f"{path} has no word-level vocabulary (model.vocab); expected a tokenizer.json of iSEEEK or tGPT"
            )
        return {**ids, **{added["content"]: added["id"] for added in values.get("added_tokens") or ()}}
    return dict(values)


def read_tokens(path: str | Path) -> tuple[str, ...]:
    """The tokens of a token dictionary (``.pkl``, ``.json``) or a ``tokenizer.json``, by id.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or its ids are not 0, 1, 2, ... each once.
    """
    path = Path(path)
    ids = _token_ids(read_dictionary(path), path)
    for token, token_id in ids.items():
        if not isinstance(token, str) or not isinstance(token_id, int):
            raise ValueError(
                f"{path} maps {token!r} to {token_id!r}; expected tokens to ids (is it another dictionary?)"
            )
    by_id = {token_id: token for token, token_id in ids.items()}
    if sorted(by_id) != list(range(len(ids))):
        raise ValueError(
            f"{path} has {len(ids)} tokens with {len(by_id)} ids between {min(by_id)} and {max(by_id)}; "
            f"expected each of 0 ... {len(ids) - 1} once"
        )
    return tuple(by_id[i] for i in range(len(ids)))


def read_medians(path: str | Path, vocab: Vocab) -> np.ndarray:
    """Medians by token id, (V,) float64; 1 at tokens that are no genes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, a gene of the vocabulary has no median, or one that is not above 0.
    """
    values = read_dictionary(path)
    medians = np.ones(len(vocab))
    for i in vocab.gene_ids:
        median = values.get(vocab.tokens[i])
        if not isinstance(median, int | float) or not 0 < median < np.inf:
            raise ValueError(
                f"{path} has {median!r} as the median of {vocab.tokens[i]}; expected a finite number above 0 for every "
                "gene of the token dictionary (are the two of the same release?)"
            )
        medians[i] = median
    return medians


def read_mapping(path: str | Path) -> dict[str, str]:
    """An alias map, UPPER-CASE name -> Ensembl id or symbol: a published pickle, JSON, or a table (``.tsv``).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read.
    """
    path = Path(path)
    if path.name.removesuffix(".gz").endswith((".tsv", ".txt")):
        return read_alias(path)
    return {str(name).upper(): str(target) for name, target in read_dictionary(path).items()}
