"""The screen of a command: closed, full, or of an encoding without some letters, it ends no run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY)}

#: What a command writes: lines on both streams, a bar on each, and a file that must hold its own bytes alone.
WRITES = """
import os, sys
from scfm.progress import keep_screen
keep_screen()
from rich.console import Console
from tqdm import tqdm
with open("own", "w") as file:
    for stream in (sys.stdout, sys.stderr):
        print("caf\\u00e9 \\u2022 \\U0001f9ec \\udcf6", file=stream, flush=True)
        for _ in tqdm(range(3), file=stream, mininterval=0, desc="\\u2022"):
            pass
        Console(file=stream).print("\\u2022" * 500)
        for _ in range(2000):
            print("x" * 100, file=stream)
    os.write(1, b"of a library")
    os.system("echo of a child")
    file.write("mine")
open("done", "w").close()
"""


def call(folder, redirection, **environment):
    code = folder / "writes.py"
    code.write_text(WRITES, encoding="utf-8")
    line = f"{sys.executable} {code} {redirection}"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        env=ENVIRONMENT | environment,
    )


@pytest.mark.parametrize(
    "redirection",
    [
        "| true",
        "| head -c 9",
        "2>&1 | true",
        "2>&1 | head -1",
        ">&-",
        ">&- 2>&-",
        "<&- >&- 2>&-",
        "> /dev/full",
        "2> /dev/full",
    ],
)
def test_a_screen_that_takes_nothing_ends_no_command(tmp_path, redirection):
    ended = call(tmp_path, redirection)
    assert (tmp_path / "done").exists(), ended.stderr[-2000:]
    assert (tmp_path / "own").read_text() == "mine"
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "Error" not in ended.stderr and "Exception" not in ended.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_letters_that_the_screen_lacks_are_escaped(tmp_path, encoding):
    ended = call(tmp_path, "", PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ("\\u2022" in ended.stdout) == (encoding != "utf-8")
    assert "\\udcf6" in ended.stdout
