"""Every strategy once, on two ranks of one pair of processes: ``two_ranks.py STORE FOLDER``."""

import os
import sys
import time
import traceback

import torch

from support import SMALL, command

#: Two micro-batches a step, so that one rank with accumulation does the same as two without.
COMMON = (
    "data.tokens_per_step=512",
    "trainer.max_steps=4",
    "trainer.log_every_n_steps=1",
    "model.dropout=0.1",
    "schedule=constant",
)
STRATEGIES = {
    "ddp": (),
    "fsdp2": (),
    "deepspeed_zero1": (),
    "deepspeed_zero2": (),
    "deepspeed_zero3": ("strategy.persistence_threshold=0",),
}


def main(store: str, folder: str, names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or STRATEGIES:
        began = time.perf_counter()
        command(
            "train", f"store={store}", f"output={folder}/{name}", *SMALL, *COMMON, *STRATEGIES[name],
            f"strategy={name}", "trainer.devices=2",
        )  # fmt: skip
        print(f"{name} took {time.perf_counter() - began:.1f} s", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], sys.argv[3:])
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)  # at once, so that the other rank does not wait
