"""``make demo``: the whole way on the demo cells, by the same commands a user types.

prepare -> pretrain -> fine-tune -> embed -> evaluate, into ``outputs/demo``.
"""

import importlib
import json
import logging
import shutil
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
    """What the demo measured, where it lies and what to run next."""
    pretrained = json.loads((OUTPUT / "pretrain" / "metrics.json").read_text())
    annotated = json.loads((OUTPUT / "annotate" / "metrics.json").read_text())
    rows = [
        ("pretraining: validation loss", f"{pretrained['val/loss']:.3f}"),
        ("  of the unigram table", f"{pretrained['val/unigram_loss']:.3f}"),
        ("  of 50 clusters of cells", f"{pretrained['val/clusters_loss']:.3f}"),
        ("  of the nearest training cells", f"{pretrained['val/neighbors_loss']:.3f}"),
        ("annotation of held-out lanes: macro-F1", f"{annotated['test/macro_f1']:.3f}"),
        *((f"  {name}", f"{found['macro_f1']:.3f}") for name, found in evaluation["annotation"].items()),
        ("seconds", f"{seconds:.0f}"),
        ("report", str(OUTPUT / "report.html")),
        ("checkpoint", str(OUTPUT / "annotate/checkpoints/best.ckpt")),
    ]
    width = max(len(name) for name, _ in rows)
    table = "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
    return (
        f"{table}\n\nNext, on your own cells:\n"
        "  scfm-prepare input='data/*.h5ad' output=stores/mine obs='[cell_type,donor]' group=donor\n"
        "  python train.py store=stores/mine model=tiny trainer.max_steps=1000 name=mine\n"
        "  python finetune.py init_from=outputs/mine/checkpoints/last.ckpt store=stores/mine head.label=cell_type"
    )


if __name__ == "__main__":
    main()
