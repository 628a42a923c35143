"""scfm-embed end to end beside the published extractor's loop restated, on the same cells and weights.

python benchmarks/embed.py [--models tiny geneformer_v1_10m] [--cells 96] [--genes 900] [--repeats 3] [--memory]

Cells per CPU-second. Ours is the whole command in a process of its own, from the file to the written copy; its time to
the first batch (imports, the checkpoint) is taken off and shown, as it does not grow with the cells. The restatement
(ctheodoris/Geneformer, emb_extractor.py) gets the tokens for nothing: it sorts the cells by length, takes 100 at a
time, pads them to the longest, runs the model on all positions with all hidden states, takes the mean over the genes,
and writes a table. --memory prints the peak memory of the command at 10,000 and 50,000 short cells instead.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import one_thread  # noqa: F401
import pandas as pd
import torch
from made_up import write_h5ad
from torch.nn import functional as F

from scfm.inference.model import load
from scfm.store.token_store import TokenStore

RUN = """
import os, resource, sys
from scfm import cli
from scfm.inference.batches import CellBatches
read, first = CellBatches.__iter__, []
def watched(self):
    for batch in read(self):
        first or first.append(sum(os.times()[:2]))
        yield batch
CellBatches.__iter__ = watched
cli.main("embed")
memory = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("spent", first[0], sum(os.times()[:2]), int(memory.split()[1]) / 1e6)
"""


def command(name: str, *arguments: str) -> str:
    """Run a command in a process of its own; what it printed."""
    code = RUN if name == "embed" else f"from scfm import cli; cli.main({name!r})"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    return done.stdout


def make_model(folder: Path, store: Path, model: str) -> Path:
    """A checkpoint with random weights."""
    output = folder / model
    small = [
        "trainer.max_steps=1",
        "callbacks.progress=null",
        "trainer.enable_progress_bar=false",
        "start=random",
        "data.tokens_per_batch=4096",
    ]
    command("train", f"store={store}", f"output={output}", f"model={model}", *small)
    return output / "checkpoints" / "last.ckpt"


def embed(cells: Path, checkpoint: Path, output: Path, **options: object) -> tuple[float, float, float]:
    """CPU-seconds to the first batch, those after it, and the peak memory in GB."""
    given = [f"{key}={value}" for key, value in options.items()]
    said = command("embed", f"init_from={checkpoint}", f"input={cells}", f"output={output}", "overwrite=true", *given)
    _, first, end, memory = next(line for line in said.splitlines() if line.startswith("spent")).split()
    return float(first), float(end) - float(first), float(memory)


@torch.no_grad()
def restated(store: TokenStore, checkpoint: Path, output: Path) -> np.ndarray:
    """The published extractor's loop; the embeddings in the order of the store."""
    backbone = load(checkpoint).module.backbone.eval()
    backbone.config._attn_implementation = "sdpa"
    order = np.argsort(-store.lengths, kind="stable")
    found = []
    for start in range(0, len(order), 100):
        tokens = store.gather(order[start : start + 100])
        cells = [torch.from_numpy(tokens[i].astype(np.int64)) for i in range(len(tokens))]
        longest = max(map(len, cells))
        ids = torch.stack([F.pad(cell, (0, longest - len(cell))) for cell in cells])
        mask = torch.stack([F.pad(torch.ones_like(cell), (0, longest - len(cell))) for cell in cells])
        states = backbone.model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        states = states[backbone.embedding_layer] * mask[..., None]
        found.append(states.sum(1) / mask.sum(1, keepdim=True))
    table = np.empty((len(order), backbone.width), dtype=np.float32)
    table[order] = torch.cat(found).numpy()
    pd.DataFrame(table).to_csv(output)
    return table


def compare(folder: Path, cells: Path, store: TokenStore, model: str, repeats: int) -> dict[str, object]:
    """Both ways in turn; prints the figures."""
    checkpoint, output = make_model(folder, store.path, model), folder / "out.h5ad"
    ours, theirs, starts = [], [], []
    for _ in range(repeats):
        first, rest, _ = embed(cells, checkpoint, output)
        ours.append(rest)
        starts.append(first)
        began = time.process_time()
        restated(store, checkpoint, folder / "out.csv")
        theirs.append(time.process_time() - began)
    with h5py.File(output) as file:
        assert np.isfinite(file["obsm/X_scfm"][:]).all()
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    n, rate = len(store), int(store.lengths.sum()) / statistics.median(ours)
    print(
        f"  {model:18s} {n / statistics.median(ours):8.1f} cells/CPU-s ({rate:,.0f} tokens/CPU-s)"
        f" after {statistics.median(starts):.1f} s, restated {n / statistics.median(theirs):6.1f}: "
        f"{statistics.median(ratios):.1f} times ({min(ratios):.1f} to {max(ratios):.1f})",
        flush=True,
    )
    return {"ours": ours, "restated": theirs, "start": starts}


def memory(folder: Path) -> dict[str, float]:
    """Peak memory of two sizes of file."""
    found = {}
    small = folder / "small.h5ad"
    write_h5ad(small, 256, 60, "gzip")
    command("prepare", f"input={small}", f"output={folder / 'store'}", "tokenizer=iseeek")
    checkpoint = make_model(folder, folder / "store", "tiny")
    for n_cells in (10_000, 50_000):
        cells = folder / f"{n_cells}.h5ad"
        write_h5ad(cells, n_cells, 60, "gzip")
        first, rest, peak = embed(cells, checkpoint, folder / "out.h5ad")
        found[str(n_cells)] = peak
        print(
            f"  {n_cells:6,d} cells: {peak:.2f} GB, {n_cells / rest:,.0f} cells/CPU-s after {first:.1f} s", flush=True
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny", "geneformer_v1_10m"])
    parser.add_argument("--cells", type=int, default=96)
    parser.add_argument("--genes", type=int, default=900, help="genes of a cell, about")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.memory:
            found: dict[str, object] = dict(memory(folder))
        else:
            cells = folder / "cells.h5ad"
            write_h5ad(cells, args.cells, args.genes, "gzip")
            command("prepare", f"input={cells}", f"output={folder / 'store'}", "tokenizer=geneformer_v1")
            store = TokenStore.open(folder / "store")
            print(f"{len(store)} cells of {int(store.lengths.mean())} tokens, {os.uname().machine}, one thread")
            found = {model: compare(folder, cells, store, model, args.repeats) for model in args.models}
    if args.json:
        args.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
