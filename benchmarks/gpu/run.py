"""Everything a GPU has to show, in one call that ends within ten minutes.

    python benchmarks/gpu/run.py [--minutes 9] [--out results] [--no-compile] [--only checks grid runs profile]

1. The varlen attention path against the CPU oracle: outputs and gradients of BERT and GPT-2.
2. Tokens/s, cells/s, MFU, share of the roofline and peak memory of a whole training step (transfer, forward, backward,
   clipping, fused AdamW, bfloat16) for 10 M, 104 M and 316 M parameters at 2048, 128, 4096 and ragged lengths, for
   masked and next-gene prediction; beside it, in the same run, transformers' own padded step as its Trainer takes it.
3. Whole runs of ``train.py``, loader and all, by one device, DDP, FSDP2 and DeepSpeed.
4. A profile of a step.

Rates are all real tokens over all wall seconds of the timed steps. Prints a table, writes ``results.json`` and
``profile.txt``. Without a GPU it runs everything at toy size on the CPU, to show that it works; its figures then mean
nothing. What the time does not allow is listed as not run; a second call with ``--only`` does it.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made import LENGTHS, MODELS, TOY, TOY_LENGTHS, made_backbone, made_batch, made_batches, made_vocab
from runs import runs
from steps import Run, ours, theirs, timed

from scfm.batch import Batch
from scfm.model.attention import attention_path
from scfm.model.backbone import Backbone
from scfm.model.flops import mean_length, peak_of
from scfm.objective.ar import AR
from scfm.objective.mlm import MLM
from scfm.types import Spec

OBJECTIVES = {"mlm": MLM, "ar": AR}
PARTS = ("checks", "grid", "runs", "profile")
#: Seconds that are kept for what comes after the grid, which would take them all.
KEPT = 200


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--minutes", type=float, default=9.0)
    arguments.add_argument("--seconds", type=float, default=4.0, help="timed seconds of each row")
    arguments.add_argument("--out", type=Path, default=Path("outputs/gpu"))
    arguments.add_argument("--no-compile", action="store_true")
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    options = arguments.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    cuda = torch.cuda.is_available()
    run = Run(
        device=torch.device("cuda", 0) if cuda else torch.device("cpu"),
        dtype=torch.bfloat16 if cuda else torch.float32,
        compile=cuda and not options.no_compile,
        seconds=options.seconds if cuda else 0.2,
        deadline=time.monotonic() + 60 * options.minutes,
    )
    name = torch.cuda.get_device_name() if cuda else "CPU"
    path, reason = attention_path(run.device, run.dtype, 64)
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "compile": run.compile}
    found |= {"attention": f"{path}: {reason}", "toy": run.toy}
    print(f"{name}, torch {torch.__version__}, {run.dtype}, compile {run.compile}\nattention {path}: {reason}")
    if run.toy:
        print("NO GPU: toy sizes on the CPU, to show that the script runs. The figures mean nothing.")
    if "checks" in options.only:
        found["checks"] = {kind: check(run, kind == "ar") for kind in OBJECTIVES}
        save(options.out, found)
    for part, rows in (("grid", grid(run, name, "runs" in options.only)), ("runs", runs(run))):
        if part in options.only:
            found["rows" if part == "grid" else part] = kept = []
            for row in rows:
                kept.append(row)
                save(options.out, found)
    if "profile" in options.only:
        (options.out / "profile.txt").write_text(profile(run))
    print(f"\n{options.out}/results.json, {options.out}/profile.txt")


def save(folder: Path, found: dict[str, Any]) -> None:
    (folder / "results.json").write_text(json.dumps(found, indent=1))


def check(run: Run, causal: bool) -> dict[str, float]:
    """The device's path against float32 on the CPU: worst relative error of outputs and gradients."""
    yaml, vocab, _ = (TOY if run.toy else MODELS)["toy" if run.toy else "10M"]
    oracle = made_backbone(yaml, vocab, causal)
    batch = made_batch(np.random.default_rng(0), "ragged", 256 if run.toy else 12_000, vocab, run.toy, 0)
    errors = {}
    expected = gradients(oracle, batch)
    for dtype in {torch.float32, run.dtype}:
        model = copy.deepcopy(oracle).to(run.device)
        with torch.autocast(run.device.type, dtype, enabled=dtype != torch.float32):
            got = gradients(model, batch.to(run.device))
        name = str(dtype).removeprefix("torch.")
        errors[f"{name} hidden"], errors[f"{name} gradients"] = (
            max(float((a.cpu().float() - b).norm() / b.norm().clamp(min=1e-12)) for a, b in zip(x, y, strict=True))
            for x, y in zip(got, expected, strict=True)
        )
        limit = 1e-3 if dtype == torch.float32 else 5e-2
        verdict = "ok" if max(errors[f"{name} hidden"], errors[f"{name} gradients"]) < limit else "FAILED"
        path = attention_path(run.device, dtype, model.width // model.config.num_attention_heads)[0]
        print(
            f"{'GPT-2' if causal else 'BERT'} {name} ({path}) against the CPU, relative error: hidden "
            f"{errors[f'{name} hidden']:.1e}, gradients {errors[f'{name} gradients']:.1e}: {verdict} (limit {limit})"
        )
    return errors


def gradients(model: Backbone, batch: Batch) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    hidden = model(batch)
    (hidden.float() * torch.linspace(-1, 1, model.width, device=hidden.device)).sum().backward()
    # biases of keys have a gradient of zero, of which a relative error says nothing
    named = ((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)
    return [hidden.detach()], [grad for name, grad in named if not name.endswith("bias")]


def grid(run: Run, device: str, more_to_come: bool) -> Iterator[dict[str, Any]]:
    """One row for each model, length and objective, the most telling first."""
    deadline = run.deadline - KEPT * (more_to_come and not run.toy)
    titles = f"{'tokens/s':>10s} {'cells/s':>8s} {'MFU':>6s} {'roof':>6s} {'GB':>6s}"
    print(f"\n{'model':5s} {'length':>6s} {'task':4s} {'way':12s} {titles}")
    for length in TOY_LENGTHS if run.toy else LENGTHS:
        for model, (yaml, vocab, tokens) in (TOY if run.toy else MODELS).items():
            for objective in OBJECTIVES:
                for way in ("scfm", "transformers"):
                    row = {"model": model, "length": length, "objective": objective, "way": way}
                    if time.monotonic() > deadline:
                        yield row | {"not run": "out of time"}
                        continue
                    try:
                        row |= measure(run, device, yaml, vocab, tokens, length, objective, way)
                    except (torch.OutOfMemoryError, RuntimeError) as error:
                        row |= {"failed": f"{type(error).__name__}: {error}"[:300]}
                    show(row)
                    yield row


def show(row: dict[str, Any]) -> None:
    head = f"{row['model']:5s} {row['length']:>6s} {row['objective']:4s} {row['way']:12s}"
    if "failed" in row:
        print(f"{head} {row['failed'][:100]}")
        return
    shares = "".join(f" {row[key]:6.1%}" if row[key] is not None else "      -" for key in ("mfu", "roof"))
    print(f"{head} {row['tokens_per_s']:10.0f} {row['cells_per_s']:8.1f}{shares} {row['memory_gb']:6.1f}")


def measure(
    run: Run, device: str, yaml: str, vocab: int, tokens: int, length: str, objective: str, way: str
) -> dict[str, Any]:
    """Time whole training steps; halve the batch while it does not fit."""
    task = OBJECTIVES[objective](Spec(made_vocab(vocab), 0))
    backbone = made_backbone(yaml, vocab, task.causal).to(run.device)
    while True:
        batches = made_batches(length, tokens, vocab, run.toy)
        try:
            step = ours(run, backbone, task.to(run.device)) if way == "scfm" else theirs(run, backbone, task, batches)
            steps, seconds = timed(run, step, batches)
            break
        except torch.OutOfMemoryError:
            if tokens < 2 * batches[0].longest:
                raise
            tokens //= 2
            backbone.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
    done = sum(batches[i % len(batches)].n_tokens for i in range(steps))
    cells = sum(batches[i % len(batches)].n_cells for i in range(steps))
    tbar = mean_length([n for batch in batches for n in batch.lengths.tolist()])
    work, rate, peak = backbone.work(0.15 if objective == "mlm" else 1.0), done / seconds, peak_of(device)
    return {
        "tokens_per_s": rate,
        "cells_per_s": cells / seconds,
        "mfu": None if peak is None else work.utilization(rate, tbar, peak),
        "roof": rate / work.roof(tbar) if "H200" in device else None,
        "memory_gb": 0.0 if run.toy else torch.cuda.max_memory_allocated() / 2**30,
        "tokens_per_step": tokens,
        "steps": steps,
        "tbar": tbar,
    }


def profile(run: Run) -> str:
    """Where the time of the smallest model's masked step goes."""
    yaml, vocab, tokens = next(iter((TOY if run.toy else MODELS).values()))
    task = MLM(Spec(made_vocab(vocab), 0)).to(run.device)
    step = ours(run, made_backbone(yaml, vocab, False).to(run.device), task)
    batches = made_batches("64" if run.toy else "2048", tokens, vocab, run.toy)
    for batch in batches:
        step(batch)
    run.synchronize()
    with torch.profiler.profile() as found:
        for batch in batches:
            step(batch)
        run.synchronize()
    key = "self_cpu_time_total" if run.toy else "self_cuda_time_total"
    return found.key_averages().table(sort_by=key, row_limit=30, max_name_column_width=70)


if __name__ == "__main__":
    main()
