"""The proteins' part of a fine-tune's report."""

from __future__ import annotations

import logging
from pathlib import Path

from scfm.data.module import CellData
from scfm.evaluation.protein import HEAD, average_scores, compare_proteins
from scfm.head.multimodal.protein import Protein
from scfm.io import write_text
from scfm.page import Section, paragraph, table
from scfm.training.finalize import Finished

log = logging.getLogger(__name__)


def protein_sections(output: Path, done: Finished, data: CellData) -> list[Section]:
    """The head beside simple methods, on average and for each protein; nothing for another head.

    Args:
        output: folder of the run; ``proteins.csv`` is written there.
        done: the head as shipped.
        data: the store and its split.
    """
    head = done.module.task
    if not isinstance(head, Protein):
        return []
    scores = compare_proteins(head, data, done.judged, done.outputs)
    write_text(output / "proteins.csv", scores.round(4).to_csv(index=False))
    means = average_scores(scores)
    log.info("Proteins of %d %s cells:\n%s", len(done.judged), done.part, means.round(3).to_string())
    wanted = head.quantiles[-1] - head.quantiles[0]
    kinds = f"a type of {head.types}" if head.types else "one of ten groups of similar cells"
    text = (
        f"Means over {len(head.names)} proteins on {len(done.judged):,} {done.part} cells. r is Pearson's; within_r is "
        f"r after the mean of {kinds} was subtracted, because differences between types make all methods look good; "
        f"rmse is in standard deviations of the protein; coverage is the share of cells inside the interval, "
        f"{wanted:.0%} if it is right. The simple methods learn from the same cells. Predictions are in the units of "
        "the transform: never read absolute counts across runs."
    )
    own = scores[scores["method"] == HEAD].drop(columns="method").set_index("protein")
    return [
        Section(
            "Proteins",
            [
                table(means, smaller_is_better=["rmse"], unranked=["coverage"], own=[HEAD]),
                paragraph(text),
                table(own, smaller_is_better=["rmse"], unranked=list(own.columns)),
            ],
        )
    ]
