"""One training step (forward and backward) on the same cells: ours, packed, against padded transformers.

    python benchmarks/step.py [--repeats 3] [--threads 1] [--only 512 256 128 head tiny geneformer_v1_10m] [--json F]

Prints real tokens per CPU-second of each way, as a ratio to transformers' eager BERT padded to the model's length, and
the memory of the next-gene head against full logits. Every way sees the same cells with the same genes masked, and its
loss and gradients must agree with ours, or the comparison is void (exit 1). Masking and packing are inside our time.

For the shipped models it prints the share of this machine's own rate of matrix products that a step reaches: the FLOPs
of :mod:`scfm.model.flops` (forward and backward) over the time, against a product of two large float32 matrices timed
in turn with it. --profile prints the operations that take the time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from scfm.batch import Batch
from scfm.config import build
from scfm.model.backbone import Backbone
from scfm.model.flops import mean_length
from scfm.objective.chunked import chunked_loss
from scfm.objective.mlm import MLM
from scfm.objective.score import IGNORE
from scfm.trust.allowed import CONFIGS
from scfm.types import Spec
from scfm.vocab import Vocab

V, CELLS, TOLERANCE = 20_275, 16, 1e-5
#: positions of the model: (mean length, spread of its logarithm, least ratio that we promise)
CASES = {"512": (230, 0.35, 6.0), "256": (230, 0.2, 2.4), "128": (0, 0, 2.4)}
#: Shipped models: the share of the machine's matrix products that we aim at.
SHIPPED = {"tiny": 0.6, "geneformer_v1_10m": 0.7}
#: Their cells: lengths of real blood cells, mean and spread of the logarithm, and tokens of a batch.
REAL_LENGTH, REAL_SPREAD, REAL_TOKENS = 900, 0.5, 16_384


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--only", nargs="+", choices=[*CASES, "head", *SHIPPED], default=[*CASES, "head", *SHIPPED])
    arguments.add_argument("--profile", action="store_true", help="of the shipped models, the operations by time")
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--head-memory", choices=["full", "chunked"], help=argparse.SUPPRESS)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    if options.head_memory:
        print(head_memory(options.head_memory))
        return
    print(f"6 layers, D 256, {CELLS} cells, V {V}, float32, no dropout, {options.threads} thread(s)")
    cases = [name for name in CASES if name in options.only]
    found = {name: compare(int(name), *CASES[name][:2], options.repeats) for name in cases}
    print()
    for name in cases:
        ratio, promised = found[name]["packed"]["ratio"], CASES[name][2]
        print(
            f"  step, max {name:16s} {ratio:5.2f}x, promised {promised}x: {'kept' if ratio >= promised else 'MISSED'}"
        )
    if "head" in options.only:
        found["head memory"] = memory = head_ratio()
        verdict = "kept" if memory["ratio"] <= 0.25 else "MISSED"
        print(f"  {'head memory':26s} {memory['ratio']:5.2f}x, promised 0.25x: {verdict}")
        print(f"  (8192 x 256 -> {V}: {memory['chunked']:.0f} MB, full logits {memory['full']:.0f} MB)")
    for name in (name for name in SHIPPED if name in options.only):
        found[name] = share_of_products(name, options.repeats, profile=options.profile)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def compare(positions: int, mean: float, spread: float, repeats: int) -> dict[str, dict[str, float]]:
    """Time every way on the same cells, in turn, and check that they compute the same."""
    torch.manual_seed(0)
    vocab = Vocab(tuple(f"g{i}" for i in range(V)), {"pad": 0, "mask": 1})
    backbone = Backbone(
        vocab, False, layers=6, width=256, heads=4, feedforward=512, positions=positions, activation="relu", dropout=0.0
    )
    batch, task = made_batch(positions, mean, spread), MLM(Spec(vocab, backbone.width))
    ways = {
        "eager, pad to max": padded(backbone, batch, task, "eager", positions),
        "sdpa, pad to longest": padded(backbone, batch, task, "sdpa", batch.longest),
        "packed": lambda: (set_attention(backbone, "scfm_packed"), task(backbone, batch)["loss"])[1],
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    results = {}
    for repeat in range(repeats + 1):
        for way, loss in ways.items():
            taken, result = timed(loss, backbone)
            results[way] = result
            if repeat:  # the first round warms up
                seconds[way].append(taken)
    check_same(results)
    fill = batch.n_tokens / (CELLS * positions)
    base = statistics.median(seconds["eager, pad to max"])
    print(f"\nmax {positions}: {batch.n_tokens} tokens, fill {fill:.2f}, loss {results['packed'][0]:.5f} in every way")
    rows = {}
    for way, times in seconds.items():
        ratios = [a / b for a, b in zip(seconds["eager, pad to max"], times, strict=True)]
        rows[way] = {
            "tokens_per_cpu_s": batch.n_tokens / statistics.median(times),
            "ratio": base / statistics.median(times),
        }
        spread_text = f"{min(ratios):.2f}-{max(ratios):.2f}"
        print(
            f"  {way:22s} {rows[way]['tokens_per_cpu_s']:7.0f} tokens/CPU-s  {rows[way]['ratio']:5.2f}x ({spread_text})"
        )
    return rows


def share_of_products(name: str, repeats: int, *, profile: bool) -> dict[str, float]:
    """How much of the machine's rate of matrix products a step of a shipped model reaches."""
    torch.manual_seed(0)
    vocab = Vocab(tuple(f"g{i}" for i in range(V)), {"pad": 0, "mask": 1})
    node = dict(OmegaConf.load(CONFIGS / "model" / f"{name}.yaml"))
    backbone = build({**node, "dropout": 0.0}, vocab, causal=False)
    batch, task = (
        made_batch(2048, REAL_LENGTH, REAL_SPREAD, cells=REAL_TOKENS // REAL_LENGTH),
        MLM(Spec(vocab, backbone.width)),
    )
    flops = backbone.work(0.15).per_token(mean_length(batch.lengths.tolist())) * batch.n_tokens

    def step() -> torch.Tensor:
        return task(backbone, batch)["loss"]

    timed(step, backbone)
    seconds, rates = [], []
    for _ in range(repeats):
        rates.append(product_rate())
        seconds.append(timed(step, backbone)[0])
    shares = [flops / took / rate for took, rate in zip(seconds, rates, strict=True)]
    share, aim = statistics.median(shares), SHIPPED[name]
    rate, each, peak = batch.n_tokens / statistics.median(seconds), flops / batch.n_tokens, statistics.median(rates)
    print(
        f"  {name:18s} {rate:7,.0f} tokens/CPU-s, {each / 1e6:.1f} MFLOP each: {share:.0%} ({min(shares):.0%} to "
        f"{max(shares):.0%}) of {peak / 1e9:.0f} GFLOP/s, aim {aim:.0%}"
    )
    if profile:
        with torch.profiler.profile() as taken:
            timed(step, backbone)
        print(taken.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=50))
    return {"share": share, "tokens_per_cpu_s": rate}


def product_rate(size: int = 2048) -> float:
    """FLOP/s of a product of two float32 matrices, per CPU-second."""
    one, two = torch.rand(size, size), torch.rand(size, size)
    one @ two
    start = time.process_time()
    for _ in range(3):
        one @ two
    return 3 * 2 * size**3 / (time.process_time() - start)


def made_batch(positions: int, mean: float, spread: float, cells: int = CELLS) -> Batch:
    """Cells whose lengths spread as those of real data do; distinct genes in each."""
    rng = np.random.default_rng(0)
    lengths = np.full(cells, positions)
    if spread:
        lengths = np.clip(rng.lognormal(np.log(mean), spread, cells), 16, positions).astype(int)
    ids = np.concatenate([rng.choice(np.arange(2, V), n, replace=False) for n in lengths])
    return Batch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(np.concatenate([np.arange(n) for n in lengths])),
        boundaries=torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32),
        longest=int(lengths.max()),
        index=torch.arange(cells),
    )


def padded(backbone: Backbone, batch: Batch, task: MLM, attention: str, length: int) -> Callable[[], torch.Tensor]:
    """The published way: rows padded to ``length``, scores for every token, labels of -100 where none is hidden."""
    masked, picked, targets = task.mask(batch)
    labels = torch.full_like(batch.ids, IGNORE).index_copy(0, picked, targets)
    sizes = batch.lengths.tolist()

    def rows(values: torch.Tensor, fill: int) -> torch.Tensor:
        found = pad_sequence(values.split(sizes), batch_first=True, padding_value=fill)
        return F.pad(found, (0, length - found.shape[1]), value=fill)

    ids, mask, wanted = rows(masked.ids, 0), rows(torch.ones_like(batch.ids), 0), rows(labels, IGNORE)

    def loss() -> torch.Tensor:
        set_attention(backbone, attention)
        return backbone.model(ids, attention_mask=mask, labels=wanted).loss

    return loss


def set_attention(backbone: Backbone, name: str) -> None:
    backbone.config._attn_implementation = name


def timed(loss: Callable[[], torch.Tensor], backbone: Backbone) -> tuple[float, tuple[float, list[torch.Tensor]]]:
    backbone.zero_grad(set_to_none=True)
    start = time.process_time()
    value = loss()
    value.backward()
    taken = time.process_time() - start
    return taken, (float(value.detach()), [p.grad.clone() for p in backbone.parameters()])


def check_same(results: dict[str, tuple[float, list[torch.Tensor]]]) -> None:
    """Loss and every gradient of every way against ours."""
    loss, gradients = results["packed"]
    for way, (its_loss, its_gradients) in results.items():
        worst = max(float((a - b).abs().max()) for a, b in zip(gradients, its_gradients, strict=True))
        if abs(loss - its_loss) > TOLERANCE or worst > TOLERANCE:
            sys.exit(f"void: {way} has loss {its_loss} against {loss}, gradients differ by {worst:.1e}")


def head_memory(how: str) -> float:
    """Peak MB that the head adds, in a process of its own."""
    decoder = nn.Linear(256, V, bias=False)
    hidden, targets = torch.randn(8192, 256, requires_grad=True), torch.randint(0, V, (8192,))
    before = peak_memory()
    if how == "chunked":
        backbone = SimpleNamespace(decoder=decoder, transform=nn.Identity())
        chunked_loss(backbone, hidden, targets, 512).backward()
    else:
        F.cross_entropy(decoder(hidden), targets).backward()
    return peak_memory() - before


def peak_memory() -> float:
    """MB of this process at its largest. Not ``ru_maxrss``, which a child inherits from its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def head_ratio() -> dict[str, float]:
    found = {}
    for how in ("full", "chunked"):
        command = [sys.executable, __file__, "--head-memory", how]
        found[how] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found | {"ratio": found["chunked"] / found["full"]}


if __name__ == "__main__":
    main()
