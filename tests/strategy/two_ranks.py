"""Everything two ranks must do together, in one pair of processes: ``two_ranks.py STORE FOLDER``.

One process alone resumes what they did by a strategy that divides the model.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

import stoppable
from scfm.module import CellModule
from scfm.objective.mlm import MLM
from support import SMALL, command

#: Two micro-batches a step, so that one rank with accumulation does the same as two without.
COMMON = (
    "data.tokens_per_step=512",
    "trainer.max_steps=4",
    "trainer.log_every_n_steps=1",
    "model.dropout=0.1",
    "schedule=constant",
    "start=random",
)
#: On a store with counts.
DENOISED = (
    "start=spectral",
    "start.factorization=correspondence",
    "start.min_cells=3",
    "start.components=8",
    "objective=mlm_denoise",
    "model.embedding_pool=denoised",
    "model.layer_length=12",
)
STRATEGIES = {
    "ddp": ("strategy=ddp",),
    "ddp_apart": ("strategy=ddp", "strategy.overlap=false"),
    "fsdp2": ("strategy=fsdp2",),
    "fsdp2_sharded": ("strategy=fsdp2", "strategy.sharded_checkpoint=true"),
    "fsdp2_async": ("strategy=fsdp2", "strategy.sharded_checkpoint=true", "files.asynchronous=true"),
    "deepspeed_zero1": ("strategy=deepspeed_zero1",),
    "deepspeed_zero2": ("strategy=deepspeed_zero2",),
    "deepspeed_zero3": ("strategy=deepspeed_zero3", "strategy.persistence_threshold=0"),
    "deepspeed_zero3_offload": ("strategy=deepspeed_zero3_offload", "strategy.persistence_threshold=0"),
}


def note_shares(folder: str) -> None:
    """Write down how much of a divided model this rank was given to build, and holds afterward, in numbers."""
    configure = CellModule.configure_model

    def noted(self: CellModule) -> None:
        parameters = list(self.parameters())
        fresh = not any(hasattr(p, "ds_id") or isinstance(p, DTensor) for p in parameters)
        total = sum(p.numel() for p in parameters)
        built = sum(p.numel() for p in parameters if not p.is_meta)
        configure(self)
        if fresh and _divides(self.trainer.strategy):
            held = sum(_local(p).numel() for p in self.parameters())
            name = f"{self.trainer.strategy.kind}-{os.environ['RANK']}.json"
            Path(folder, name).write_text(json.dumps({"total": total, "built": built, "held": held}))

    CellModule.configure_model = noted


def _divides(strategy: object) -> bool:
    return getattr(strategy, "kind", "") in ("fsdp2", "deepspeed_zero3")


def _local(parameter: torch.nn.Parameter) -> torch.Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter.ds_tensor


def strategies(store: str, folder: str) -> None:
    """The run of one process, by every strategy; zero3, fsdp2 and ddp also for next-gene prediction."""
    for name, options in STRATEGIES.items():
        began = time.perf_counter()
        train(store, f"{folder}/{name}", *COMMON, *options)
        print(f"{name} took {time.perf_counter() - began:.1f} s", flush=True)
    for name in ("ddp", "fsdp2", "deepspeed_zero3"):
        train(store, f"{folder}/ar_{name}", *COMMON, "objective=ar", *STRATEGIES[name])


def spectral(store: str, folder: str) -> None:
    """The spectral start, which the first rank alone computes."""
    for name in ("ddp", "ddp_apart", "fsdp2", "deepspeed_zero2", "deepspeed_zero3"):
        train(store, f"{folder}/spectral_{name}", *COMMON, "start=spectral", *STRATEGIES[name])
    for name in ("ddp", "fsdp2", "deepspeed_zero3"):
        train(f"{folder}/counted", f"{folder}/denoised_{name}", *COMMON, *DENOISED, *STRATEGIES[name])


def resume_by_strategy(store: str, folder: str) -> None:
    """Stopped after two steps and resumed to four."""
    for name in ("fsdp2", "fsdp2_sharded", "fsdp2_async", "deepspeed_zero2", "deepspeed_zero3"):
        options = (*COMMON, *STRATEGIES[name], "callbacks.checkpoint.every_n_train_steps=1")
        train(store, f"{folder}/stopped_{name}", *options, "trainer.max_steps=2")
        train(store, f"{folder}/stopped_{name}", *options, "ckpt_path=last")


def out_of_memory(store: str, folder: str) -> None:
    """The memory of the second rank runs out in its first backward pass; a fake allocator says so."""
    forward, calls = MLM.forward, [0]

    def limited(self: MLM, backbone, batch):
        found = forward(self, backbone, batch)
        calls[0] += 1
        if calls[0] == 1 and os.environ["RANK"] == "1":
            found["loss"].register_hook(_no_memory)
        return found

    MLM.forward = limited
    train(store, f"{folder}/out_of_memory", *COMMON, *STRATEGIES["ddp_apart"])
    MLM.forward = forward


def _no_memory(gradient: torch.Tensor) -> None:
    raise torch.OutOfMemoryError("fake: out of memory")


def other_world(store: str, folder: str) -> None:
    """The middle of a run that one rank began and one rank ends."""
    stoppable.run(
        store, folder, *stoppable.CHANGING, "trainer.max_steps=8", "strategy=ddp", "trainer.devices=2",
        "ckpt_path=last",
    )  # fmt: skip


def alone(store: str, folder: str) -> None:
    """One rank takes the last step of a run that two began."""
    for name in ("fsdp2", "fsdp2_sharded"):
        begun = f"{folder}/stopped_{name}/checkpoints/step-3.ckpt"
        train(store, f"{folder}/alone_{name}", *COMMON, *STRATEGIES[name], f"ckpt_path={begun}", "trainer.devices=1")


def unhealthy(store: str, folder: str) -> None:
    """The loss of the second rank is not finite in the second step, by every way of skipping."""
    forward = MLM.forward
    for name in ("ddp", "ddp_apart", "fsdp2", "deepspeed_zero2", "deepspeed_zero3"):
        calls = [0]

        def spoiled(self: MLM, backbone, batch, calls=calls):
            found = forward(self, backbone, batch)
            if self.training:
                calls[0] += 1
                if calls[0] == 2 and os.environ["RANK"] == "1":
                    found["loss"] = found["loss"] * float("nan")
            return found

        MLM.forward = spoiled
        options = ("trainer.max_steps=2", "model.dropout=0.1", *STRATEGIES[name])
        train(store, f"{folder}/unhealthy_{name}", *COMMON, *options)
    MLM.forward = forward


def train(store: str, output: str, *overrides: str) -> None:
    command("train", f"store={store}", f"output={output}", *SMALL, "trainer.devices=2", *overrides)


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        if os.environ["WORLD_SIZE"] == "1":
            alone(sys.argv[1], sys.argv[2])
            sys.exit()
        note_shares(sys.argv[2])
        strategies(sys.argv[1], sys.argv[2])
        spectral(sys.argv[1], sys.argv[2])
        resume_by_strategy(sys.argv[1], sys.argv[2])
        unhealthy(sys.argv[1], sys.argv[2])
        out_of_memory(sys.argv[1], sys.argv[2])
        other_world(sys.argv[1], f"{sys.argv[2]}/changing")
    except Exception:
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)  # at once, so that the other rank does not wait
