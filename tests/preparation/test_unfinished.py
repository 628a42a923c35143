"""What was begun is finished, or refused where it differs; nothing is replaced untold."""

import shutil

import anndata as ad
import pytest

from prepared import median_tokenizer
from scfm.preparation import encode as module
from scfm.preparation import fit_tokenizer
from scfm.preparation.api import prepare
from support import checksums


def test_an_existing_output_is_kept_unless_told(files, fitted, tmp_path):
    prepare(files[0], tmp_path / "s", fitted)
    before = checksums(tmp_path / "s")
    with pytest.raises(FileExistsError, match="overwrite=true"):
        prepare(files[1], tmp_path / "s", fitted)
    assert checksums(tmp_path / "s") == before
    assert len(prepare(files[1], tmp_path / "s", fitted, overwrite=True)) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_overwriting_takes_no_input_and_nothing_of_somebody_else(files, fitted, tmp_path):
    mine = tmp_path / "mine.h5ad"
    shutil.copy(files[0], mine)
    (tmp_path / "data").mkdir()
    shutil.copy(files[0], tmp_path / "data/mine.h5ad")
    before = checksums(tmp_path / "data"), mine.read_bytes()
    for source, output, error in (
        (mine, mine, "lies in output"),
        (tmp_path / "data/mine.h5ad", tmp_path / "data", "lies in output"),
        (mine, tmp_path / "data", "which scfm did not write"),
    ):
        with pytest.raises((ValueError, FileExistsError), match=error):
            prepare(source, output, fitted, overwrite=True)
    assert (checksums(tmp_path / "data"), mine.read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "mine.h5ad"]


def _stopped(files, fitted, output, monkeypatch, **options):
    """A run that ends by an error in its third part."""
    calls = []

    def failing(*args):
        calls.append(args[2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)

    original = module.encode_part
    monkeypatch.setattr(module, "encode_part", failing)
    with pytest.raises(KeyboardInterrupt):
        prepare(files, output, fitted, cells_per_part=50, **options)
    monkeypatch.setattr(module, "encode_part", original)
    return calls


def test_a_stopped_run_does_only_the_rest(files, fitted, tmp_path, monkeypatch, reference):
    done = _stopped(files, fitted, tmp_path / "s", monkeypatch, obs=["donor"])[:2]
    again = []
    original = module.encode_part
    monkeypatch.setattr(module, "encode_part", lambda *args: (again.append(args[2]), original(*args))[1])
    prepare(files, tmp_path / "s", fitted, cells_per_part=50, obs=["donor"])
    assert not set(done) & set(again)
    assert checksums(tmp_path / "s") == reference


def test_unfinished_work_with_other_options_or_inputs(files, fitted, tmp_path, monkeypatch, cells):
    _stopped(files, fitted, tmp_path / "s", monkeypatch)
    with pytest.raises(ValueError, match=r"other options: obs was \[\], is now \[.donor.\]"):
        prepare(files, tmp_path / "s", fitted, cells_per_part=50, obs=["donor"])
    with pytest.raises(ValueError, match="zwei.h5ad was among them"):
        prepare(files[:1], tmp_path / "s", fitted, cells_per_part=50)
    assert len(prepare(files[:1], tmp_path / "s", fitted, cells_per_part=50, overwrite=True)) == 170


def test_two_runs_at_once(files, fitted, tmp_path):
    from scfm.preparation.workdir import WorkDir

    with WorkDir(tmp_path / "s").lock(), pytest.raises(BlockingIOError, match="another run is writing"):
        prepare(files, tmp_path / "s", fitted)


def test_a_lost_part_is_made_again(files, fitted, tmp_path, monkeypatch, reference):
    _stopped(files, fitted, tmp_path / "s", monkeypatch, obs=["donor"])
    part = tmp_path / ".s.partial" / "store" / "data-00000-00000.arrow"
    part.write_bytes(part.read_bytes()[:-100])
    prepare(files, tmp_path / "s", fitted, cells_per_part=50, obs=["donor"])
    assert checksums(tmp_path / "s") == reference


def test_a_full_disk_is_resumable(files, fitted, tmp_path, monkeypatch, reference):
    import errno

    original = module.encode_part

    def full(*args):
        if args[2] == "00001-00001":
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args)

    monkeypatch.setattr(module, "encode_part", full)
    for on_error in ("stop", "skip"):
        with pytest.raises(OSError, match="no space is left on the disk of .*; free some space"):
            prepare(files, tmp_path / "s", fitted, cells_per_part=50, obs=["donor"], on_error=on_error)
    monkeypatch.setattr(module, "encode_part", original)
    prepare(files, tmp_path / "s", fitted, cells_per_part=50, obs=["donor"])
    assert checksums(tmp_path / "s") == reference


def test_medians_are_exact_again_where_the_file_that_made_them_too_many_is_left_out(files, tmp_path, monkeypatch):
    cells = ad.read_h5ad(files[0])
    cells.X.data[cells.X.indptr[160] : cells.X.indptr[161]] = 0  # a cell without counts, in the last part
    cells.write_h5ad(tmp_path / "bad.h5ad")
    n_values = ad.read_h5ad(files[1]).X.nnz
    monkeypatch.setattr(fit_tokenizer, "EXACT_LIMIT", n_values + 10)  # fewer than in both files
    counted = []
    original = fit_tokenizer.count_part
    monkeypatch.setattr(fit_tokenizer, "count_part", lambda *args: (counted.append(args[2]), original(*args))[1])
    given = [tmp_path / "bad.h5ad", files[1]]
    store = prepare(given, tmp_path / "s", median_tokenizer(), cells_per_part=50, on_error="skip")
    assert len(counted) > len(set(counted)), "the parts of the other file are counted again"
    alone = prepare(files[1], tmp_path / "alone", median_tokenizer(), cells_per_part=50)
    assert store.tokenizer["medians"] == alone.tokenizer["medians"]
