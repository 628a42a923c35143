"""``verify`` finds what was changed after writing, and only that."""

import json
import random
import shutil

import pytest

from scfm.datasets.synthetic import synthetic_cells
from scfm.preparation.api import prepare
from scfm.store.layout import file_sha256, write_json
from scfm.store.manifest import add_checksum, manifest_fault
from scfm.store.verify import verify
from scfm.tokenizer import RankTokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    synthetic_cells(n_cells=60, n_genes=100).write_h5ad(folder / "x.h5ad")
    specials = {"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"}
    tokenizer = RankTokenizer(name="r", max_length=32, specials=specials)
    return prepare(folder / "x.h5ad", folder / "s", tokenizer, cells_per_part=20).path


@pytest.fixture
def store(made, tmp_path):
    return shutil.copytree(made, tmp_path / "s")


def test_nothing_is_wrong(store):
    assert verify(store) == []


FILES = ["data-00000-00001.arrow", "dataset_info.json", "manifest.json", "report.html", "scfm.json", "state.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_anywhere_is_found(store, name, seed):
    chance, victim = random.Random(seed), store / name
    content = bytearray(victim.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    victim.write_bytes(content)
    (problem,) = verify(store)
    assert name in problem
    if name != "manifest.json":
        assert problem == f"{name} has changed since it was written: its checksum differs"


def test_any_bit_of_the_manifest_counts(store):
    content = (store / "manifest.json").read_bytes()
    for at in random.Random(1).sample(range(len(content)), 60):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[at] ^= 1 << bit
            (store / "manifest.json").write_bytes(flipped)
            assert manifest_fault(store) is not None
    (store / "manifest.json").write_bytes(content)
    assert verify(store) == []


def test_a_manifest_without_checksum_and_a_missing_report(store):
    manifest = json.loads((store / "manifest.json").read_text())
    del manifest["sha256"]
    write_json(store / "manifest.json", manifest)
    assert "no checksum of itself" in verify(store)[0]
    write_json(store / "manifest.json", add_checksum(manifest))
    (store / "report.html").unlink()
    assert verify(store) == ["report.html is missing"]


def test_a_missing_a_short_and_a_foreign_part(store):
    (store / "data-00000-00001.arrow").unlink()
    cut = store / "data-00000-00000.arrow"
    cut.write_bytes(cut.read_bytes()[:-1])
    shutil.copy(store / "data-00000-00002.arrow", store / "data-00009-00000.arrow")
    problems = " | ".join(verify(store))
    assert "data-00000-00001.arrow is missing" in problems
    assert "data-00000-00000.arrow has" in problems
    assert "data-00009-00000.arrow does not belong" in problems


def _edit_meta(store, change):
    """Change scfm.json and make its checksum fit, as someone who knows would."""
    meta = json.loads((store / "scfm.json").read_text())
    change(meta)
    (store / "scfm.json").write_text(json.dumps(meta))
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["files_sha256"]["scfm.json"] = file_sha256(store / "scfm.json")
    write_json(store / "manifest.json", add_checksum(manifest))


def test_a_foreign_vocabulary(store):
    def swap(meta):
        tokens = meta["tokenizer"]["vocab"]["tokens"]
        tokens[5], tokens[6] = tokens[6], tokens[5]

    _edit_meta(store, swap)
    assert "names vocabulary" in verify(store)[0]


def test_a_vocabulary_that_is_too_small_under_a_forged_record(store):
    def shrink(meta):
        from scfm.vocab import Vocab

        meta["tokenizer"]["vocab"]["tokens"] = meta["tokenizer"]["vocab"]["tokens"][:50]
        meta["vocab_hash"] = Vocab.from_dict(meta["tokenizer"]["vocab"]).hash
        meta["largest"] = 49

    _edit_meta(store, shrink)
    assert "outside the vocabulary of 50 tokens" in verify(store)[0]


def test_another_stores_manifest(store):
    _edit_meta(store, lambda meta: meta.update(fingerprint="0" * 64))
    assert "fingerprints differ" in verify(store)[0]


def test_no_store(tmp_path):
    with pytest.raises(FileNotFoundError, match="no store"):
        verify(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json"):
        verify(tmp_path)
