"""Prepares a store over and over, killing itself (SIGKILL) at random moments, until enough kills were survived.

python killed.py INPUTS... OUTPUT KILLS SEED: prints one line of JSON, {"kills", "finished": [checksums of each store]}.
The work is done in forked children, so that a kill costs no import.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from scfm.preparation.api import prepare
from scfm.tokenizer import MedianTokenizer

TOKENIZER = {
    "name": "t",
    "max_length": 64,
    "specials": {"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"},
}


def work(inputs: list[str], output: Path, workers: int = 1) -> None:
    """All phases: statistics, encoding, repeated cells, shuffling."""
    prepare(
        inputs,
        output,
        MedianTokenizer(**TOKENIZER),
        obs=["cell_type"],
        group="donor",
        duplicates="drop",
        shuffle=True,
        cells_per_part=40,
        block_size=16,
        workers=workers,
    )


def forked(inputs: list[str], output: Path, kill_after: float | None, workers: int = 1) -> int:
    """Run the work in a child; its exit status, -9 when it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work(inputs, output, workers)
            os._exit(0)
        except FileExistsError:
            os._exit(3)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def main() -> None:
    *inputs, output, kills, seed = sys.argv[1:]
    store, generator = Path(output), random.Random(int(seed))
    work(inputs, store)  # compiles; the children inherit it
    shutil.rmtree(store)
    began = time.perf_counter()
    assert forked(inputs, store, None) == 0
    whole = time.perf_counter() - began
    finished, killed = [checksums(store)], 0
    shutil.rmtree(store)
    while killed < int(kills):
        status = forked(inputs, store, generator.uniform(0, whole), generator.choice([1, 2]))
        killed += status == -signal.SIGKILL
        assert status in (0, -signal.SIGKILL), status
        if store.exists() and (status == 0 or not (store.parent / f".{store.name}.partial").exists()):
            finished.append(checksums(store))
            shutil.rmtree(store)
    if forked(inputs, store, None) == 0:
        finished.append(checksums(store))
    print(json.dumps({"kills": killed, "finished": finished, "left": sorted(os.listdir(store.parent))}))


if __name__ == "__main__":
    main()
