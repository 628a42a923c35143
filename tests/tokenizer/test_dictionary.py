"""Dictionaries from elsewhere: read without trust."""

import json
import pickle

import numpy as np
import pytest

from scfm.tokenizer.dictionary import read_dictionary, read_mapping, read_medians, read_tokens
from scfm.vocab import Vocab

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:67c445f4\nsize 425590\n"


class Evil:
    def __reduce__(self):
        return (print, ("owned",))


def write(path, values):
    path.write_bytes(pickle.dumps(values) if path.suffix == ".pkl" else json.dumps(values).encode())
    return path


@pytest.mark.parametrize("protocol", range(3, 6))
def test_numpy_scalars_become_numbers(tmp_path, protocol):
    path = tmp_path / "d.pkl"
    path.write_bytes(pickle.dumps({"A": np.int16(3), "B": 2.5, "C": 1}, protocol=protocol))
    values = read_dictionary(path)
    assert values == {"A": 3, "B": 2.5, "C": 1}
    assert all(type(value) in (int, float) for value in values.values())


def test_tokens_come_by_id(tmp_path):
    assert read_tokens(write(tmp_path / "t.pkl", {"B": np.int16(1), "<pad>": 0, "A": 2})) == ("<pad>", "B", "A")
    assert read_tokens(write(tmp_path / "t.json", {"B": 1, "<pad>": 0})) == ("<pad>", "B")
    added = [{"id": 2, "content": "[CLS]"}, {"id": 0, "content": "[UNK]"}]
    published = {"model": {"vocab": {"[UNK]": 0, "A": 1}}, "added_tokens": added}
    assert read_tokens(write(tmp_path / "tokenizer.json", published)) == ("[UNK]", "A", "[CLS]")


@pytest.mark.parametrize("value", [Evil(), {"A": Evil()}, {"A": open}, {"A": np.ones(2)}])
def test_nothing_in_a_pickle_is_run(tmp_path, value, capsys):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(ValueError, match=r"cannot be read safely|can be read safely \(it asks for"):
        read_dictionary(path)
    assert "owned" not in capsys.readouterr().out


@pytest.mark.parametrize("read", [read_dictionary, read_tokens, read_mapping])
def test_a_git_lfs_pointer_is_named(tmp_path, read):
    (tmp_path / "token.pkl").write_bytes(LFS)
    with pytest.raises(ValueError, match="token.pkl is a Git-LFS pointer of .*git lfs pull"):
        read(tmp_path / "token.pkl")


@pytest.mark.parametrize("raw", [b"", b"nonsense", b"{broken", pickle.dumps({"A": 1})[:-3], b"\x80\x05"])
def test_damaged_files(tmp_path, raw):
    (tmp_path / "d.pkl").write_bytes(raw)
    with pytest.raises(ValueError, match="d.pkl is not a dictionary that can be read safely"):
        read_dictionary(tmp_path / "d.pkl")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2], "holds list of 2"),
        ({}, "holds dict of 0"),
        ({"A": 0, "B": 0}, "2 tokens with 1 ids"),
        ({"A": 1, "B": 2}, "expected each of 0 ... 1 once"),
        ({"A": 0, "B": 1.5}, "maps 'B' to 1.5"),
        ({1: 0}, "maps 1 to 0"),
        ({"model": {"vocab": [["a", 0.1]]}}, "no word-level vocabulary"),
    ],
)
def test_dictionaries_that_are_no_token_dictionary(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        read_tokens(write(tmp_path / "t.pkl", values))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no dictionary .*none.pkl"):
        read_tokens(tmp_path / "none.pkl")


def test_medians_by_id(tmp_path):
    vocab = Vocab(("<pad>", "B", "A"), {"pad": 0})
    path = write(tmp_path / "m.pkl", {"A": np.float64(0.1), "B": 3.0, "C": 0.0})
    assert read_medians(path, vocab).tolist() == [1.0, 3.0, 0.1]


@pytest.mark.parametrize("median", [0.0, -1.0, np.nan, np.inf, "x", None])
def test_medians_that_cannot_divide(tmp_path, median):
    values = {"A": 1.0, "B": median}
    with pytest.raises(ValueError, match="as the median of B"):
        read_medians(write(tmp_path / "m.pkl", values), Vocab(("A", "B")))


def test_alias_maps_of_either_kind(tmp_path):
    assert read_mapping(write(tmp_path / "m.pkl", {"tp53": "ENSG1"})) == {"TP53": "ENSG1"}
    (tmp_path / "m.tsv").write_text("p53\tTP53\n")
    assert read_mapping(tmp_path / "m.tsv") == {"P53": "TP53"}
