"""Everything two ranks must do together, in one pair of processes: ``two_ranks.py STORE FOLDER``."""

import os
import sys
import time
import traceback

import torch

import stoppable
from scfm.objective.mlm import MLM
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
    "fsdp2_sharded": ("strategy=fsdp2", "strategy.sharded_checkpoint=true"),
    "deepspeed_zero1": (),
    "deepspeed_zero2": (),
    "deepspeed_zero3": ("strategy.persistence_threshold=0",),
    "deepspeed_zero3_offload": ("strategy.persistence_threshold=0",),
}


def strategies(store: str, folder: str) -> None:
    """The run of one process, by every strategy; zero3, fsdp2 and ddp also for next-gene prediction."""
    for name, options in STRATEGIES.items():
        began = time.perf_counter()
        chosen = () if name == "fsdp2_sharded" else (f"strategy={name}",)
        train(store, f"{folder}/{name}", *COMMON, *chosen, *options)
        print(f"{name} took {time.perf_counter() - began:.1f} s", flush=True)
    for name in ("ddp", "fsdp2", "deepspeed_zero3"):
        train(store, f"{folder}/ar_{name}", *COMMON, f"strategy={name}", "objective=ar", *STRATEGIES[name])


def resume_by_strategy(store: str, folder: str) -> None:
    """Stopped after two steps and resumed to four."""
    for name in ("fsdp2", "fsdp2_sharded", "deepspeed_zero2", "deepspeed_zero3"):
        chosen = () if name == "fsdp2_sharded" else (f"strategy={name}",)
        options = (*COMMON, *chosen, *STRATEGIES[name], "callbacks.checkpoint.every_n_train_steps=1")
        train(store, f"{folder}/stopped_{name}", *options, "trainer.max_steps=2")
        train(store, f"{folder}/stopped_{name}", *options, "ckpt_path=last")


def other_world(store: str, folder: str) -> None:
    """The middle of a run that one rank began and one rank ends."""
    stoppable.run(
        store, folder, *stoppable.CHANGING, "trainer.max_steps=8", "strategy=ddp", "trainer.devices=2",
        "ckpt_path=last",
    )  # fmt: skip


def unhealthy(store: str, folder: str) -> None:
    """The loss of the second rank is not finite in the second step, by every way of skipping."""
    forward = MLM.forward
    for name in ("ddp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3"):
        calls = [0]

        def spoilt(self: MLM, backbone, batch, calls=calls):
            found = forward(self, backbone, batch)
            if self.training:
                calls[0] += 1
                if calls[0] == 2 and os.environ["RANK"] == "1":
                    found["loss"] = found["loss"] * float("nan")
            return found

        MLM.forward = spoilt
        options = ("trainer.max_steps=2", f"strategy={name}", "model.dropout=0.1", *STRATEGIES[name])
        train(store, f"{folder}/unhealthy_{name}", *COMMON, *options)
    MLM.forward = forward


def train(store: str, output: str, *overrides: str) -> None:
    command("train", f"store={store}", f"output={output}", *SMALL, "trainer.devices=2", *overrides)


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        strategies(sys.argv[1], sys.argv[2])
        resume_by_strategy(sys.argv[1], sys.argv[2])
        unhealthy(sys.argv[1], sys.argv[2])
        other_world(sys.argv[1], f"{sys.argv[2]}/changing")
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)  # at once, so that the other rank does not wait
