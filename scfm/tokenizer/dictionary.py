"""Published dictionaries: pickles read without running what is in them, and tokenizers' JSON."""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from scfm.genes import read_alias
from scfm.trust.plain import plain_fault
from scfm.vocab import Vocab

_GIT_LFS = b"version https://git-lfs.github.com/spec/"
#: A dictionary of 60,000 genes has 2 MB, the largest alias maps 20 MB.
MAX_BYTES = 1 << 28


class _Kind:
    """Stands for ``numpy.dtype`` in a pickle: the kind of one number or text, checked before NumPy sees it.

    NumPy would take sizes and flags from the pickle as they are, and read memory by them.
    """

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>=|]?(?:[biuf][1248]|U[0-9]{1,4})", code):
            raise pickle.UnpicklingError(f"it has a number of the kind {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        whole = isinstance(state, tuple) and len(state) == 8 and state[2:5] == (None, None, None)
        order = state[1] if whole else None
        if order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError("it describes a number in an unknown way")
        self.dtype = self.dtype.newbyteorder(order)


def _scalar(kind: Any, raw: Any) -> Any:
    """One NumPy scalar of a pickle as a Python value."""
    if not isinstance(kind, _Kind) or not isinstance(raw, bytes) or len(raw) != kind.dtype.itemsize:
        raise pickle.UnpicklingError("it has a number whose bytes do not fit its kind")
    return np.frombuffer(raw, dtype=kind.dtype)[0].item() if raw else ""


def _encode_latin1(text: Any, encoding: Any) -> bytes:
    """How protocol 2 stores bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it has bytes in an unknown encoding")
    return text.encode("latin1")


_ALLOWED = {
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _encode_latin1,
    ("collections", "OrderedDict"): dict,
}


class _OnlyValues(pickle._Unpickler):
    """Builds plain values and NumPy scalars, and nothing else that a pickle may ask for.

    Python's own unpickler, not the compiled one: that one makes room for as many memos as a pickle says there are.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]

    def _refuse(self, *_: Any) -> None:
        raise pickle.UnpicklingError("it has something other than text and numbers")

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: _refuse,
        pickle.NEXT_BUFFER[0]: _refuse,
    }


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"there is no dictionary {path}; expected a .pkl or .json as it was published")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; a dictionary of genes has at most {MAX_BYTES:,}")
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
    raw = _read_bytes(path)
    try:
        values = json.loads(raw) if raw.lstrip()[:1] == b"{" else _OnlyValues(io.BytesIO(raw)).load()
        odd = plain_fault(values, keys=(str, int))
        fault = None if odd is None else f"it {odd}"
    except Exception as error:  # a file that was made to be wrong can be wrong in any way
        fault = str(error) or type(error).__name__
    if fault is not None:
        raise ValueError(
            f"{path} is not a dictionary that can be read safely ({fault}); expected a pickled dict of strings and "
            "numbers, or JSON"
        )
    if not isinstance(values, dict) or not values:
        size = len(values) if isinstance(values, list | str | dict) else 0
        raise ValueError(f"{path} holds {type(values).__name__} of {size}; expected a dictionary with entries")
    return values


def _token_ids(values: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Token -> id of a token dictionary, or of a ``tokenizer.json`` with its added tokens."""
    if isinstance(values.get("model"), dict):
        ids = values["model"].get("vocab")
        if not isinstance(ids, dict):
            raise ValueError(
                f"{path} has no word-level vocabulary (model.vocab); expected a tokenizer.json of iSEEEK or tGPT"
            )
        added = values.get("added_tokens") or []
        if not isinstance(added, list) or not all(
            isinstance(one, dict) and {"content", "id"} <= one.keys() for one in added
        ):
            raise ValueError(f"{path} has added_tokens of another kind; expected a list of content and id")
        return {**ids, **{one["content"]: one["id"] for one in added}}
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
        if not isinstance(token, str) or type(token_id) is not int:
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
        median: Any = values.get(vocab.tokens[i])
        if type(median) not in (int, float) or not 0 < median < np.inf:
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
