"""A zarr folder from a stranger: its own chunks, whole metadata, no codec that runs code."""

import json
import shutil

import pytest

from scfm.cells.file import open_cells


@pytest.fixture
def sound(tmp_path, make_adata):
    path = tmp_path / "cells.zarr"
    adata = make_adata(n_cells=30, n_genes=20)
    adata.write_zarr(path)
    return path


def metadata(folder):
    """The metadata of the values of X."""
    return next(path for name in (".zarray", "zarr.json") if (path := folder / "X" / "data" / name).exists())


def test_a_sound_folder_is_read(sound):
    with open_cells(sound) as cells:
        assert cells.n_cells == 30


def test_a_chunk_elsewhere_is_not_read(sound, tmp_path):
    chunk = next(path for path in (sound / "X" / "data").rglob("*") if path.is_file() and not path.name.startswith("."))
    shutil.move(chunk, tmp_path / "secret")
    chunk.symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="link to a file elsewhere"):
        open_cells(sound)


def test_a_folder_elsewhere_is_not_read(sound, tmp_path):
    shutil.move(sound / "X", tmp_path / "X")
    (sound / "X").symlink_to(tmp_path / "X")
    with pytest.raises(ValueError, match="link to a file elsewhere"):
        open_cells(sound)


@pytest.mark.parametrize("codec", [{"id": "pickle"}, {"name": "numcodecs.pickle", "configuration": {}}])
def test_a_codec_that_runs_code_is_refused(sound, codec):
    path = metadata(sound)
    state = json.loads(path.read_text())
    state["filters" if path.name == ".zarray" else "codecs"] = [codec]
    path.write_text(json.dumps(state).replace("pickle", "\\u0070ickle"))
    with pytest.raises(ValueError, match="would run code"):
        open_cells(sound)


def test_a_chunk_larger_than_memory_is_refused(sound):
    path = metadata(sound)
    state = json.loads(path.read_text())
    if path.name == ".zarray":
        state["chunks"] = [10**10]
    else:
        state["chunk_grid"]["configuration"]["chunk_shape"] = [10**10]
    path.write_text(json.dumps(state))
    with pytest.raises(ValueError, match="chunks of"):
        open_cells(sound)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "\xff"])
def test_broken_metadata_are_refused_in_a_sentence(sound, text):
    metadata(sound).write_text(text)
    with pytest.raises(ValueError, match=r"cells\.zarr"):
        open_cells(sound)
