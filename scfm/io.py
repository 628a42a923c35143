"""Files that appear whole or not at all, and the lock of a folder that one run at a time may write."""

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import IO

#: Ending of the name under which a file is written before it is whole.
PART = ".part"
#: Bytes of a name that leave room for what an unfinished file has around it, of the 255 that file systems allow.
LONGEST = 200
#: Files that a command asks to have open at a time: batches read ahead take one each.
OPEN_FILES = 4096
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_held: set[IO[str]] = set()


@contextlib.contextmanager
def atomic_write(path: str | Path, *, scratch: Path | None = None) -> Iterator[Path]:
    """Write a file, or a folder, that has its name only when every byte of it is on the disk.

    A file that had the name before stays until then. After an error nothing is left of the unfinished one; after a kill
    it stays, see :func:`remove_parts`.

    Args:
        path: the final name.
        scratch: a folder on the same disk for the unfinished file; None is that of ``path``. Either is made.

    Yields:
        The path to write to.

    Raises:
        OSError: the disk is full, or refuses the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_path(path, scratch)
    try:
        yield part
        move_into_place(part, path)
    except BaseException as error:
        remove(part)
        if (full := disk_full(error)) is not None:
            raise OSError(full.errno, f"{why_full(full)}, {path} is not written") from error
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; a name that is no UTF-8 is escaped, as JSON does."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def require_space(path: Path, n_bytes: int) -> None:
    """Refuse to go on where a file cannot grow by so many bytes: HDF5 ends the process when a write of it fails.

    Args:
        path: an unfinished file; made where it is not there, and left as long as it is.
        n_bytes: what will be added.

    Raises:
        OSError: the disk or the quota is full, or the file may not become so large.
    """
    with path.open("ab") as file:
        size = file.tell()
        try:
            os.posix_fallocate(file.fileno(), size, max(1, n_bytes))
        except OSError as error:
            if error.errno in _FULL:
                raise OSError(
                    error.errno, f"no space is left for {n_bytes / 1e6:,.1f} MB more in {path.parent}"
                ) from error
        finally:
            file.truncate(size)


def part_path(path: Path, scratch: Path | None = None) -> Path:
    """A name for the unfinished ``path`` that no other process has: several may write the same file."""
    folder = path.parent if scratch is None else scratch
    folder.mkdir(parents=True, exist_ok=True)
    name = path.name if len(os.fsencode(path.name)) <= LONGEST else path.name[: LONGEST // 4]  # of 4 bytes a letter
    return folder / f".{name}.{uuid.uuid4().hex[:12]}{PART}"


def move_into_place(part: Path, path: Path) -> None:
    """Rename a finished file or folder, once it is on the disk; what has the name is replaced.

    Args:
        part: the finished one, on the same disk as ``path``.
        path: the final name.
    """
    for file in [part] if part.is_file() else [file for file in part.rglob("*") if file.is_file()]:
        _sync(file)
    if path.is_dir():
        old = part_path(path)
        path.rename(old)
        os.replace(part, path)
        shutil.rmtree(old)
    else:
        if part.is_dir():
            path.unlink(missing_ok=True)  # a folder cannot replace a file
        os.replace(part, path)
    with contextlib.suppress(OSError):  # some network file systems cannot sync a folder
        _sync(path.parent)


def follow_link(output: str | Path) -> Path:
    """Where an output that a user names is to be written: the place that a link leads to, also one that is not there.

    Files that scfm names itself are never written through a link, which replaces it.
    """
    output = Path(output)
    return output.resolve() if output.is_symlink() else output


def require_replaceable(output: Path, own: Collection[str], inputs: Iterable[str | Path] = ()) -> None:
    """Refuse to replace what scfm did not write, or a place where an input of the same command lies.

    Args:
        output: what ``overwrite=true`` would replace; nothing is refused where nothing is there.
        own: names of files that every folder of the kind has.
        inputs: of the command.

    Raises:
        FileExistsError: it is a file, or a folder without those files; an empty folder may be replaced.
        ValueError: an input lies in it.
    """
    if not output.exists():
        return
    holding = [
        Path(path) for path in inputs if output.resolve() in (Path(path).resolve(), *Path(path).resolve().parents)
    ]
    if holding:
        raise ValueError(
            f"the input {holding[0]} lies in output={output}, which would be replaced: choose another output"
        )
    names = {path.name for path in output.iterdir()} if output.is_dir() else set()
    if not output.is_dir() or (names and not names.issuperset(own)):
        what = f"a folder without {' and '.join(sorted(own))}" if output.is_dir() else "a file"
        raise FileExistsError(
            f"{output} is {what}, which scfm did not write: overwrite=true does not replace it; choose another output, "
            "or remove it first"
        )


def remove_parts(folder: Path) -> None:
    """Remove the unfinished files that killed runs left in a folder; only for the one who holds the folder."""
    for part in folder.glob(f".*{PART}"):
        remove(part)


def remove(path: Path) -> None:
    """Remove a file or a folder that may be there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def allow_open_files() -> None:
    """Let this process and its children open as many files as the system lets it, up to :data:`OPEN_FILES`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def disk_full(error: BaseException | None) -> OSError | None:
    """The error that says that a file cannot grow (disk, quota, limit), among ``error`` and those it arose from."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return error
        error = error.__cause__ or error.__context__
    return None


def why_full(error: OSError) -> str:
    """Half a sentence on an error of :func:`disk_full`."""
    if error.errno == errno.EFBIG:
        return "a file may not become so large here (see ulimit -f)"
    return "no space is left on the disk"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def hold(lock: Path, what: str | Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock file, so that no other process writes what it stands for.

    The lock ends with its process, also when that is killed. It works between machines where their common file system
    has locks (NFS has them, Lustre when mounted with ``flock``). Where there are none, the note of the holder in the
    file is used instead: it counts unless it names a process of this machine that has ended.

    Args:
        lock: the file; made, and removed at the end unless it is shared.
        what: what the holder writes, for the message.
        shared: other shared holders are let in.

    Raises:
        BlockingIOError: another process holds it; names that process.
    """
    file = _acquire(lock, what, shared)
    _held.add(file)
    try:
        with contextlib.suppress(OSError):  # the note is for messages; a full disk is reported where it matters
            file.truncate(0)
            file.write("" if shared else _own_note())
            file.flush()
        yield
    finally:
        _held.discard(file)
        if not shared and _is_same(file, lock):
            lock.unlink()
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
        file.close()


def _acquire(lock: Path, what: str | Path, shared: bool) -> IO[str]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = lock.open("a+", encoding="utf-8")  # network file systems want it open for reading and writing
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            free = True
        except OSError as error:
            free = error.errno in _NO_LOCKS and (shared or not _alive(_note(file)))
            if error.errno not in _NO_LOCKS and not isinstance(error, BlockingIOError):
                file.close()
                raise
        if not free:
            holder = _holder(_note(file))
            file.close()
            raise BlockingIOError(f"another run is writing {what}{holder}; wait for it, or stop it")
        if _is_same(file, lock):
            return file
        file.close()  # its last holder has removed it in between


def _own_note() -> str:
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    return "\n".join([socket.gethostname(), str(os.getpid()), started, Path(sys.argv[0]).name])


def _note(file: IO[str]) -> list[str]:
    file.seek(0)
    return file.read().split("\n")


def _holder(note: list[str]) -> str:
    """`` (process 71 on node3, scfm-train since 2026-01-01 09:00:00)``; nothing where the holder left no note."""
    if len(note) != 4:
        return ""
    host, pid, started, program = note
    return f" (process {pid} on {host}, {program} since {started})"


def _alive(note: list[str]) -> bool:
    """Whether the process of a note may be running: one of another machine may always."""
    if len(note) != 4 or not note[1].isdecimal():
        return False
    if note[0] != socket.gethostname():
        return True
    try:
        os.kill(int(note[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, as another user
        return True
    return True


def _is_same(file: IO[str], path: Path) -> bool:
    """Whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _let_go() -> None:
    """In a forked process: it would keep the lock of a parent that was killed."""
    for file in _held:
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
