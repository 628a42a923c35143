"""Losses of 20 seeded steps of every model with every objective it takes, at a tenth of its size.

A change that should not alter numbers leaves tests/golden/losses.json as it is. To write it anew:
    python tests/golden_losses.py
"""

import json
import tempfile
from pathlib import Path

import pandas as pd
import torch

from support import SMALL, command, write_made_store

GOLDEN = Path(__file__).parent / "golden" / "losses.json"
RUNS = [
    ("tiny", "mlm"),
    ("tiny", "ar"),
    ("iseeek", "mlm"),
    ("geneformer_v1_10m", "mlm"),
    ("geneformer_v2_104m", "mlm"),
    ("geneformer_v2_316m", "mlm"),
    ("tgpt", "ar"),
]


def losses(store: Path, model: str, objective: str, output: Path) -> list[float]:
    """Training losses of steps 1 to 20."""
    torch.set_num_threads(1)
    command(
        "train",
        f"store={store}",
        f"output={output}",
        f"model={model}",
        f"objective={objective}",
        *(part for part in SMALL if "positions" not in part),
        "optim.lr=3e-3",
        "trainer.max_steps=20",
        "trainer.log_every_n_steps=1",
        "validate_every=1000",
        "start=random",
    )
    return pd.read_csv(output / "metrics.csv")["train/loss"].dropna().round(6).tolist()


def main() -> None:
    """Write the golden file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = write_made_store(folder / "store").path
        found = {f"{model}-{kind}": losses(store, model, kind, folder / f"{model}-{kind}") for model, kind in RUNS}
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
