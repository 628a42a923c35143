"""Any h5ad: the counts and labels that anndata reads, or one sentence; never another exception."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csc_matrix, csr_matrix

from fuzzing import bounded
from scfm.cells.file import open_cells

CELLS, GENES = 7, 5
LAYOUTS = {"csr": csr_matrix, "csc": csc_matrix, "dense": lambda counts: counts.toarray()}
COLUMNS = {
    "text": ["a", "b", None, "", "nan", "a", "ä"],
    "category": pd.Categorical(["x", "y", None, "x", "x", "y", "x"]),
    "numbers": pd.Categorical([1.0, 2.0, np.nan, 1.0, 1.0, 2.0, 3.0]),
    "integers": [1, 2, 3, 1014900001, 5, 6, 7],
    "missing": [np.nan] * 7,
    "flags": [True, False] * 3 + [True],
    "nullable": pd.array([1, None, 3, 4, 5, 6, 7], dtype="Int64"),
    "nullable flags": pd.array([True, None, False, True, None, True, False], dtype="boolean"),
    "category of flags": pd.Categorical([True, False, True, True, False, False, True]),
    "largest": [-(2**63), 2**63 - 1, 0, 1, -1, 5, 6],
    "small": np.arange(7, dtype=np.uint8),
    "blanks": ["T", "T ", " T", "t", "T\t", "\u00e4", "a\u0308"],
}

layouts = st.sampled_from(sorted(LAYOUTS))
dtypes = st.sampled_from(
    ["float32", "float64", "int8", "uint8", "uint16", "int64", "uint64", "float16", "bool", ">i4", ">f8", "longdouble"]
)
places = st.sets(st.sampled_from(["layers", "raw", "X"]), min_size=1)
names = st.sampled_from(["symbol", "ensembl", "joined", "prefix", "number", "repeated"])


def gene_names(style):
    symbols, ids = ["ACTB", "HLA-A", "CD3E", "CD4", "B2M"], [f"ENSG{i:011d}" for i in range(GENES)]
    return {
        "symbol": symbols,
        "ensembl": ids,
        "joined": [f"{symbol}_{gene}" for symbol, gene in zip(symbols, ids, strict=True)],
        "prefix": [f"GRCh38_{symbol}" for symbol in symbols],
        "number": [str(i) for i in range(GENES)],
        "repeated": ["ACTB"] * GENES,
    }[style]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "x.h5ad"


def write(path, data):
    """A file with counts in some places; returns the counts, the place that must be found, and the columns of obs."""
    counts = csr_matrix(np.random.default_rng(data.draw(st.integers(0, 9))).poisson(1.0, (CELLS, GENES)))
    counts[:, 0] = 1
    where = data.draw(places)
    dtype = data.draw(dtypes)
    if dtype == "bool":
        counts.data[:] = 1
    matrix = LAYOUTS[data.draw(layouts)](counts.astype(np.float64)).astype(dtype)
    if data.draw(st.booleans()) and matrix.dtype == np.float16:
        matrix = matrix.astype(np.float32)
    logged = csr_matrix(counts, dtype=np.float32)
    logged.data = np.log1p(logged.data)
    columns = data.draw(st.sets(st.sampled_from(sorted(COLUMNS))))
    obs = pd.DataFrame({name: COLUMNS[name] for name in columns}, index=[f"c{i}" for i in range(CELLS)])
    var = pd.DataFrame(index=gene_names(data.draw(names)))
    cells = ad.AnnData(matrix if "X" in where else logged, obs=obs, var=var)
    if "layers" in where:
        cells.layers["counts"] = matrix
    if "raw" in where:
        cells.raw = ad.AnnData(matrix, var=var, obs=obs[[]])
    cells.write_h5ad(path, compression=data.draw(st.sampled_from([None, "gzip", "lzf"])))
    label = "layers['counts']" if "layers" in where else "raw.X" if "raw" in where else "X"
    return counts, label, obs


def read(path):
    with open_cells(path) as opened:
        blocks = list(opened.blocks(size=3))
        return np.vstack([block.counts.toarray() for block in blocks]), opened, pd.concat([b.obs for b in blocks])


@pytest.mark.filterwarnings("ignore")
@bounded(60)
@given(st.data())
def test_any_sound_file_is_read_as_it_is(path, data):
    try:
        counts, label, obs = write(path, data)
    except (TypeError, NotImplementedError, ValueError):
        return  # anndata does not write this
    got, opened, columns = read(path)
    assert opened.counts_from == label
    assert (got == counts.toarray()).all()
    for name in obs:
        expected = [None if pd.isna(value) else value for value in obs[name]]
        assert [None if pd.isna(value) else value for value in columns[name]] == expected


def members(path):
    found = []
    with h5py.File(path, "r") as file:
        file.visit(found.append)
    return found


CHANGES = ["delete", "empty", "text", "wrong length", "negative", "scalar", "group", "attributes", "wrong type"]


def change(path, name, how):
    with h5py.File(path, "r+") as file:
        element = file[name]
        attributes = dict(element.attrs)
        if how == "attributes":
            for key in attributes:
                del element.attrs[key]
            return
        values = element[()] if isinstance(element, h5py.Dataset) else np.arange(3)
        del file[name]
        if how == "delete":
            return
        made = {
            "empty": np.empty(0, dtype=np.int32),
            "text": np.array([b"x", b"y"]),
            "wrong length": np.atleast_1d(values)[:-1],
            "negative": -np.ones(np.shape(values) or (1,), dtype=np.int64),
            "scalar": 3,
            "wrong type": np.full(np.shape(values), np.nan),
        }
        if how == "group":
            file.create_group(name)
        else:
            file[name] = made[how]
        file[name].attrs.update(attributes)


@pytest.mark.filterwarnings("ignore")
@bounded(60)
@given(st.data())
def test_any_changed_file_is_read_or_refused_in_a_sentence(path, data):
    try:
        write(path, data)
    except (TypeError, NotImplementedError, ValueError):
        return
    name = data.draw(st.sampled_from(members(path)))
    change(path, name, data.draw(st.sampled_from(CHANGES)))
    try:
        got, _, _ = read(path)
    except (ValueError, OSError) as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
    else:
        assert (got >= 0).all()
