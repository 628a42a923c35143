"""``make demo``: the whole way on the demo cells, by the same commands a user types.

prepare -> pretrain -> fine-tune -> embed -> evaluate, into ``outputs/demo``.
"""

import importlib
import json
import logging
import shutil
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from hydra import compose, initialize_config_dir

from scfm.cli import CONFIGS
from scfm.config import check, shipped
from scfm.datasets.demo_cells import demo_file
from scfm.page import Section, image, paragraph, settings, table, versions, write_page

log = logging.getLogger(__name__)

OUTPUT = Path("outputs/demo")
#: A laptop's share.
SMALL = ("trainer.accelerator=cpu", "data.max_length=1024", "data.tokens_per_batch=16384", "data.test=0.2")

#: Losses of pretraining, and what guesses that way.
LOSSES = {
    "loss": "this model",
    "unigram_loss": "how common each gene is, for every cell the same",
    "clusters_loss": "how common each gene is in the cell's cluster, of 50",
    "neighbors_loss": "how common each gene is in the nearest training cells",
}
#: Methods of the evaluation, in a few words.
METHODS = {
    "fine-tuned head, best guess": "this model: each cell's likeliest type",
    "fine-tuned head": "this model; unknown counts as wrong",
    "X_scfm, linear probe": "on this model's embedding",
    "X_scfm, 15 nearest": "on this model's embedding",
    "X_scfm_state, linear probe": "on what its head reads",
    "frozen backbone, linear probe": "on the model before fine-tuning",
    "gene components, linear probe": "on the head's part without the model",
    "random weights, linear probe": "on the model with no training at all",
    "logistic regression on PCA": "without any model",
    "logistic regression on HVGs": "without any model (variable genes)",
    "15 nearest on PCA": "without any model",
    "majority class": "always the commonest type",
}


def commands(cells: Path) -> list[list[str]]:
    """The command lines of the demo, in order."""
    store, pretrained, annotated = OUTPUT / "store", OUTPUT / "pretrain", OUTPUT / "annotate"
    embedded = OUTPUT / "embedded.h5ad"
    return [
        [
            "prepare",
            f"input={cells}",
            f"output={store}",
            "init_from=scfm://small",
            "obs=[cell_type,lane]",
            "group=lane",
            "keep_counts=true",
        ],
        [
            "train",
            "init_from=scfm://small",
            f"store={store}",
            "objective=mlm_denoise",
            f"output={pretrained}",
            *SMALL,
            "trainer.max_steps=60",
            "optim.lr=3e-4",
        ],
        [
            "finetune",
            f"init_from={pretrained}/checkpoints/last.ckpt",
            f"store={store}",
            "head=annotation/classifier",
            "head.label=cell_type",
            "head.counts=true",
            f"output={annotated}",
            *SMALL,
            "trainer.max_steps=100",
            "validate_every=50",
            "optim.lr=1e-4",
        ],
        ["embed", f"init_from={annotated}/checkpoints/best.ckpt", f"input={cells}", f"output={embedded}"],
        [
            "evaluate",
            f"input={embedded}",
            "embedding=X_scfm",
            "label=cell_type",
            "batch=lane",
            f"split={annotated}/split.csv",
            f"output={OUTPUT}/evaluation",
        ],
    ]


def call(command: list[str]) -> Any:
    """Run one command as its command line would, in this process (imports are paid once)."""
    name, *overrides = command
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(name, overrides)
    check(cfg, shipped(CONFIGS, name))
    return importlib.import_module(f"scfm.commands.{name}").run(cfg)


def main() -> None:
    """Run the demo anew and close with what it left behind."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    began = time.perf_counter()
    cells = OUTPUT / "cells.h5ad"
    shutil.copyfile(demo_file(), cells)
    for command in commands(cells):
        log.info("\n$ scfm-%s", " ".join(command))
        evaluation = call(command)
    seconds = time.perf_counter() - began
    write_demo_report(evaluation, commands(cells), seconds)
    log.info("\n%s", closing_table(evaluation, seconds))


def write_demo_report(evaluation: Mapping[str, Any], lines: list[list[str]], seconds: float) -> None:
    """One page: what was found, the pictures of each step, and the commands that made them."""
    pictures = {
        "Pretraining": (OUTPUT / "pretrain/curves.png", "Loss and accuracy of predicting hidden genes."),
        "Fine-tuning": (OUTPUT / "annotate/curves.png", "Loss and macro-F1 of naming cell types."),
        "Held-out cells": (OUTPUT / "annotate/confusion_cell_type.png", "Cell types of lanes that training never saw."),
        "All cells": (OUTPUT / "evaluation/umap.png", "The fine-tuned embedding beside PCA."),
    }
    scores = pd.DataFrame(evaluation["annotation"]).T
    sections = [
        Section("", [paragraph(sentence) for sentence in evaluation["summary"]], kind="summary"),
        Section(
            "Naming cell types",
            [
                paragraph(" ".join(evaluation["notes"])),
                table(
                    scores,
                    smaller_is_better=["ece"],
                    unranked=["low", "high", "coverage", "n_cells", "seconds", "megabytes"],
                ),
            ],
        ),
        *(Section(title, [image(path.read_bytes(), text)]) for title, (path, text) in pictures.items()),
        Section("Commands", [paragraph("scfm-" + " ".join(line)) for line in lines]),
        Section("Versions", [settings({**versions(), "seconds": round(seconds)})]),
    ]
    write_page(OUTPUT / "report.html", "scfm on 1,336 blood cells", sections)


def closing_table(evaluation: Mapping[str, Any], seconds: float) -> str:
    """What the demo measured in words that need no page, where it lies and what to run next; 80 columns.

    Args:
        evaluation: what ``scfm-evaluate`` returns.
        seconds: that everything took.
    """
    pretrained = json.loads((OUTPUT / "pretrain" / "metrics.json").read_text())
    losses = [(pretrained[f"val/{name}"], text) for name, text in LOSSES.items() if f"val/{name}" in pretrained]
    scores = [(found["macro_f1"], name) for name, found in evaluation["annotation"].items()]
    lines = [
        "Guessing hidden genes of cells kept aside (loss: lower is better)",
        *(f"  {loss:.3f}  {text}" for loss, text in losses),
        "",
        "Naming the cell types of lanes that training never saw (macro-F1: 1 is perfect)",
        *(f"  {score:.3f}  {name:<30}  {METHODS.get(name, '')}".rstrip() for score, name in scores),
        "",
        *textwrap.wrap(evaluation["summary"][0], 80),  # the verdict on names; the report has the others
        "",
        f"time        {seconds:.0f} s",
        f"report      {OUTPUT / 'report.html'}",
        f"checkpoint  {OUTPUT / 'annotate/checkpoints/best.ckpt'}",
        "",
        "Next, on your own cells:",
        "  scfm-prepare input='data/*.h5ad' output=stores/mine init_from=scfm://small \\",
        "    obs='[cell_type,donor]' group=donor keep_counts=true",
        "  scfm-finetune init_from=scfm://small store=stores/mine head.label=cell_type",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
