"""Token lists that point outside their values are refused before compiled code reads them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from scfm.store.token_store import TokenStore
from support import write_made_store

LISTS = {
    "past the values": [0, 3, 1 << 30],
    "below the values": [-(1 << 30), 3, 6],
    "falling": [0, 6, 3],
    "wrapping": [0, (1 << 31) - 1, 6],
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_made_store(tmp_path / "store", n_cells=2).path


def replace(store: Path, change) -> None:
    """Write the only part again with some of its columns changed."""
    part = next(store.glob("*.arrow"))
    with pa.memory_map(str(part)) as source, pa.ipc.open_stream(source) as stream:
        batch = stream.read_all().combine_chunks().to_batches()[0]
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns.update(change(columns))
    new = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    part.unlink()
    with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_stream(sink, new.schema) as stream:
        stream.write_batch(new)


def lists(offsets: list[int], values: np.ndarray) -> pa.Array:
    """A list array that is never looked at: pyarrow would refuse it."""
    raw = pa.py_buffer(np.array(offsets, dtype=np.int32))
    return pa.Array.from_buffers(pa.list_(pa.uint16()), len(offsets) - 1, [None, raw], children=[pa.array(values)])


READ = "import sys; from scfm.store.token_store import TokenStore; s = TokenStore.open(sys.argv[1]); s.lengths; "


def forge(store: Path, column: str, offsets: list[int]) -> None:
    """Two lists, or two names, of three entries each, whose offsets are then changed in the file."""
    whole = {
        "input_ids": lists([0, 3, 6], np.arange(6, dtype=np.uint16)),
        "length": pa.array([3, 3], pa.int64()),
        "cell": pa.array(["abc", "def"]),
    }
    replace(store, lambda columns: whole)
    part = next(store.glob("*.arrow"))
    before, after = (np.array(values, dtype=np.int32).tobytes() for values in ([0, 3, 6], offsets))
    pieces = part.read_bytes().split(before)
    assert len(pieces) == 3
    changed = (after, before) if column == "input_ids" else (before, after)
    part.write_bytes(pieces[0] + changed[0] + pieces[1] + changed[1] + pieces[2])


@pytest.mark.parametrize("offsets", LISTS.values(), ids=LISTS)
def test_offsets_outside_the_values_are_refused(store, apart, offsets):
    forge(store, "input_ids", offsets)
    status, said = apart(READ + "print(s.gather([0, 1]).values)", store)
    assert status == 1, said
    assert "ValueError" in said and "damaged" in said


@pytest.mark.parametrize("offsets", LISTS.values(), ids=LISTS)
def test_names_outside_their_text_are_refused(store, apart, offsets):
    forge(store, "cell", offsets)
    status, said = apart(READ + "print(s.names([0, 1]))", store)
    assert status == 1, said
    assert "ValueError" in said and "damaged" in said


@pytest.mark.parametrize("codes", [[0, 3], [-2, 0], [1 << 40, 0]])
def test_codes_without_a_name_are_refused(store, codes):
    replace(store, lambda columns: {"cell_type": pa.array(codes, pa.int64())})
    with pytest.raises(ValueError, match="codes from"):
        TokenStore.open(store).obs("cell_type")


def test_codes_without_a_sign_are_read(store):
    replace(store, lambda columns: {"cell_type": pa.array([0, 2], pa.uint8())})
    assert TokenStore.open(store).obs("cell_type").tolist() == [0, 2]


def test_a_column_of_numbers_that_holds_text_is_refused(store):
    replace(store, lambda columns: {"age": pa.array(["1", "x"])})
    with pytest.raises(ValueError, match="'age' is string; expected numbers"):
        TokenStore.open(store).obs("age")


@pytest.mark.parametrize("kind", [pa.float32(), pa.string(), pa.bool_()], ids=str)
def test_ids_of_another_kind_are_refused(store, kind):
    values = pa.array(["1"] * 6 if kind == pa.string() else [True] * 6 if kind == pa.bool_() else [1.0] * 6, kind)
    replace(store, lambda columns: {"input_ids": pa.ListArray.from_arrays(pa.array([0, 3, 6], pa.int32()), values)})
    with pytest.raises(ValueError, match="a list of integers"):
        TokenStore.open(store)


@pytest.mark.parametrize("ids", [[0, 1, 60_000, 3, 4, 5], [60_000] * 6])
def test_an_id_outside_the_vocabulary_is_refused(store, ids):
    replace(store, lambda columns: {"input_ids": lists([0, 3, 6], np.array(ids, dtype=np.uint16))})
    replace(store, lambda columns: {"length": pa.array([3, 3], pa.int64())})
    with pytest.raises(ValueError, match="outside its vocabulary"):
        TokenStore.open(store).gather([0, 1])


def test_counts_of_another_number_than_tokens_are_refused(tmp_path):
    path = write_made_store(tmp_path / "counts", n_cells=2).path
    short = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), pa.array([1.0, 2.0], pa.float32()))
    replace(path, lambda columns: {"counts": short})
    with pytest.raises(ValueError, match="other numbers of counts"):
        TokenStore.open(path).counts([0, 1])


def test_a_missing_value_in_a_list_is_refused(store):
    values = pa.array([1, None, 3, 4, 5, 6], pa.uint16())
    replace(store, lambda columns: {"input_ids": pa.ListArray.from_arrays(pa.array([0, 3, 6], pa.int32()), values)})
    with pytest.raises(ValueError, match="are missing"):
        TokenStore.open(store)


@pytest.mark.parametrize("column", ["hash", "length"])
def test_a_column_of_another_kind_is_refused(store, column):
    replace(store, lambda columns: {column: pa.array([0.5, 1.5])})
    opened = TokenStore.open(store)
    with pytest.raises(ValueError, match=column):
        _ = opened.hashes if column == "hash" else opened.lengths


def test_a_part_of_any_bytes_is_refused_or_read(store, apart):
    """Flips in the part, its heads included, end in an error of Python and never in a crash."""
    code = """
import sys, random, pathlib
from scfm.store.token_store import TokenStore
store = pathlib.Path(sys.argv[1])
part = next(store.glob("*.arrow"))
whole, rng, refused = part.read_bytes(), random.Random(0), 0
for _ in range(400):
    changed = bytearray(whole)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(len(whole))] = rng.randrange(256)
    part.unlink()
    part.write_bytes(changed)
    try:
        s = TokenStore.open(store)
        s.gather([0, 1]), s.names([0, 1]), s.lengths, [s.obs(c) for c in s.columns]
    except ValueError:
        refused += 1
print("refused", refused)
"""
    status, said = apart(code, store)
    assert status == 0, said
    assert int(said.split("refused")[-1]) > 40


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_buffers_are_unpacked_within_bounds(store, codec, tmp_path):
    part = next(store.glob("*.arrow"))
    with pa.memory_map(str(part)) as source, pa.ipc.open_stream(source) as stream:
        table = stream.read_all()
    part.unlink()
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_stream(sink, table.schema, options=options) as stream:
        stream.write_table(table)
    assert len(TokenStore.open(store)) == 2
    bomb = tmp_path / "bomb.arrow"
    large = pa.table({"x": np.zeros(40_000_000)})
    with pa.OSFile(str(bomb), "wb") as sink, pa.ipc.new_stream(sink, large.schema, options=options) as stream:
        stream.write_table(large)
    part.unlink()
    bomb.rename(part)
    with pytest.raises(ValueError, match=r"damaged: its .* MB claim to unpack to 320 MB"):
        TokenStore.open(store)
