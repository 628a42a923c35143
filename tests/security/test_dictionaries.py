"""A dictionary from a stranger gives text and numbers, or is refused; it never makes NumPy read memory."""

import json
import pickle
import struct

import numpy as np
import pytest

from scfm.tokenizer import from_dict
from scfm.tokenizer.dictionary import read_dictionary, read_mapping, read_medians, read_tokens
from scfm.vocab import Vocab

PROTO = pickle.PROTO + b"\x02"
#: numpy.dtype(CODE, False, True), then a state for it.
DTYPE = b"cnumpy\ndtype\n(V%s\nI00\nI01\ntR"
SCALAR = b"cnumpy.core.multiarray\nscalar\n(%s%stR"


def state(order: bytes = b"<", size: int = -1, flags: int = 0) -> bytes:
    return b"(I3\nV%s\nNNNI%d\nI%d\nI%d\ntb" % (order, size, size, flags)


def entry(value: bytes) -> bytes:
    """A pickle of {"A": value}."""
    return PROTO + b"}VA\n" + value + b"s."


def raw(data: bytes) -> bytes:
    return b"c_codecs\nencode\n(V%s\nVlatin1\ntR" % data.decode("latin1").encode("unicode_escape")


FORGED = {
    "object dtype": entry(SCALAR % (DTYPE % b"O8" + state(b"|", -1, 63), raw(b"\x41" * 8))),
    "object flags on a float": entry(SCALAR % (DTYPE % b"f8" + state(b"<", 8, 63), raw(b"\x41" * 4))),
    "a size of its own": entry(SCALAR % (DTYPE % b"V8" + state(b"|", 1 << 30), raw(b"\x41" * 8))),
    "huge text": entry(SCALAR % (DTYPE % b"U1000000000" + state(b"<", 1 << 31), raw(b"\x41" * 8))),
    "too few bytes": entry(SCALAR % (DTYPE % b"f8" + state(), raw(b"\x41" * 2))),
    "no bytes": entry(SCALAR % (DTYPE % b"f8" + state(), b"I7\n")),
    "fields": entry(SCALAR % (DTYPE % b"f8" + b"(I3\nV|\nN(VA\ntNI1\nI1\nI0\ntb", raw(b"\x41" * 8))),
    "a state of another kind": entry(SCALAR % (DTYPE % b"f8" + b"(I3\nI7\nNNI1\nI1\nI0\ntb", raw(b"\x41" * 8))),
    "a dtype of a dtype": entry(b"cnumpy\ndtype\n(cnumpy\ndtype\ntR"),
    "the dtype itself": entry(DTYPE % b"f8"),
    "the function": entry(b"cnumpy.core.multiarray\nscalar\n"),
    "another name": entry(b"cnumpy\nndarray\n"),
    "a persistent id": PROTO + b"}VA\nPx\ns.",
    "memo bomb after frames": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"}.",
    "array bomb": b"\x80\x05}VA\n\x96" + struct.pack("<Q", 1 << 40) + b"s.",
    "bytes bomb": b"\x80\x04}VA\n\x8e" + struct.pack("<Q", 1 << 60) + b"s.",
    "text bomb": b"\x80\x04}VA\n\x8d" + struct.pack("<Q", 1 << 60) + b"s.",
    "digits": PROTO + b"}VA\nI" + b"1" * 100_000 + b"\ns.",
    "a long number": PROTO + b"}VA\n\x8b" + struct.pack("<i", 100_000) + b"\x01" * 100_000 + b"s.",
    "deep lists": PROTO + b"}VA\n" + b"(" * 200_000 + b"l" * 200_000 + b"s.",
    "nested marks": PROTO + b"(" * 500_000 + b".",
    "doubled lists": PROTO + b"}VA\n]" + b"q\x00(h\x00h\x00l" * 1 + b"s.",
    "a list": PROTO + b"].",
    "nothing": b"",
    "a stop": b".",
    "truncated": pickle.dumps({"A": 1.5})[:-4],
    "deep json": b'{"a":' * 100_000,
    "json digits": b'{"a":' + b"1" * 100_000 + b"}",
    "no utf-8": b'{"a": "\xff"}',
}


def doubled(times: int) -> bytes:
    """Lists of two references to the list before: 2 ** times numbers when they are walked through."""
    text = PROTO + b"}VA\n]q\x00"
    for _ in range(times):
        text += b"(h\x00h\x00lq\x00"
    return text + b"s."


#: Reads a dictionary with 8 GB of addresses.
READ = (
    "import sys, resource; resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30)); "
    "from scfm.tokenizer.dictionary import read_dictionary; print(read_dictionary(sys.argv[1]))"
)


def refused(path, apart) -> None:
    status, said = apart(READ, path, seconds=60)
    assert status == 1, said[-2000:]
    assert "ValueError" in said.splitlines()[-1] and path.name in said.splitlines()[-1]


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_forged_dictionary_is_refused_in_one_sentence(tmp_path, forged):
    path = tmp_path / "forged.pkl"
    path.write_bytes(forged)
    with pytest.raises(ValueError, match=r"forged\.pkl") as caught:
        read_dictionary(path)
    assert "\n" not in str(caught.value)


def test_a_pickle_that_stands_for_very_many_numbers_is_refused(tmp_path, apart):
    path = tmp_path / "doubled.pkl"
    path.write_bytes(doubled(80))
    refused(path, apart)


def test_the_number_of_a_memo_takes_no_memory(tmp_path, apart):
    """Python's compiled unpickler makes room for all memos below it: 32 GB here."""
    path = tmp_path / "memo.pkl"
    path.write_bytes(PROTO + b"}r" + struct.pack("<I", 0x7FFFFFF0) + b"VA\nI1\ns.")
    assert apart(READ, path, seconds=60) == (0, "{'A': 1}\n")


@pytest.mark.parametrize("name", ["object dtype", "array bomb", "a size of its own"])
def test_what_ended_the_process_is_refused_by_a_process_that_lives_on(tmp_path, apart, name):
    path = tmp_path / "forged.pkl"
    path.write_bytes(FORGED[name])
    refused(path, apart)


def test_a_file_larger_than_any_dictionary_is_not_read(tmp_path):
    path = tmp_path / "large.pkl"
    with path.open("wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(ValueError, match="a dictionary of genes has at most"):
        read_dictionary(path)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value", [1.5, 7, "text", True, np.float64(0.1), np.float32(0.5), np.int64(-3), np.uint16(9), np.bool_(True)]
)
def test_every_scalar_and_protocol_is_read_as_it_was_written(tmp_path, protocol, value):
    path = tmp_path / "sound.pkl"
    path.write_bytes(pickle.dumps({"A": value, "B": value}, protocol=protocol))
    found = read_dictionary(path)
    assert found == {"A": value, "B": value}
    assert type(found["A"]) in (float, int, str, bool)


def test_text_of_numpy_and_the_other_byte_order_are_read(tmp_path):
    path = tmp_path / "sound.pkl"
    path.write_bytes(pickle.dumps({np.str_("A"): np.dtype(">f8").type(0.1), "B": np.array(7, ">i4")[()]}))
    assert read_dictionary(path) == {"A": 0.1, "B": 7}


@pytest.mark.parametrize(
    "state",
    [
        {"model": {"vocab": {"A": 0}}, "added_tokens": [7]},
        {"model": {"vocab": {"A": 0}}, "added_tokens": {"content": "x"}},
        {"model": {"vocab": ["A"]}},
        {"A": True},
        {"A": [0]},
        {"A": -1},
        {"A": 10**15},
    ],
)
def test_tokens_of_another_shape_are_refused(tmp_path, state):
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"tokens\.json"):
        read_tokens(path)


@pytest.mark.parametrize("median", [[1.0], {"x": 1}, "1", True, None, -1, 1e400])
def test_medians_of_another_kind_are_refused(tmp_path, median):
    path = tmp_path / "medians.json"
    path.write_text(json.dumps({"A": median}))
    with pytest.raises(ValueError, match="as the median of A"):
        read_medians(path, Vocab(("A",)))


def test_a_mapping_to_anything_but_text_is_still_text(tmp_path):
    (tmp_path / "map.json").write_text(json.dumps({"a": "ENSG1"}))
    assert read_mapping(tmp_path / "map.json") == {"A": "ENSG1"}


def sound_state() -> dict:
    from scfm.tokenizer import MedianTokenizer

    vocab = Vocab(("<pad>", "<cls>", "ENSG1"), {"pad": 0, "cls": 1})
    specials = {"pad": "<pad>", "cls": "<cls>"}
    return MedianTokenizer(vocab, {}, np.ones(3), name="t", max_length=8, specials=specials).to_dict()


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["options"].update(token_dictionary="/etc/passwd"),
        lambda state: state["options"].update(gene_mapping="/etc/passwd"),
        lambda state: state["options"].update(gene_median="/etc/passwd"),
        lambda state: state["options"].update(unknown=1),
        lambda state: state["options"].update(vocab={}),
        lambda state: state["options"].update(max_length="8"),
        lambda state: state["options"].update(max_length=-1),
        lambda state: state["options"].update(drop_genes="("),
        lambda state: state["options"].update(specials=["pad"]),
        lambda state: state["options"].pop("name"),
        lambda state: state.update(options=[]),
        lambda state: state.update(alias={"ENSG1": 7}),
        lambda state: state.update(medians=[1.0]),
        lambda state: state.update(medians=[1.0, 1.0, float("nan")]),
        lambda state: state.update(medians=[1.0, 1.0, 0.0]),
        lambda state: state.update(medians="x"),
        lambda state: state.pop("medians"),
        lambda state: state.update(kind=None),
        lambda state: state.update(vocab={"tokens": ["a"], "specials": {"pad": 7}, "words": []}),
    ],
)
def test_a_stored_tokenizer_is_whole_and_names_no_file(change):
    state = sound_state()
    from_dict(state)
    change(state)
    with pytest.raises(ValueError, match=r"tokenizer|vocabulary|special token|could not convert"):
        from_dict(state)
