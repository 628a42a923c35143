"""Bad files and options are refused, or skipped and listed."""

import contextlib
import gc
import os
import resource
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pandas as pd
import pytest

from scfm.cells.quality import Quality
from scfm.preparation.api import prepare
from scfm.preparation.encode import encode_part
from scfm.preparation.executors import Local, Serial
from scfm.preparation.options import Genes
from support import checksums


def test_bad_files_are_refused_or_skipped(files, fitted, tmp_path, caplog):
    bad = tmp_path / "bad.h5ad"
    bad.write_bytes(files[0].read_bytes()[:20_000])
    with pytest.raises(ValueError, match=r"bad\.h5ad"):
        prepare([files[0], bad, files[1]], tmp_path / "s", fitted)
    store = prepare([files[0], bad, files[1]], tmp_path / "s", fitted, on_error="skip")
    assert len(store) == 300
    assert "bad.h5ad" in store.files[1]["skipped"]
    assert str(tmp_path) not in store.files[1]["skipped"]
    assert "Skipped" in caplog.text
    with pytest.raises(ValueError, match="every input was skipped"):
        prepare([bad], tmp_path / "t", fitted, on_error="skip")


class _LosesWorkers(Local):
    """Its workers are gone once two parts are done."""

    @contextlib.contextmanager
    def open(self, workers):
        executor, done = Serial(), []

        def submit(function, /, *args):
            if function is encode_part:
                done.append(args)
            if len(done) < 3:
                return Serial().submit(function, *args)
            future = Future()
            future.set_exception(BrokenProcessPool("A process in the process pool was terminated abruptly"))
            return future

        executor.submit = submit
        yield executor


def test_lost_workers_are_said_and_the_same_call_goes_on(files, fitted, tmp_path, reference):
    output = tmp_path / "s"
    with pytest.raises(OSError, match=r"a worker was ended .* run the same command again, what is finished is kept"):
        prepare(files, output, fitted, cells_per_part=50, obs=["donor"], executor=_LosesWorkers())
    assert len(list((tmp_path / ".s.partial/parts").glob("*.json"))) == 2
    prepare(files, output, fitted, cells_per_part=50, obs=["donor"])
    assert checksums(output) == reference


def test_a_nan_deep_in_a_file_names_it(files, fitted, tmp_path, cells):
    adata = cells.copy()
    adata.X = adata.X.astype(np.float32)
    adata.X.data[adata.X.indptr[257] + 3] = np.nan
    adata.write_h5ad(tmp_path / "x.h5ad")
    with pytest.raises(ValueError, match=r"x\.h5ad.*(cell257.*NaN|NaN.*cell257)"):
        prepare(tmp_path / "x.h5ad", tmp_path / "s", fitted, block_size=16)
    assert not (tmp_path / "s").exists()


def test_a_foreign_species_is_refused_before_anything_is_written(fitted, tmp_path, cells):
    adata = cells[:20].copy()
    adata.var = pd.DataFrame(index=[f"ENSMUSG{i:011d}" for i in range(adata.n_vars)])
    adata.write_h5ad(tmp_path / "x.h5ad")
    with pytest.raises(ValueError, match=r"x\.h5ad.*mouse"):
        prepare(tmp_path / "x.h5ad", tmp_path / "s", fitted)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"obs": ["nosuch"]}, ValueError, "no column 'nosuch'; it has"),
        ({"obs": ["length"]}, ValueError, "a store has a column of this name"),
        ({"layer": "nosuch"}, ValueError, "nosuch"),
        ({"empty": "maybe"}, ValueError, "empty='maybe'; expected refuse or drop"),
        ({"duplicates": "x"}, ValueError, "keep or report or drop"),
        ({"cells_per_part": 0}, ValueError, "at least one cell"),
        ({"workers": 0}, ValueError, "at least 1"),
        ({"counts": "lognorm_ok"}, ValueError, "needs counts"),
        ({"quality": Quality(min_counts=1e9)}, ValueError, "no cell is left of 300: 300 min_counts"),
        ({"genes": Genes(alias="nosuch.tsv")}, FileNotFoundError, "nosuch"),
        ({"genes": Genes(policy="sum")}, ValueError, "collapse or first or refuse"),
    ],
)
def test_refusals(files, fitted, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        prepare(files, tmp_path / "s", fitted, **options)
    assert not (tmp_path / "s").exists()


def test_inputs(files, fitted, tmp_path, monkeypatch):
    monkeypatch.chdir(files[0].parent)
    store = prepare("*.h5ad", tmp_path / "s", fitted)
    assert store.categories("file") == ("one cell.h5ad", "zwei.h5ad")
    with pytest.raises(FileNotFoundError, match="no file matches"):
        prepare("*.loom", tmp_path / "t", fitted)
    with pytest.raises(FileNotFoundError, match="there is no input"):
        prepare("nosuch.h5ad", tmp_path / "t", fitted)
    with pytest.raises(ValueError, match="twice"):
        prepare([files[0], files[0]], tmp_path / "t", fitted)
    with pytest.raises(ValueError, match="no input"):
        prepare([], tmp_path / "t", fitted)
    with pytest.raises(ValueError, match="share of counts"):
        Genes(max_dropped=2)


@pytest.mark.parametrize("how", ["symlink", "hard link", "relative", "dots", "folder link", "pattern"])
def test_one_file_by_two_names_is_refused(files, fitted, tmp_path, monkeypatch, how):
    (tmp_path / "in").mkdir()
    first = tmp_path / "in" / "a.h5ad"
    first.write_bytes(files[0].read_bytes())
    second = tmp_path / "in" / "b.h5ad"
    if how == "symlink":
        second.symlink_to(first)
    elif how == "hard link":
        second.hardlink_to(first)
    elif how == "relative":
        monkeypatch.chdir(tmp_path)
        second = "in/a.h5ad"
    elif how == "dots":
        second = tmp_path / "in" / ".." / "in" / "a.h5ad"
    elif how == "folder link":
        (tmp_path / "other").symlink_to(tmp_path / "in")
        second = tmp_path / "other" / "a.h5ad"
    else:
        second = tmp_path / "in" / "*.h5ad"
    with pytest.raises(ValueError, match=r"a\.h5ad|b\.h5ad.* is among the inputs twice"):
        prepare([first, second], tmp_path / "s", fitted)


def test_files_of_one_name_have_names_of_their_own_in_a_store(files, fitted, tmp_path):
    for i, folder in enumerate(("one", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.h5ad").write_bytes(files[i].read_bytes())
    store = prepare([tmp_path / "one" / "x.h5ad", tmp_path / "two" / "x.h5ad"], tmp_path / "s", fitted)
    assert [file["name"] for file in store.files] == ["one/x.h5ad", "two/x.h5ad"]


def test_a_file_whose_name_is_no_utf8(files, fitted, tmp_path):
    """As Latin-1 names look on a disk."""
    path = tmp_path / os.fsdecode(b"K\xf6ln.h5ad")
    try:
        path.write_bytes(files[1].read_bytes())
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    store = prepare(path, path.with_suffix(".store"), fitted, obs=["cell_type"])
    assert store.files[0]["name"] == path.name
    assert len(store) == 130


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts the open files in /proc")
def test_more_files_than_may_be_open(cells, fitted, tmp_path):
    """As under ``ulimit -n 64``: every file is read, and none is called damaged."""
    paths = [tmp_path / f"{i:02d}.h5ad" for i in range(56)]
    for i, path in enumerate(paths):
        cells[2 * i : 2 * i + 2].write_h5ad(path)
    gc.collect()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 50, hard))
    try:
        store = prepare(paths, tmp_path / "s", fitted, workers=2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(store) == 112
    assert list(store.names(np.arange(112))) == list(cells.obs_names[:112])
