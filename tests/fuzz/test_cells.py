"""Whatever arrays a matrix is made of, its blocks lie inside it or the file is refused with a sentence."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.sparse import csr_matrix

from fuzzing import bounded
from scfm.cells.file import open_cells
from scfm.tokenizer import RankTokenizer
from scfm.tokenizer.dictionary import read_dictionary
from scfm.vocab import Vocab

KINDS = st.sampled_from(["i1", "i4", "i8", "u1", "u4", "u8", ">i4", "f4", "f8", "bool"])


def numbers(length: int):
    small = st.integers(0, 12)
    any_of_kind = KINDS.flatmap(lambda kind: arrays.arrays(kind, st.integers(0, 14)))
    return any_of_kind | st.lists(small, min_size=length, max_size=length).map(lambda v: np.array(v, dtype=np.int32))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, request) -> Path:
    import anndata

    path = tmp_path_factory.mktemp("fuzzed") / "cells.h5ad"
    adata = anndata.AnnData(csr_matrix(np.eye(4, 5, dtype=np.float32)))
    adata.write_h5ad(path)
    return path


@bounded(250)
@given(
    kind=st.sampled_from(["csr_matrix", "csc_matrix"]),
    parts=st.fixed_dictionaries({"data": numbers(4), "indices": numbers(4), "indptr": numbers(5)}),
    shape=st.sampled_from([(4, 5)] * 6 + [(5, 4), (4, 1 << 40), (1 << 40, 5), (-4, 5)]),
)
def test_any_arrays_in_a_file(path, kind, parts, shape):
    with h5py.File(path, "r+") as file:
        for name, values in parts.items():
            del file[f"X/{name}"]
            file[f"X/{name}"] = values
        file["X"].attrs["shape"], file["X"].attrs["encoding-type"] = shape, kind
    try:
        with open_cells(path, counts="lognorm_ok") as cells:
            for block in cells.blocks(size=3):
                block.counts.check_format(full_check=True)
    except ValueError as error:
        assert str(path.name) in str(error)


@bounded(400)
@given(parts=st.tuples(numbers(4), numbers(4), numbers(3)))
def test_any_arrays_in_memory(parts):
    counts = csr_matrix((2, 3), dtype=np.float64)
    data, counts.indices, counts.indptr = parts
    counts.data = data.astype(np.float64)
    tokenizer = RankTokenizer(
        Vocab(("<cls>", "a", "b", "c"), {"cls": 0}), name="r", max_length=4, specials={"cls": "<cls>"}
    )
    try:
        found = tokenizer.encode(counts, np.array([1, 2, 3], dtype=np.int32))
    except ValueError:
        return
    assert set(found.values.tolist()) <= {0, 1, 2, 3}


@bounded(600)
@given(data=st.data())
def test_any_bytes_in_a_dictionary(path, data):
    entries = {"ENSG1": np.float64(1.5), "ENSG2": 2, "ENSG3": "name", "ENSG4": np.int64(3)}
    changed = bytearray(pickle.dumps(entries, protocol=data.draw(st.integers(0, 5))))
    for _ in range(data.draw(st.integers(1, 5))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    forged = path.with_name("forged.pkl")
    forged.write_bytes(changed)
    try:
        found = read_dictionary(forged)
    except ValueError as error:
        assert "forged.pkl" in str(error)
        return
    assert all(value is None or isinstance(value, str | int | float | list | dict) for value in found.values())
