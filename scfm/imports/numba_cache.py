"""Where numba keeps compiled functions if neither the package nor the user's home may be written to."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

#: The variable by which numba is told.
VARIABLE = "NUMBA_CACHE_DIR"


def choose_folder() -> None:
    """Name a folder of this user's own among the temporary files, where numba would find no place and refuse to work.

    Compiled functions are read back by ``pickle``, so a folder that somebody else may write to is never taken.
    """
    package = Path(__file__).resolve().parents[1] / "tokenizer"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    if VARIABLE in os.environ or _may_write(package) or _may_write(cache):
        return
    import tempfile  # costs as much as all of ``import scfm``

    folder = str(own_folder(Path(tempfile.gettempdir())))
    os.environ[VARIABLE] = folder
    if "numba.core.config" in sys.modules:
        sys.modules["numba.core.config"].CACHE_DIR = folder  # type: ignore[attr-defined]


def own_folder(parent: Path) -> Path:
    """A folder that this user alone may write to, the same one for every run where that is possible."""
    folder = parent / f"scfm-numba-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        about = folder.lstat()
        if stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o022:
            return folder
    except OSError:
        pass
    import tempfile

    return Path(tempfile.mkdtemp(prefix="scfm-numba-", dir=parent))


def _may_write(folder: Path) -> bool:
    """Whether a folder may be written to, or made where it is not there."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
