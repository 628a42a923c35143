"""The very end of a run: killed between any two of its last steps and started again; held by another run."""

import os

import pytest

from scfm.cli import _report_errors
from scfm.datasets.synthetic import synthetic_cells
from scfm.preparation.api import append, prepare
from scfm.preparation.workdir import WorkDir
from scfm.tokenizer import RankTokenizer
from support import checksums

SPECIALS = {"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"}
TOKENIZER = RankTokenizer(name="r", max_length=16, specials=SPECIALS)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in")
    cells = synthetic_cells(n_cells=60, n_genes=60, seed=4)
    paths = [folder / "a.h5ad", folder / "b.h5ad"]
    for path, rows in zip(paths, (slice(0, 30), slice(30, 60)), strict=True):
        cells[rows].write_h5ad(path)
    return paths


def killed_at(step, work):
    """Run ``work`` in a child that dies before its ``step``-th renaming or removal of publishing; False if it ends."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    done, publish = 0, WorkDir.publish

    def counting(original):
        def counted(*args, **kwargs):
            nonlocal done
            done += 1
            if done == step:
                os._exit(9)
            return original(*args, **kwargs)

        return counted

    def publishing(self):
        os.rename, os.unlink, os.rmdir = map(counting, (os.rename, os.unlink, os.rmdir))
        publish(self)

    WorkDir.publish = publishing
    work()
    os._exit(0)


def whole(files, output, **options):
    return prepare(files, output, TOKENIZER, cells_per_part=30, **options)


@pytest.mark.parametrize("how", ["new", "replacing", "adding"])
def test_killed_between_any_two_of_the_last_steps(files, tmp_path, how):
    expected = tmp_path / "expected"
    whole(files[:1] if how == "adding" else files, expected)
    if how == "adding":
        append(files[1], expected)
    output, step = tmp_path / "out" / "s", 0
    work = {
        "new": lambda: whole(files, output),
        "replacing": lambda: whole(files, output, overwrite=True),
        "adding": lambda: append(files[1], output),
    }[how]
    while step < (100 if how == "new" else 5):  # removing the working folder is the same for all
        step += 1
        if how != "new":
            whole(files[:1], output)
        if not killed_at(step, work):
            break
        try:
            work()
        except (FileExistsError, ValueError) as error:  # every trace of the run was gone: it had finished
            assert "exists" in str(error) or "already" in str(error)
            assert not (output.parent / ".s.removed" / "plan.json").exists()
        assert checksums(output) == checksums(expected)
        assert [path.name for path in output.parent.iterdir() if path.name != ".s.removed"] == ["s"]
        for path in output.iterdir():
            path.unlink()
        output.rmdir()
    assert step >= 5


def test_a_held_output_is_one_sentence_on_the_command_line(files, tmp_path, caplog):
    with WorkDir(tmp_path / "s").lock(), pytest.raises(SystemExit) as ended:
        _report_errors(lambda: whole(files, tmp_path / "s"))
    assert ended.value.code == 1
    (said,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert said.getMessage().startswith(f"another run is writing {tmp_path / 's'} (process {os.getpid()} on ")
    assert said.getMessage().endswith("); wait for it, or stop it")
    assert said.exc_info is None
