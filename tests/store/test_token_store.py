"""The token store: what is written is read, zero-copy, also by ``datasets``; what is damaged is refused."""

import json
import pickle

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm.store.arrow import data_files, read_table, token_chunks
from scfm.store.from_cells import write_store
from scfm.store.token_store import TokenStore
from scfm.store.writer import CELLS_PER_BATCH, Cells, PartWriter
from scfm.types import Ragged
from scfm.vocab import Vocab

TOKENS = ("<pad>", "<mask>", "<cls>", "<eos>", *(f"G{i}" for i in range(96)))
VOCAB = Vocab(TOKENS, {"pad": 0, "mask": 1, "cls": 2, "eos": 3})
TOKENIZER = {"name": "made up", "vocab": VOCAB.to_dict()}


def ragged(lists, dtype=np.uint16):
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in lists])]).astype(np.int64)
    return Ragged(np.array([v for row in lists for v in row], dtype=dtype), offsets)


def made_up(n, seed=0, prefix="c"):
    generator = np.random.default_rng(seed)
    lists = [[2, *generator.integers(4, 100, generator.integers(0, 20)), 3] for _ in range(n)]
    obs = {"cell_type": generator.integers(-1, 3, n), "age": generator.random(n).astype(np.float32)}
    names = np.array([f"{prefix}{i}" for i in range(n)], dtype=object)
    hashes = generator.integers(0, 2**63, n).astype(np.uint64)
    return Cells(ragged(lists), names, np.zeros(n, np.int64), hashes, obs), lists


def write(path, parts, **options):
    columns = {"cell_type": ["A", "B", "C"], "age": None}
    return write_store(path, parts, tokenizer=TOKENIZER, columns=columns, group="cell_type", **options)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    parts = [made_up(n, seed, f"p{seed}_") for seed, n in enumerate([7, 1, CELLS_PER_BATCH + 5])]
    store = write(tmp_path_factory.mktemp("store") / "made up ü", [cells for cells, _ in parts])
    return store, [row for _, lists in parts for row in lists], parts


def test_rows_in_any_order_from_many_chunks(written):
    store, lists, _ = written
    rows = np.random.default_rng(1).permutation(len(lists))[:500]
    got = store.gather(rows)
    assert got.values.dtype == np.uint16
    assert got.offsets.dtype == np.int64
    assert [got[i].tolist() for i in range(len(rows))] == [lists[row] for row in rows]
    assert store.lengths.tolist() == [len(row) for row in lists]
    assert len(store) == len(lists)


def test_the_tokens_are_views_of_the_files(written):
    store, _, _ = written
    chunks = token_chunks(read_table(data_files(store.path))["input_ids"], "here")
    assert len(chunks) == 4
    assert all(not chunk.values.flags.owndata and not chunk.values.flags.writeable for chunk in chunks)


def test_no_rows_give_no_tokens(written):
    got = written[0].gather(np.zeros(0, np.int64))
    assert len(got) == 0
    assert got.values.size == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 7), max_size=30), st.integers(1, 25))
def test_cropping_equals_a_shorter_tokenizer(written, rows, longest):
    store, lists, _ = written
    got = store.gather(np.array(rows, dtype=np.int64), longest)
    expected = [lists[r] if len(lists[r]) <= longest else [*lists[r][: longest - 1], 3] for r in rows]
    assert [got[i].tolist() for i in range(len(rows))] == expected


def test_obs_names_hashes(written):
    store, _, parts = written
    assert store.columns == ("cell_type", "age")
    assert store.group == "cell_type"
    assert store.categories("cell_type") == ("A", "B", "C")
    assert store.categories("age") is None
    assert store.categories("file") == ("cells",)
    for column in store.columns:
        np.testing.assert_array_equal(store.obs(column), np.concatenate([cells.obs[column] for cells, _ in parts]))
    assert store.obs("cell_type").dtype == np.int64
    assert store.obs("age").dtype == np.float32
    assert store.names(np.array([8, 0])) == ["p2_0", "p0_0"]
    seen = store.overlap(np.array([store.hashes[3], 12345], dtype=np.uint64))
    assert seen.tolist() == [True, False]
    assert store.vocab.hash == VOCAB.hash


def test_datasets_opens_it(written):
    store, lists, _ = written
    rows = datasets.load_from_disk(str(store.path))
    assert rows[7]["input_ids"] == lists[7]
    assert rows.features["input_ids"] == datasets.List(datasets.Value("uint16"))
    assert rows.features["cell_type"].names == ["A", "B", "C"]
    assert rows["length"][:] == store.lengths.tolist()


def test_goes_to_workers_by_pickle(written):
    store, lists, _ = written
    again = pickle.loads(pickle.dumps(store))
    assert again.gather(np.array([5]))[0].tolist() == lists[5]


def test_bytes_do_not_depend_on_the_blocks(tmp_path):
    cells, _ = made_up(CELLS_PER_BATCH + 100)
    sums = set()
    for step in (1000, 4196, CELLS_PER_BATCH):
        with PartWriter(tmp_path / f"{step}.arrow", tmp_path) as writer:
            for start in range(0, len(cells), step):
                writer.write(cells[start : start + step])
            sums.add(writer.close().sha256)
    assert len(sums) == 1


@pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "uint16"])
@pytest.mark.parametrize("kind", ["List", "LargeList"])
def test_published_datasets_open(tmp_path, dtype, kind):
    lists = [[4, 5, 6], [], [99] * 20, [7]]
    features = {"input_ids": getattr(datasets, kind)(datasets.Value(dtype)), "length": datasets.Value("int64")}
    features |= {"organ": datasets.Value("string"), "age": datasets.Value("int32")}
    columns = {
        "input_ids": lists,
        "length": [len(row) for row in lists],
        "organ": ["x", "b", "x", None],
        "age": [1, 2, 3, 4],
    }
    rows = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    rows.save_to_disk(tmp_path / "x.dataset", num_shards=2)
    store = TokenStore.open(tmp_path / "x.dataset", tokenizer=TOKENIZER)
    got = store.gather(np.array([2, 0, 1]))
    assert [got[i].tolist() for i in range(3)] == [lists[2], lists[0], lists[1]]
    assert store.obs("organ").tolist() == [1, 0, 1, -1]
    assert store.categories("organ") == ("b", "x")
    assert store.obs("age").tolist() == [1, 2, 3, 4]
    assert store.names(np.array([3])) == ["3"]
    with pytest.raises(ValueError, match="no column hash"):
        _ = store.hashes
    with pytest.raises(FileNotFoundError, match=r"no scfm\.json"):
        TokenStore.open(tmp_path / "x.dataset")


@pytest.mark.parametrize("bad", [100, 40000, -1])
def test_ids_outside_the_vocabulary_name_the_cell(tmp_path, bad):
    rows = datasets.Dataset.from_dict({"input_ids": [[4, 5], [6, bad, 7]], "cell": ["good", "bad one"]})
    rows.save_to_disk(tmp_path / "x.dataset")
    with pytest.raises(ValueError, match=r"1 \(bad one\).*vocabulary of 100"):
        TokenStore.open(tmp_path / "x.dataset", tokenizer=TOKENIZER)


def test_refusals(written, tmp_path):
    store = written[0]
    with pytest.raises(IndexError, match="row -1"):
        store.gather(np.array([-1]))
    with pytest.raises(IndexError, match="cells"):
        store.gather(np.array([len(store)]))
    with pytest.raises(ValueError, match="no obs column 'donor'; it has cell_type, age"):
        store.obs("donor")
    with pytest.raises(FileNotFoundError, match="no store at"):
        TokenStore.open(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="exists"):
        write(store.path, [made_up(1)[0]])
    other = {"vocab": Vocab(TOKENS[:-1], VOCAB.specials).to_dict()}
    with pytest.raises(ValueError, match="their ids mean different genes"):
        TokenStore.open(store.path, tokenizer=other)


def _edit(path, **changes):
    state = json.loads((path / "scfm.json").read_text())
    (path / "scfm.json").write_text(json.dumps(state | changes))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda p: _edit(p, version=2), ValueError, "update scfm"),
        (lambda p: _edit(p, format="other"), ValueError, "not of a token store"),
        (lambda p: _edit(p, n_cells=3), ValueError, "a part is missing"),
        (lambda p: _edit(p, largest=100), ValueError, "outside its vocabulary of 100"),
        (lambda p: _edit(p, vocab_hash="0" * 64), ValueError, "changed by hand"),
        (lambda p: (p / "scfm.json").unlink(), FileNotFoundError, r"no scfm\.json"),
        (lambda p: (p / "scfm.json").write_text("{"), ValueError, "damaged"),
        (lambda p: (p / "state.json").unlink(), FileNotFoundError, r"no state\.json"),
        (lambda p: (p / "data-00001.arrow").unlink(), FileNotFoundError, r"data-00001\.arrow"),
        (lambda p: (p / "data-00001.arrow").write_bytes(b"nothing"), ValueError, r"data-00001\.arrow is damaged"),
        (lambda p: (p / "dataset_dict.json").write_text('{"splits": ["train"]}'), ValueError, "several splits"),
    ],
)
def test_damage_is_named(tmp_path, damage, error, message):
    path = tmp_path / "s"
    write(path, [made_up(5)[0], made_up(4, 1)[0]])
    damage(path)
    with pytest.raises(error, match=message):
        TokenStore.open(path)


def test_length_column_is_held_against_the_lists(tmp_path):
    rows = datasets.Dataset.from_dict({"input_ids": [[4, 5], [6]], "length": [2, 2]})
    rows.save_to_disk(tmp_path / "x.dataset")
    store = TokenStore.open(tmp_path / "x.dataset", tokenizer=TOKENIZER)
    with pytest.raises(ValueError, match="cell 1 has 1 tokens but its length says 2"):
        _ = store.lengths


def test_no_part_stays_behind_an_error(tmp_path):
    with pytest.raises(AttributeError), PartWriter(tmp_path / "x.arrow", tmp_path / "scratch") as writer:
        writer.write(None)
    assert not list((tmp_path / "scratch").iterdir())
    assert not (tmp_path / "x.arrow").exists()


def test_nulls_are_refused():
    with pytest.raises(ValueError, match="1 cells have no input_ids"):
        token_chunks(pa.chunked_array([pa.array([[1], None], pa.list_(pa.uint16()))]), "here")
    with pytest.raises(ValueError, match="a list of integers"):
        token_chunks(pa.chunked_array([pa.array(["x"])]), "here")


def test_tokens_of_another_width(written):
    store, lists, _ = written
    rows = np.array([3, 0, len(store) - 1])
    got = store.gather(rows, 5, np.int64)
    assert got.values.dtype == np.int64
    np.testing.assert_array_equal(got.values, store.gather(rows, 5).values)
    assert got[1].tolist() == lists[0] if len(lists[0]) <= 5 else [*lists[0][:4], 3]
