"""Files appear whole or not at all, whatever happens; a folder has one writer, and a dead one is replaced."""

import errno
import json
import os
import resource
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from scfm import io
from scfm.checkpoint import read_state
from scfm.io import (
    PART,
    atomic_write,
    follow_link,
    hold,
    move_into_place,
    remove_parts,
    require_replaceable,
    require_space,
    write_text,
)
from scfm.store.token_store import TokenStore
from scfm.store.verify import verify
from scfm.strategy.checkpoint_io import write_checkpoint
from support import write_made_store


def forked(work) -> int:
    """Run ``work`` in a child; its exit status, negative when it was killed by a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def full(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


class TestAtomicWrite:
    def test_a_file_and_a_folder(self, tmp_path):
        with atomic_write(tmp_path / "new" / "a.npz") as part:
            with part.open("wb") as file:
                np.savez(file, x=[1])
            assert not (tmp_path / "new" / "a.npz").exists()
        assert np.load(tmp_path / "new" / "a.npz")["x"].tolist() == [1]
        for content in ("one", "two"):
            with atomic_write(tmp_path / "folder") as part:
                part.mkdir()
                (part / content).write_text(content)
        assert [path.name for path in (tmp_path / "folder").iterdir()] == ["two"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "new"]

    def test_a_folder_replaces_a_file(self, tmp_path):
        (tmp_path / "a").write_text("file")
        (tmp_path / "part").mkdir()
        move_into_place(tmp_path / "part", tmp_path / "a")
        assert (tmp_path / "a").is_dir()

    @pytest.mark.parametrize("letter", ["a", "\U0001f9ec"])
    def test_a_name_as_long_as_a_name_may_be(self, tmp_path, letter):
        path = tmp_path / (letter * (255 // len(letter.encode())))
        write_text(path, "text")
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    def test_unfinished_files_lie_in_scratch(self, tmp_path):
        with atomic_write(tmp_path / "a", scratch=tmp_path / "scratch") as part:
            assert part.parent == tmp_path / "scratch"
            part.write_text("a")
        assert (tmp_path / "a").read_text() == "a"
        assert not list((tmp_path / "scratch").iterdir())

    @pytest.mark.parametrize("fault", [ValueError("bad"), KeyboardInterrupt()])
    def test_after_an_error_the_old_file_is_left_and_nothing_else(self, tmp_path, fault):
        write_text(tmp_path / "a", "old")

        def fail():
            with atomic_write(tmp_path / "a") as part:
                part.write_text("ne")
                raise fault

        with pytest.raises(type(fault)):
            fail()
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_a_full_disk(self, tmp_path, monkeypatch, call):
        write_text(tmp_path / "a", "old")
        monkeypatch.setattr(io.os, call, full)
        with pytest.raises(OSError, match=f"no space is left on the disk, {tmp_path}/a is not written") as caught:
            write_text(tmp_path / "a", "new")
        assert caught.value.errno == errno.ENOSPC
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}

    def test_a_full_disk_that_torch_reports_as_something_else(self, tmp_path):
        class Full:
            def write(self, data):
                full()

            def flush(self):
                pass

        with pytest.raises(OSError, match="no space is left"), atomic_write(tmp_path / "a"):
            torch.save({"a": torch.zeros(9)}, Full())

    def test_space_that_is_not_there_is_refused_before_it_is_needed(self, tmp_path):
        (tmp_path / "a").write_text("old")
        require_space(tmp_path / "a", 5000)
        require_space(tmp_path / "b", 0)
        assert (tmp_path / "a").read_text() == "old"

        def limited():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            with pytest.raises(OSError, match=f"no space is left for 0.0 MB more in {tmp_path}"):
                require_space(tmp_path / "a", 5000)

        assert forked(limited) == 0
        assert (tmp_path / "a").read_text() == "old"

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_a_kill_before_the_rename(self, tmp_path, monkeypatch, call):
        write_text(tmp_path / "a", "old")
        monkeypatch.setattr(io.os, call, lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
        assert forked(lambda: write_text(tmp_path / "a", "new")) == -signal.SIGKILL
        assert (tmp_path / "a").read_text() == "old"
        (left,) = tmp_path.glob(f".a.*{PART}")
        remove_parts(tmp_path)
        assert not left.exists()
        assert (tmp_path / "a").exists()


def keep(lock, *, ready) -> int:
    """A child that holds a lock until it is killed; its process id."""
    child = os.fork()
    if child == 0:
        with hold(lock, "the run"):
            ready.touch()
            time.sleep(60)
    until = time.monotonic() + 20
    while not ready.exists() and time.monotonic() < until:
        time.sleep(0.01)
    return child


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.fixture(params=["with locks", "without locks"])
def file_system(request, monkeypatch):
    """A file system with locks, and one whose server knows none."""
    if request.param == "without locks":

        def no_locks(*arguments):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(io.fcntl, "flock", no_locks)


class TestHold:
    def test_a_second_writer_is_refused_with_the_name_of_the_first(self, tmp_path, file_system):
        child = keep(tmp_path / "lock", ready=tmp_path / "ready")
        try:
            expected = rf"another run is writing /store \(process {child} on .* since .*\); wait for it, or stop it"
            with pytest.raises(BlockingIOError, match=expected), hold(tmp_path / "lock", "/store"):
                pass
        finally:
            kill(child)

    def test_a_dead_holder_is_replaced(self, tmp_path, file_system):
        kill(keep(tmp_path / "lock", ready=tmp_path / "ready"))
        assert (tmp_path / "lock").exists()
        with hold(tmp_path / "lock", "it"):
            pass
        assert not (tmp_path / "lock").exists()

    def test_a_holder_on_another_machine_counts_without_locks(self, tmp_path, file_system, request):
        (tmp_path / "lock").write_text("elsewhere\n1\n2026-01-01 00:00:00\nscfm-train")
        refused = "without" in request.node.callspec.id
        with ExitStack() as stack:
            if refused:
                stack.enter_context(pytest.raises(BlockingIOError, match="process 1 on elsewhere"))
            stack.enter_context(hold(tmp_path / "lock", "it"))

    def test_forked_processes_do_not_keep_the_lock(self, tmp_path):
        """Workers of a loader outlive a killed trainer by seconds."""

        def hold_fork_and_die():
            with hold(tmp_path / "lock", "it"):
                if os.fork() == 0:
                    (tmp_path / "worker").touch()
                    time.sleep(2)
                    os._exit(0)
                while not (tmp_path / "worker").exists():
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)

        assert forked(hold_fork_and_die) == -signal.SIGKILL
        with hold(tmp_path / "lock", "it"):
            pass

    def test_shared_holders_let_each_other_in(self, tmp_path):
        def take(*, shared):
            return hold(tmp_path / "lock", "it", shared=shared)

        with take(shared=True), take(shared=True), pytest.raises(BlockingIOError, match="writing it; wait"):
            take(shared=False).__enter__()
        with take(shared=False), pytest.raises(BlockingIOError, match="process"):
            take(shared=True).__enter__()

    def test_a_lock_that_its_last_holder_removed_is_taken_anew(self, tmp_path, monkeypatch):
        """Between opening and locking the file, its holder ended and a third process made a new one."""
        flock, opened = io.fcntl.flock, []

        def late(file, how):
            if not opened:
                opened.append(file)
                (tmp_path / "lock").unlink()
            flock(file, how)

        monkeypatch.setattr(io.fcntl, "flock", late)
        with hold(tmp_path / "lock", "it"):
            assert (tmp_path / "lock").exists()
            with pytest.raises(BlockingIOError), hold(tmp_path / "lock", "it"):
                pass

    def test_another_fault_is_no_lock(self, tmp_path, monkeypatch):
        monkeypatch.setattr(io.fcntl, "flock", full)
        with pytest.raises(OSError, match="No space left"), hold(tmp_path / "lock", "it"):
            pass


@pytest.mark.parametrize("there", [True, False])
def test_an_output_that_is_a_link_is_written_where_it_leads(tmp_path, there):
    (tmp_path / "far").mkdir()
    if there:
        (tmp_path / "far/x.txt").write_text("old")
    (tmp_path / "x.txt").symlink_to(tmp_path / "far/x.txt")
    write_text(follow_link(tmp_path / "x.txt"), "new")
    assert (tmp_path / "x.txt").is_symlink()
    assert (tmp_path / "far/x.txt").read_text() == "new"
    assert follow_link("some/where") == Path("some/where")


class TestWhatIsReplaced:
    def test_nothing_an_empty_folder_and_one_of_its_own_kind(self, tmp_path):
        require_replaceable(tmp_path / "none", {"scfm.json"})
        require_replaceable(tmp_path, {"scfm.json"})
        (tmp_path / "scfm.json").touch()
        (tmp_path / "data.arrow").touch()
        require_replaceable(tmp_path, {"scfm.json"}, [tmp_path.parent / "x.h5ad"])

    def test_a_folder_of_somebody_else_and_a_file_are_refused(self, tmp_path):
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(FileExistsError, match="is a folder without report.html and scfm.json, which scfm did not"):
            require_replaceable(tmp_path, {"scfm.json", "report.html"})
        with pytest.raises(FileExistsError, match="is a file, which scfm did not write"):
            require_replaceable(tmp_path / "thesis.tex", {"scfm.json"})

    @pytest.mark.parametrize("given", ["here/x.h5ad", "link/x.h5ad", "here"])
    def test_a_place_of_an_input_is_refused(self, tmp_path, given):
        """By any of its names, although the folder is of the kind."""
        (tmp_path / "here").mkdir()
        (tmp_path / "here/scfm.json").touch()
        (tmp_path / "here/x.h5ad").touch()
        (tmp_path / "link").symlink_to("here")
        with pytest.raises(ValueError, match="the input .* lies in output=.*, which would be replaced"):
            require_replaceable(tmp_path / "here", {"scfm.json"}, [tmp_path / "y.h5ad", tmp_path / given])


def write_beyond_the_limit(path):
    with atomic_write(path) as part:
        part.write_bytes(b"some")
        try:
            raise OSError(errno.EFBIG, "File too large")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904 (as torch.save raises it)


def test_as_many_files_may_be_open_as_the_system_allows():
    def work():
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))
        io.allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, io.OPEN_FILES), hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (50, 60))
        io.allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (60, 60)

    assert forked(work) == 0


def test_a_limit_of_file_sizes_is_a_sentence_too(tmp_path):
    """``ulimit -f`` reads like a full disk, whatever a library makes of it."""
    with pytest.raises(OSError, match=r"a file may not become so large here \(see ulimit -f\), .*cells is not written"):
        write_beyond_the_limit(tmp_path / "cells")
    assert not list(tmp_path.iterdir())


def test_a_folder_whose_name_is_no_utf8(tmp_path):
    """As Latin-1 names look on a disk: stores and checkpoints in it are read like any other."""
    folder = tmp_path / os.fsdecode(b"K\xf6ln")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    write_text(folder / "a.json", json.dumps({"path": str(folder)}, ensure_ascii=False))
    assert json.loads((folder / "a.json").read_text()) == {"path": str(folder)}
    written = write_made_store(tmp_path / "plain")
    write_made_store(folder / "store")
    rows = np.arange(len(written))
    assert np.array_equal(TokenStore.open(folder / "store").gather(rows).values, written.gather(rows).values)
    assert not verify(folder / "store")
    write_checkpoint({"weights": torch.ones(3)}, folder / "x.ckpt")
    assert torch.equal(read_state(folder / "x.ckpt")["weights"], torch.ones(3))
