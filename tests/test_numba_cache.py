"""Compiled functions find a place where nothing of the package or the home may be written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scfm.imports import numba_cache

PACKAGE = Path(numba_cache.__file__).parents[1]


@pytest.fixture
def locked(monkeypatch, tmp_path):
    """Nothing but the folder of temporary files may be written to."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(numba_cache, "_may_write", lambda folder: False)
    return tmp_path


def test_a_folder_of_ones_own_the_same_every_time(locked, monkeypatch):
    numba_cache.choose_folder()
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    assert folder.parent == locked
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    numba_cache.choose_folder()
    assert os.environ["NUMBA_CACHE_DIR"] == str(folder)


@pytest.mark.parametrize("how", ["link", "others may write", "file"])
def test_a_folder_that_somebody_else_made_is_not_taken(locked, how):
    """What is pickled there would be run."""
    name = locked / f"scfm-numba-{os.getuid()}"
    if how == "link":
        (locked / "theirs").mkdir()
        name.symlink_to("theirs")
    elif how == "file":
        name.touch()
    else:
        name.mkdir()
        name.chmod(0o777)
    numba_cache.choose_folder()
    found = Path(os.environ["NUMBA_CACHE_DIR"])
    assert found != name
    assert found.is_dir()
    assert found.stat().st_mode & 0o777 == 0o700


def test_where_a_place_is_there_nothing_is_changed(monkeypatch, tmp_path):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(numba_cache, "_may_write", lambda folder: folder == PACKAGE / "tokenizer")
    numba_cache.choose_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(numba_cache, "_may_write", lambda folder: folder == tmp_path)
    numba_cache.choose_folder()
    assert "NUMBA_CACHE_DIR" not in os.environ


def test_numba_takes_it(tmp_path):
    """A function that is compiled from a place without room for its cache, in a home without one."""
    (tmp_path / "compiled.py").write_text(
        "import scfm\nfrom numba import njit\n\n@njit(cache=True)\ndef one():\n    return 1\n\nassert one() == 1\n"
    )
    code = f"""
import os, sys, tempfile
tempfile.tempdir = {str(tmp_path)!r}
sys.path.insert(0, {str(PACKAGE.parent)!r})
from scfm.imports import numba_cache
numba_cache._may_write = lambda folder: False
numba_cache.choose_folder()
exec(compile(open({str(tmp_path / "compiled.py")!r}).read(), {str(tmp_path / "compiled.py")!r}, "exec"))
"""
    home = {**os.environ, "HOME": str(tmp_path / "home")}
    home.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", code], env=home, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / f"scfm-numba-{os.getuid()}").rglob("*.nbi"))
