"""CPU-seconds from the command line to the first work: what a user waits for before anything happens.

python benchmarks/startup.py [--repeats 3] [--only prepare embed] [--imports train]

The first work is the first file opened (prepare), the first cells read (embed, evaluate) or the first step (train,
finetune); of --help it is the end. User and system time of the process, page cache warm, kernels compiled before.
--imports lists which packages a command has loaded by then and what their imports take.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from made_up import write_h5ad

#: Command: (method that is the first work, arguments after the files, least that we promise).
FIRST = {
    "help": ("", ["--help"], 0.4),
    "prepare": (
        "scfm.cells.file:CellFile.__init__",
        ["input={cells}", "output={folder}/again{n}", "tokenizer=iseeek"],
        1.5,
    ),
    "embed": (
        "scfm.cells.file:CellFile.blocks",
        ["init_from={last}", "input={cells}", "output={folder}/out{n}.h5ad"],
        3.0,
    ),
    "train": ("scfm.module:CellModule.training_step", ["store={store}", "output={folder}/again_run{n}"], 4.5),
    "finetune": (
        "scfm.module:CellModule.training_step",
        ["store={store}", "init_from={last}", "head.label=cell_type", "output={folder}/tuned{n}"],
        6.0,
    ),
}

WATCH = """
import importlib, os, sys
from scfm import cli
module, _, method = {method!r}.partition(":")
def stop(*args, **kwargs):
    spent = os.times()
    print("spent", spent.user + spent.system, *sorted({{name.split(".")[0] for name in sys.modules}}), flush=True)
    os._exit(0)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(made):
            run(made)
            owner = getattr(made, method.split(".")[0])
            setattr(owner, method.split(".")[1], stop)
        spec.loader.exec_module = exec_module
        return spec
if module:
    import importlib.util
    sys.meta_path.insert(0, Finder())
sys.argv[0] = "scfm-{command}"
cli.main({command!r})
stop()
"""


def start(command: str, arguments: list[str], method: str, options: list[str] = ()) -> tuple[float, list[str], str]:
    """CPU-seconds to the first work, the packages loaded by then, and what the process wrote to stderr."""
    code = WATCH.format(method=method, command=command)
    done = subprocess.run([sys.executable, *options, "-c", code, *arguments], capture_output=True, text=True)
    said = [line for line in done.stdout.splitlines() if line.startswith("spent ")]
    if not said:  # --help ends the process itself: its children's time is all there is
        raise SystemExit(f"scfm-{command} did not get to its first work:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    _, seconds, *packages = said[0].split()
    return float(seconds), packages, done.stderr


def help_seconds(command: str) -> float:
    """CPU-seconds of ``--help``, start to end."""
    before = os.times()
    code = f"from scfm import cli; import sys; sys.argv[0] = 'scfm'; cli.main({command!r})"
    subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def make_files(folder: Path) -> dict[str, str]:
    """A file of cells, its store, and a run of a few steps."""
    cells, store = folder / "cells.h5ad", folder / "store"
    write_h5ad(cells, 256, 300, "gzip")
    run = folder / "run"
    small = ["trainer.max_steps=1", "callbacks.progress=null", "trainer.enable_progress_bar=false", "start=random"]
    for command, arguments in (
        ("prepare", [f"input={cells}", f"output={store}", "tokenizer=iseeek", "obs=[cell_type]"]),
        ("train", [f"store={store}", f"output={run}", "model=tiny", *small]),
    ):
        code = f"from scfm import cli; cli.main({command!r})"
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    last = run / "checkpoints" / "last.ckpt"
    return {"cells": str(cells), "store": str(store), "last": str(last), "folder": str(folder)}


def list_imports(stderr: str, most: int = 25) -> None:
    """The modules whose import takes longest, what they import included, of ``-X importtime``."""
    rows = []
    for line in stderr.splitlines():
        if line.startswith("import time:") and "cumulative" not in line:
            own, both, name = line.removeprefix("import time:").split("|")
            rows.append((int(both), int(own), name.strip(), len(name) - len(name.lstrip())))
    for both, own, name, _ in sorted(rows, reverse=True)[:most]:
        print(f"    {both / 1e6:6.2f} s, itself {own / 1e6:5.2f} s  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=FIRST, default=list(FIRST))
    parser.add_argument("--imports", choices=[name for name in FIRST if name != "help"])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        files = make_files(Path(name))
        if args.imports:
            method, arguments, _ = FIRST[args.imports]
            given = [argument.format(**files, n=0) for argument in arguments]
            list_imports(start(args.imports, given, method, ["-X", "importtime"])[2])
            return
        for command in args.only:
            method, arguments, promised = FIRST[command]
            given = [[argument.format(**files, n=n) for argument in arguments] for n in range(args.repeats + 1)]
            if command == "help":
                times = [help_seconds("train") for _ in range(args.repeats + 1)][1:]
            else:
                times = [start(command, own, method)[0] for own in given][1:]  # the first one warms the caches
            found[command] = times
            verdict = "kept" if statistics.median(times) <= promised else "MISSED"
            spread = f"{min(times):.2f} to {max(times):.2f}"
            print(f"  {command:9s} {statistics.median(times):5.2f} CPU-s ({spread}), promised {promised}: {verdict}")
    if args.json:
        args.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
