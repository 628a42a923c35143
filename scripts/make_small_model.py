"""Make the pretrained model that comes with the package again, from the files of its corpus.

python scripts/make_small_model.py --data ../shared/data --work /tmp/small [--output scfm/datasets/models/small.ckpt]

Prepares the corpus (``FILES``, no cell of which is in a set that judges, see ``benchmarks/sets.py``), pretrains with
``experiment=atlas_small`` on one thread, and saves the matrices as 8-bit numbers. A run that was ended goes on. About
20 CPU-minutes.
"""

import argparse
import os
from pathlib import Path
from typing import Any

#: The corpus: 29,974 human cells; sources and licenses are in docs/small_model.md.
FILES = (
    "celltypist_sample", "hcl_fetal_thymus2", "pbmc_frozen_donor_a", "pisces_pbmc", "pbmc_4protocol", "pbmc_7study",
    "sc_mixology_cell_lines", "skin_ctcl_hc", "crohn_gut_scp1884_1020", "placenta_cellxgene_220", "pbmc3k",
    "breast_tnbc_cid4465", "nsclc_dendritic_rogue",
)  # fmt: skip
#: A gene that fewer cells of the corpus have gets no token: the file stays below 8 MB.
MIN_CELLS = 300


def main() -> None:
    """Prepare, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="for the store and the run")
    parser.add_argument("--output", type=Path, default=Path("scfm/datasets/models/small.ckpt"))
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch: sums depend on the number of threads
    import torch

    import scfm
    from scfm.strategy.checkpoint_io import write_checkpoint

    torch.set_num_threads(1)
    store, run = options.work / "corpus", options.work / "run"
    if not store.exists():
        files = [options.data / f"{name}.h5ad" for name in FILES]
        scfm.prepare(
            files, output=store, keep_counts=True, empty="drop", on_duplicate_cells="number",
            **{"tokenizer.min_cells": MIN_CELLS},
        )  # fmt: skip
    last = run / "checkpoints" / "last.ckpt"
    model = scfm.train(
        store=store, output=run, experiment="atlas_small", name="small", ckpt_path="last" if last.exists() else None,
        **{"model.positions": 1024},
    )  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.unlink(missing_ok=True)
    path = model.save(options.output, int8=True)
    state = torch.load(path, weights_only=True)
    state["scfm"]["config"] = without(f"{options.work.resolve()}/", state["scfm"]["config"])
    write_checkpoint(state, path)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def without(folder: str, value: Any) -> Any:
    """The values with a folder's name taken off paths: the file tells nothing of the machine that made it."""
    if isinstance(value, dict):
        return {key: without(folder, each) for key, each in value.items()}
    if isinstance(value, list):
        return [without(folder, each) for each in value]
    return value.removeprefix(folder) if isinstance(value, str) else value


if __name__ == "__main__":
    main()
