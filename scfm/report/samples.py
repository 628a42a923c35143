"""The part of a fine-tune's report about samples: what is said of each, and which cells weigh."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from scfm import plot
from scfm.head.base import Written
from scfm.page import Section, paragraph, table
from scfm.report.figures import picture

TEXT = (
    "These samples were not learned from. With so few, a score of theirs says little: scfm-analyse analysis=phenotype "
    "leaves out every donor in turn, permutes labels and tests the attention."
)


def sample_sections(output: Path, written: Written, part: str) -> list[Section]:
    """A table and a picture of the samples, where the head writes a table of them.

    Args:
        output: folder of the pictures.
        written: by the head, of the judged cells.
        part: what these are called.
    """
    about = written.uns.get("samples")
    if about is None:
        return []
    frame = pd.DataFrame(about).set_index("sample")
    attention = np.asarray(written.obs["scfm_attention"], dtype=np.float64)
    figure = plot.attention_histogram(attention[np.isfinite(attention)], title=f"attention, {part} cells")
    drawn = picture(figure, "Attention of cells; 1 is the average cell of its sample.", output / "attention.png")
    return [Section("Samples", [table(frame, unranked=list(frame.columns)), drawn, paragraph(TEXT)])]
