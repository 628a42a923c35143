"""A store names files of its own folder and nothing else, and what it says of itself is of the right kind."""

import json
import shutil
from pathlib import Path

import pytest

from scfm.preparation.api import append
from scfm.store.layout import write_json
from scfm.store.manifest import add_checksum, is_harmless, read_manifest
from scfm.store.token_store import TokenStore
from scfm.store.verify import verify
from support import write_made_store

#: Names that lead out of a folder, or nowhere.
OUTSIDE = ["../secret.arrow", "/etc/passwd", "a/b.arrow", "..", ".", "", "a\\b.arrow", "x\0.arrow", 7, None, ["a"]]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_made_store(tmp_path / "store").path


@pytest.fixture
def prepared(tmp_path: Path, make_adata) -> Path:
    """A store of scfm-prepare, which can be added to."""
    from scfm.preparation.api import prepare
    from scfm.tokenizer import RankTokenizer

    adata = make_adata(n_cells=40, n_genes=60)
    adata.var_names = [f"GENE{i}" for i in range(adata.n_vars)]
    for name in ("one", "two"):
        adata.obs_names = [f"{name}{i}" for i in range(adata.n_obs)]
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    from scfm.preparation.options import Genes

    prepare(
        tmp_path / "one.h5ad",
        tmp_path / "store",
        RankTokenizer(name="r", max_length=32, specials={"pad": "<pad>", "cls": "<cls>"}),
        genes=Genes(species="other", max_dropped=1.0),
        workers=1,
    )
    return tmp_path / "store"


def edit(path: Path, change) -> None:
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))


def edit_manifest(store: Path, change) -> None:
    """As someone does who knows how the manifest is sealed."""
    state = json.loads((store / "manifest.json").read_text())
    change(state)
    write_json(store / "manifest.json", add_checksum(state))


@pytest.mark.parametrize("name", OUTSIDE, ids=repr)
def test_a_store_that_names_a_file_outside_is_not_opened(store, name):
    edit(store / "state.json", lambda state: state["_data_files"][0].update(filename=name))
    with pytest.raises(ValueError, match="not safe"):
        TokenStore.open(store)


@pytest.mark.parametrize("name", OUTSIDE, ids=repr)
def test_adding_to_a_store_neither_reads_nor_deletes_outside(prepared, tmp_path, name):
    victim = tmp_path / "secret.arrow"
    victim.write_text("mine")
    if name == "/etc/passwd":
        name = str(victim)
    edit_manifest(prepared, lambda state: state["parts"][0].update(name=name))
    with pytest.raises(ValueError, match="not safe|damaged"):
        append(tmp_path / "two.h5ad", prepared)
    assert victim.read_text() == "mine"
    assert verify(prepared) != []


def test_adding_to_a_sound_store_works(prepared, tmp_path):
    assert len(append(tmp_path / "two.h5ad", prepared, workers=1)) == 80


def test_checksums_of_files_outside_are_not_taken(prepared):
    edit_manifest(prepared, lambda state: state["files_sha256"].update({"../x": "0" * 64}))
    with pytest.raises(ValueError, match="not safe"):
        read_manifest(prepared)


@pytest.mark.parametrize("name", ["part", "state.json", "scfm.json", "dataset_info.json", "manifest.json"])
def test_a_link_out_of_the_store_is_refused(store, tmp_path, name):
    path = next(store.glob("*.arrow")) if name == "part" else store / name
    if not path.exists():
        pytest.skip("this store has none")
    moved = tmp_path / f"elsewhere-{path.name}"
    shutil.move(path, moved)
    path.symlink_to(moved)
    with pytest.raises(ValueError, match="outside the store"):
        read_manifest(store) if name == "manifest.json" else TokenStore.open(store, _tokenizer(store, name))


def _tokenizer(store: Path, name: str):
    """A dataset without scfm.json is what reads dataset_info.json."""
    if name != "dataset_info.json":
        return None
    tokenizer = json.loads((store / "scfm.json").read_text())["tokenizer"]
    (store / "scfm.json").unlink()
    return tokenizer


def test_a_link_to_the_store_itself_is_fine(store, tmp_path):
    (tmp_path / "link").symlink_to(store)
    assert len(TokenStore.open(tmp_path / "link")) == 240


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("tokenizer"),
        lambda state: state.update(tokenizer=[]),
        lambda state: state["tokenizer"].update(vocab=None),
        lambda state: state["tokenizer"]["vocab"].update(tokens="abc"),
        lambda state: state["tokenizer"]["vocab"].update(tokens=[1, 2]),
        lambda state: state["tokenizer"]["vocab"].update(specials={"pad": -1}),
        lambda state: state["tokenizer"]["vocab"].update(words=[10**9]),
        lambda state: state["tokenizer"]["vocab"].update(words=[[]]),
        lambda state: state.update(columns=[]),
        lambda state: state["columns"].update(cell_type=7),
        lambda state: state["columns"].update(cell_type=["B"]),
        lambda state: state["columns"].update(never="x"),
        lambda state: state["columns"].update(never=None),
        lambda state: state.update(files=[{}]),
        lambda state: state.update(n_cells="240"),
        lambda state: state.update(version=None),
        lambda state: state.update(group=[1]),
        lambda state: state.update(report=[]),
    ],
)
def test_metadata_of_a_wrong_kind_is_refused_in_a_sentence(store, change):
    edit(store / "scfm.json", change)
    with pytest.raises(ValueError, match="damaged|lacks|special token|outside the vocabulary"):
        TokenStore.open(store).obs("cell_type")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 100_000, "1" * 10_000, "\0", "{", "[]", '"x"', '{"a": NaN}'])
@pytest.mark.parametrize("name", ["scfm.json", "state.json"])
def test_deep_or_broken_json_is_refused_in_a_sentence(store, name, text):
    (store / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        TokenStore.open(store)


@pytest.mark.parametrize(
    "rule",
    [
        "age.to_pickle('x')",
        "age.values.tofile('/tmp/x')",
        "age . to_csv('x')",
        "@pd.read_pickle('x')",
        "a.__class__",
        7,
    ],
)
def test_a_stored_rule_calls_nothing(prepared, tmp_path, rule):
    assert not is_harmless(rule)
    edit_manifest(prepared, lambda state: state["options"]["quality"].update(expression=rule))
    with pytest.raises(ValueError, match="more than look at cells"):
        append(tmp_path / "two.h5ad", prepared)


@pytest.mark.parametrize(
    "rule", ["tissue == 'lung.left' and age < 60.5", "cell_type.str.contains('T.x')", "`a.b` > 1", "donor.isin(['a'])"]
)
def test_a_rule_that_looks_at_columns_is_kept(rule):
    assert is_harmless(rule)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("options"),
        lambda state: state["options"].pop("quality"),
        lambda state: state["options"].update(more=1),
        lambda state: state.update(options=[]),
        lambda state: state.update(parts={}),
        lambda state: state["parts"][0].update(cells="4"),
        lambda state: state["parts"][0].pop("sha256"),
    ],
)
def test_a_manifest_of_a_wrong_kind_is_refused_in_a_sentence(prepared, tmp_path, change):
    edit_manifest(prepared, change)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        append(tmp_path / "two.h5ad", prepared)
