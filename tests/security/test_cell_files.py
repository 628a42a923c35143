"""Files of cells from a stranger: their own values alone, in range before compiled code, no more than they hold."""

import h5py
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scfm.cells.file import open_cells

READ = """
import sys, resource
from scfm.cells.file import open_cells
resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
with open_cells(sys.argv[1], counts="lognorm_ok") as cells:
    for block in cells.blocks(size=7):
        block.counts.sum(), block.counts.toarray()
"""


@pytest.fixture
def sound(tmp_path, make_adata):
    path = tmp_path / "cells.h5ad"
    adata = make_adata(n_cells=30, n_genes=20)
    adata.var_names = [f"GENE{i}" for i in range(20)]
    adata.write_h5ad(path)
    return path


def replace(path, name, values, **options):
    with h5py.File(path, "r+") as file:
        attributes = dict(file[name].attrs) if name in file else {}
        del file[name]
        made = file.create_dataset(name, data=values, **options)
        made.attrs.update(attributes)


def part(path, name):
    with h5py.File(path) as file:
        return file[name][:]


def refused(path, apart, word: str = "") -> str:
    """One sentence, in a process that lives on."""
    status, said = apart(READ, path)
    assert status == 1, said[-2000:]
    last = said.strip().splitlines()[-1]
    assert "ValueError" in last and word in last, said[-2000:]
    return last


def changed(values, place, value):
    values = values.copy()
    values[place] = value
    return values


INDICES = {
    "floats": lambda v: v.astype(np.float64),
    "NaN": lambda v: changed(v.astype(np.float32), 3, np.nan),
    "too large": lambda v: changed(v, 5, 30),
    "very large": lambda v: changed(v.astype(np.int64), 5, 1 << 40),
    "negative": lambda v: changed(v, 5, -1),
    "very negative": lambda v: changed(v.astype(np.int64), 5, -(1 << 62)),
    "unsigned": lambda v: changed(v.astype(np.uint64), 5, (1 << 64) - 1),
    "other byte order": lambda v: changed(v.astype(">i4"), 5, 1 << 20),
    "text": lambda v: v.astype("S8"),
    "truth": lambda v: v.astype(bool),
    "complex": lambda v: v.astype(np.complex64),
    "two dimensions": lambda v: v[:, None],
    "short": lambda v: v[:-3],
    "empty": lambda v: v[:0],
}
POINTERS = {
    "floats": lambda v: v.astype(np.float64),
    "NaN": lambda v: changed(v.astype(np.float32), 3, np.nan),
    "falling": lambda v: changed(v, 3, v[-1]),
    "negative": lambda v: changed(v, 3, -5),
    "not from 0": lambda v: changed(v, 0, 1),
    "past the end": lambda v: changed(v, -1, v[-1] + 10),
    "wrapping": lambda v: changed(v.astype(np.uint64), 3, 1 << 63),
    "wrapping far": lambda v: changed(v.astype(np.int64), 3, (1 << 62) + 7),
    "text": lambda v: v.astype("S8"),
    "short": lambda v: v[:-1],
    "long": lambda v: np.append(v, v[-1]),
    "empty": lambda v: v[:0],
}


@pytest.mark.parametrize("kind", ["csr", "csc"])
@pytest.mark.parametrize(
    ("name", "change"),
    [("indices", change) for change in INDICES.items()] + [("indptr", change) for change in POINTERS.items()],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_matrix_that_leads_outside_itself_is_refused(sound, tmp_path, kind, name, change):
    if kind == "csc":
        import anndata

        adata = anndata.read_h5ad(sound)
        adata.X = adata.X.tocsc()
        adata.write_h5ad(sound)
    replace(sound, f"X/{name}", change[1](part(sound, f"X/{name}")))
    with pytest.raises(ValueError) as caught, open_cells(sound, counts="lognorm_ok") as cells:
        list(cells.blocks(size=7))
    assert "cells.h5ad" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [INDICES["NaN"], INDICES["very negative"], INDICES["unsigned"]])
def test_what_ended_the_process_is_a_sentence(sound, apart, change):
    replace(sound, "X/indices", change(part(sound, "X/indices")))
    refused(sound, apart, "damaged")


@pytest.mark.parametrize("values", ["text", "complex", "two"])
def test_values_that_are_no_numbers_are_refused(sound, values):
    data = part(sound, "X/data")
    kinds = {"text": data.astype("S8"), "complex": data.astype(np.complex64), "two": data[:, None]}
    replace(sound, "X/data", kinds[values])
    with pytest.raises(ValueError, match="expected a list of numbers"):
        open_cells(sound, counts="lognorm_ok")


@pytest.mark.parametrize("shape", [[30], [30, 20, 1], [30.0, 20.0], [-1, 20], [30, -20], [1 << 40, 20], "x"])
def test_a_shape_that_is_none_is_refused(sound, shape):
    with h5py.File(sound, "r+") as file:
        file["X"].attrs["shape"] = shape
    with pytest.raises(ValueError, match="damaged|claims|x 20|30 x"):
        open_cells(sound, counts="lognorm_ok")


def test_external_storage_is_not_read(sound, tmp_path, apart):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.arange(1000, dtype=np.float32).tobytes())
    with h5py.File(sound, "r+") as file:
        n = file["X/data"].shape[0]
        del file["X/data"]
        file.create_dataset("X/data", (n,), "f4", external=[(str(secret), 0, 4 * n)])
    assert "secret" not in refused(sound, apart, "lie in another file")


@pytest.mark.parametrize("where", ["X", "obs/type", "layers/counts", "uns/more"])
def test_a_link_to_another_file_is_not_followed(sound, tmp_path, make_adata, where):
    make_adata(n_cells=30, n_genes=20).write_h5ad(tmp_path / "other.h5ad")
    with h5py.File(sound, "r+") as file:
        if where in file:
            del file[where]
        file[where] = h5py.ExternalLink(str(tmp_path / "other.h5ad"), "/X")
    with pytest.raises(ValueError, match="link to another file"):
        open_cells(sound)


def test_a_virtual_dataset_is_not_read(sound, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["values"] = np.ones(50, dtype=np.float32)
    layout = h5py.VirtualLayout(shape=(50,), dtype="f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "values", shape=(50,))
    with h5py.File(sound, "r+") as file:
        file.create_virtual_dataset("uns/more", layout)
    with pytest.raises(ValueError, match="lie in another file"):
        open_cells(sound)


def test_a_link_inside_the_file_is_followed(sound):
    with h5py.File(sound, "r+") as file:
        file["layers/counts"] = h5py.SoftLink("/X")
    with open_cells(sound) as cells:
        assert cells.counts_from == "layers['counts']"


def test_evaluate_reads_no_other_file(sound, tmp_path):
    from scfm.commands.evaluate import read_file

    with h5py.File(sound, "r+") as file:
        file["uns/more"] = h5py.ExternalLink("/etc/hostname", "/")
    with pytest.raises(ValueError, match="link to another file"):
        read_file(sound)


def claim_genes(path, n: int) -> None:
    """A file of a few MB in which ``n`` genes of one name each are claimed."""
    with h5py.File(path, "r+") as file:
        attributes = dict(file["var/_index"].attrs)
        del file["var/_index"]
        made = file.create_dataset("var/_index", (n,), "S8", chunks=(1 << 20,), compression="gzip")
        made.attrs.update(attributes)
        file["X"].attrs["shape"] = [30, n]


@pytest.mark.parametrize("n_genes", [3_000_000, 300_000_000])
def test_more_genes_than_there_are_take_no_memory(sound, apart, n_genes):
    claim_genes(sound, n_genes)
    refused(sound, apart, "claims")


def test_more_cells_than_the_file_holds_take_no_memory(sound, apart):
    """Pointers of a billion cells: 8 GB of zeros in 8 MB."""
    n = 500_000_000
    with h5py.File(sound, "r+") as file:
        index, columns = dict(file["obs/_index"].attrs), list(file["obs"].attrs["column-order"])
        for name in columns:
            del file[f"obs/{name}"]
        file["obs"].attrs["column-order"] = np.array([], dtype="S1")
        del file["obs/_index"], file["X/indptr"]
        file.create_dataset("obs/_index", (n,), "S8", chunks=(1 << 20,), compression="gzip").attrs.update(index)
        file.create_dataset("X/indptr", (n + 1,), "i8", chunks=(1 << 20,), compression="gzip")
        file["X"].attrs["shape"] = [n, 20]
    refused(sound, apart, "claims")


def test_a_chunk_larger_than_memory_is_refused(sound, apart):
    with h5py.File(sound, "r+") as file:
        n = file["X/data"].shape[0]
        values = file["X/data"][:]
        del file["X/data"]
        made = file.create_dataset("X/data", (n,), "f4", chunks=(500_000_000,), maxshape=(None,), compression="gzip")
        assert values.shape == made.shape
    refused(sound, apart, "chunks of 2.0 GB")


def test_a_row_of_more_values_than_places_is_refused(sound):
    many = 2_100_000
    pointers = np.zeros(31, dtype=np.int64)
    pointers[1:] = many
    replace(sound, "X/data", np.ones(many, dtype=np.float32), compression="gzip")
    replace(sound, "X/indices", np.zeros(many, dtype=np.int32), compression="gzip")
    replace(sound, "X/indptr", pointers)
    with pytest.raises(ValueError, match="2,100,000 values lie in one row"):
        open_cells(sound)


def test_a_loom_file_of_text_is_refused(tmp_path):
    path = tmp_path / "text.loom"
    with h5py.File(path, "w") as file:
        file["matrix"] = np.full((4, 3), b"x")
        file["row_attrs/Gene"] = np.array([b"A", b"B", b"C", b"D"])
        file["col_attrs/CellID"] = np.array([b"a", b"b", b"c"])
    with pytest.raises(ValueError, match="expected numbers"):
        open_cells(path)


def test_a_10x_file_of_very_many_names_takes_no_memory(tmp_path, apart):
    path = tmp_path / "bomb.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for name in ("features/id", "features/name", "features/feature_type"):
            group.create_dataset(name, (300_000_000,), "S8", chunks=(1 << 20,), compression="gzip")
        group["barcodes"] = np.array([b"a"])
        group["shape"] = np.array([300_000_000, 1])
    refused(path, apart, "claims")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("indices", np.array([0, 1, 1 << 30])),
        ("indices", np.array([0, -1, 2])),
        ("indptr", np.array([0, 9])),
        ("indptr", np.array([0, 3, 2, 3])),
        ("indptr", np.array([1, 3])),
    ],
)
def test_a_matrix_in_memory_is_looked_at_too(part, value):
    from scfm.tokenizer import RankTokenizer
    from scfm.vocab import Vocab

    tokenizer = RankTokenizer(Vocab(("<cls>", "a", "b", "c"), {"cls": 0}), name="r", max_length=4,
                              specials={"cls": "<cls>"})  # fmt: skip
    counts = csr_matrix(np.array([[1.0, 2.0, 3.0]]))
    columns = np.array([1, 2, 3], dtype=np.int32)
    assert tokenizer.encode(counts, columns)[0].tolist() == [0, 3, 2, 1]
    setattr(counts, part, value.astype(np.int32))
    with pytest.raises(ValueError, match="the matrix"):
        tokenizer.encode(counts, columns)


def test_matrix_market_entries_outside_are_refused(tmp_path):
    (tmp_path / "barcodes.tsv").write_text("a\nb\n")
    (tmp_path / "features.tsv").write_text("ENSG1\tA\nENSG2\tB\n")
    head = "%%MatrixMarket matrix coordinate integer general\n2 2 1\n"
    for line in (
        "3 1 5",
        "0 1 5",
        "1 99999999999 5",
        "-1 1 5",
        "1 1 x",
        "1.5 1 5",
        "nan 1 5",
        "99999999999999999999999 1 5",
    ):
        (tmp_path / "matrix.mtx").write_text(f"{head}{line}\n")
        with pytest.raises(ValueError, match=tmp_path.name), open_cells(tmp_path) as cells:
            list(cells.blocks())
