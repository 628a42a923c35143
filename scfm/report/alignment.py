"""The part of a fine-tune's report about one space for two modalities."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from scfm.data.module import CellData
from scfm.evaluation.alignment import HEAD, compare_alignment
from scfm.head.multimodal.clip import Clip
from scfm.inference.predict import predictions
from scfm.io import write_text
from scfm.page import Section, paragraph, table
from scfm.training.finalize import Finished

log = logging.getLogger(__name__)


def alignment_sections(output: Path, done: Finished, data: CellData) -> list[Section]:
    """The head beside canonical correlation and shuffled pairs; nothing for another head.

    Args:
        output: folder of the run; ``alignment.csv`` is written there.
        done: the head as shipped.
        data: the store and its split.
    """
    head = done.module.task
    if not isinstance(head, Clip):
        return []
    trained = predictions(done.module, data, data.split.train)
    shared = {name: np.concatenate([trained[name], done.outputs[name]]) for name in ("shared", "shared_other")}
    scores = compare_alignment(head, data, done.judged, shared)
    write_text(output / "alignment.csv", scores.round(4).to_csv(index_label="method"))
    log.info("%d %s cells, genes and %s:\n%s", len(done.judged), done.part, head.other, scores.round(3).to_string())
    text = (
        f"{len(done.judged):,} {done.part} cells, each by its genes and by its {head.other}. FOSCTTM is the share of "
        "cells that lie closer than the true match (0 best, 0.5 chance); recall the share of cells whose match is "
        "among the 1 or 10 nearest; carried over: accuracy of labels that go from training cells, by genes, to these "
        f"cells, by {head.other}, by the 15 nearest. PCA + CCA: 30 components of each, 10 canonical directions."
    )
    return [
        Section(
            f"Genes and {head.other} in one space",
            [table(scores, smaller_is_better=["foscttm"], own=[HEAD]), paragraph(text)],
        )
    ]
