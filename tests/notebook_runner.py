"""Runs a notebook in this process: imports are paid once for all of them, and commands start no interpreter."""

import ast
import logging
import os
import re
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def read(name: str) -> nbformat.NotebookNode:
    """The notebook, validated."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def run(name: str, **small: Any) -> dict[str, Any]:
    """Run all cells of a notebook, with other values for the names of its cell of parameters; what they leave behind.

    Raises:
        AssertionError: a parameter that the notebook does not have, or a command that fails.
    """
    space: dict[str, Any] = {"__name__": "__main__"}
    left = dict(small)
    for i, cell in enumerate(read(name).cells):
        if cell.cell_type != "code":
            continue
        for source in _pieces(cell.source):
            if source.startswith("!"):
                run_command(source[1:].format(**space))
            else:
                exec(compile(ast.parse(source), f"{name}, cell {i}", "exec"), space)
        if "parameters" in cell.metadata.get("tags", []):
            assert set(left) <= set(space), f"{name} has no parameters {set(left) - set(space)}"
            space.update(left)
            left.clear()
    assert not left, f"{name} has no cell of parameters"
    return space


def _pieces(source: str) -> list[str]:
    """Stretches of Python, and lines that begin with an exclamation mark."""
    pieces: list[str] = []
    for line in source.splitlines():
        if line.startswith("!") or not pieces or pieces[-1].startswith("!"):
            pieces.append(line)
        else:
            pieces[-1] += f"\n{line}"
    return pieces


def run_command(line: str) -> None:
    """``[cd FOLDER &&] scfm-NAME ARGUMENTS`` as the shell would run it."""
    folder, _, rest = line.rpartition(" && ")
    program, *arguments = shlex.split(rest)
    found = re.fullmatch(r"scfm-(\w+)", program)
    assert found, f"{line}: the runner knows commands of scfm alone"
    with _shell(Path(folder.removeprefix("cd ")) if folder else Path.cwd(), [program, *arguments]):
        from scfm.cli import main

        try:
            main(found[1])
        except SystemExit as end:
            assert not end.code, f"{line}: exit status {end.code}"


@contextmanager
def _shell(folder: Path, arguments: list[str]):
    """The working folder and arguments of a process, its search path and its logging."""
    root = logging.getLogger()
    before = Path.cwd(), sys.argv, list(sys.path), list(root.handlers), root.level
    os.chdir(folder)
    sys.argv = arguments
    try:
        yield
    finally:
        os.chdir(before[0])
        sys.argv, sys.path[:], root.handlers[:] = before[1], before[2], before[3]
        root.setLevel(before[4])
