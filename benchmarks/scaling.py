"""How loss and probes of a frozen backbone grow with its size and with the tokens that it reads.

python benchmarks/scaling.py --store stores/atlas --output outputs/scaling [--data ../shared/data] [--only breast]

Sizes times steps of ``experiment=atlas_small``, each a run of its own schedule with one seed. Columns: parameters of
the layers, tokens through the layers, the gain over the unigram table on really masked genes, the error of the
embedding to the other half of the counts, and the mean over sets for tuning (``sets.py``; a set whose cells are in
the store is flattered: name others with ``--only``) of the three probes of ``backbone.py``. Below, for each column,
the fitted line value = a + p log10(parameters) + q log10(tokens), and what it says of ``--tokens_per_day`` tokens.
Runs that are finished are not made again.
"""

import argparse
import json
import logging
import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from backbone import fit_corpus, judge
from sets import tuning

import scfm
from scfm.published.folder import read_checkpoint
from scfm.store.token_store import TokenStore

#: Width and layers; heads of 64, two widths between.
SIZES = ((64, 2), (128, 4), (192, 6))
PROBES = ("linear", "15-NN", "linear, 10 %")


def main() -> None:
    """Train what is missing, print the table and the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="prepared with keep_counts=true")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="+", default=["breast"], help="names of sets")
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 150, 450])
    parser.add_argument("--tokens_per_batch", type=int, default=24_576)
    parser.add_argument("--tokens_per_day", type=float, help="through the layers, of your machine")
    options = parser.parse_args()
    logging.getLogger("scfm").setLevel(logging.WARNING)
    sets = [one for name, one in tuning("backbone").items() if name in options.only]
    components = fit_corpus(TokenStore.open(options.store))
    rows = []
    for width, layers in SIZES:
        for steps in options.steps:
            folder = options.output / f"{width}-{layers}-{steps}"
            row = pretrain(options, folder, width, layers, steps)
            checkpoint = read_checkpoint(folder / "checkpoints/last.ckpt")
            probes = [judge(one, checkpoint, components, options.data, 3).loc["X_scfm, frozen"] for one in sets]
            rows.append(row | {name: float(np.mean([probe[name] for probe in probes])) for name in PROBES})
            print(pd.DataFrame(rows).round(3).to_string(index=False), flush=True)
    print(f"\n{describe_lines(pd.DataFrame(rows), options.tokens_per_day)}\n{torch.get_num_threads()} thread(s).")


def pretrain(options: argparse.Namespace, folder: Path, width: int, layers: int, steps: int) -> dict[str, float]:
    """One run, unless it is there: what it has learned, by its validation cells."""
    if not (folder / "metrics.json").is_file():
        scfm.train(
            experiment="atlas_small", store=options.store, output=folder, overwrite=True,
            **{
                "model.width": width, "model.layers": layers, "model.heads": width // 64,
                "model.feedforward": 2 * width, "data.tokens_per_batch": options.tokens_per_batch,
                "trainer.max_steps": steps, "validate_every": steps,
            },
        )  # fmt: skip
    found = json.loads((folder / "metrics.json").read_text())
    layer = 8 * width * width  # 4 of attention, 4 of the two linear layers
    store = TokenStore.open(options.store)
    read = np.minimum(np.asarray(store.lengths), 1024)
    in_layers = np.minimum(read, 128).sum() / read.sum()  # model.layer_length of the experiment
    return {
        "width": width,
        "layers": layers,
        "parameters": layers * layer,
        "tokens": steps * options.tokens_per_batch * in_layers,
        "gain, nats": found["val/unigram_loss"] - found["val/loss"],
        "error to the other half": found["val/denoise"],
    }


def describe_lines(table: pd.DataFrame, tokens_per_day: float | None) -> str:
    """The least-squares line of each column, and its value after a day of the largest model."""
    known = np.column_stack([np.ones(len(table)), np.log10(table["parameters"]), np.log10(table["tokens"])])
    lines = []
    for name in ("gain, nats", "error to the other half", *PROBES):
        line, *_ = np.linalg.lstsq(known, table[name].to_numpy(), rcond=None)
        left = table[name] - known @ line
        text = f"{name}: {line[1]:+.3f} for ten times the parameters, {line[2]:+.3f} for ten times the tokens"
        text += f" (residual {left.std(ddof=3):.3f})"
        if tokens_per_day:
            far = line @ [1, math.log10(table["parameters"].max()), math.log10(tokens_per_day)]
            text += f"; a day of {tokens_per_day:.1e} tokens at the largest size: {far:.3f}"
        lines.append(text)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
