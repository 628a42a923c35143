"""Counts in number types that scipy and numba do not know: half and long floats, bytes in the other order."""

import anndata as ad
import h5py
import numpy as np
import pytest
from scipy.sparse import csc_matrix, csr_matrix

from scfm.cells.file import open_cells
from scfm.tokenizer import RankTokenizer
from scfm.vocab import Vocab

LAYOUTS = {"dense": lambda counts: counts, "csr": csr_matrix, "csc": csc_matrix}
TYPES = ["float16", ">f2", ">f4", ">f8", ">i2", ">i4", ">u8", "longdouble", "uint8", "int64", "uint64"]


def write(path, counts, layout, dtype):
    """An .h5ad whose counts are stored in a type; indices too are in its byte order."""
    cells = ad.AnnData(LAYOUTS[layout](counts))
    cells.var_names = [f"G{i}" for i in range(counts.shape[1])]
    cells.write_h5ad(path)
    order = ">" if np.dtype(dtype).str[0] == ">" else "<"
    with h5py.File(path, "a") as file:
        parts = {"X": dtype} if layout == "dense" else {"data": dtype, "indices": f"{order}i4", "indptr": f"{order}i8"}
        parent = file if layout == "dense" else file["X"]
        for name, kind in parts.items():
            values, attributes = parent[name][:].astype(kind), dict(parent[name].attrs)
            del parent[name]
            parent.create_dataset(name, data=values).attrs.update(attributes)
    return path


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_are_read_as_they_are(layout, dtype, tmp_path):
    counts = np.random.default_rng(0).poisson(2, (20, 30)).astype(np.float32)
    tokenizer = RankTokenizer(
        Vocab(("<cls>", *(f"G{i}" for i in range(30))), {"cls": 0}), name="r", max_length=40, specials={"cls": "<cls>"}
    )
    columns = np.arange(1, 31, dtype=np.int32)
    expected = tokenizer.encode(csr_matrix(counts), columns).values.tolist()
    with open_cells(write(tmp_path / "x.h5ad", counts, layout, dtype)) as opened:
        (block,) = opened.blocks()
    np.testing.assert_array_equal(block.counts.toarray(), counts)
    assert tokenizer.encode(block.counts, columns).values.tolist() == expected


@pytest.mark.parametrize("dtype", ["float16", ">f4", "longdouble"])
def test_cells_in_memory_are_read_as_they_are(dtype):
    counts = np.random.default_rng(0).poisson(2, (20, 30)).astype(dtype)
    cells = ad.AnnData(np.zeros((20, 30), dtype=np.float32))
    cells.X = counts
    with open_cells(cells) as opened:
        np.testing.assert_array_equal(next(opened.blocks()).counts.toarray(), counts.astype(float))
