"""Which keys ``scfm-prepare`` should get for a file, and why: what a dry run says beside its report."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scfm.cells.file import open_cells

#: Cells whose genes are counted.
SAMPLE = 512
#: Below so many genes a cell is shallow: most of them are counted once, and their ranks are ties.
SHALLOW = 1000
#: Columns that look like labels and like groups, the likeliest first.
_LABELS = ("cell_?type", "cell_?ontology", "annotation", "cell_?label", "celltype|cell type", "label", "cluster")
_OTHERS = "condition|disease|treat|stim|batch|tissue|sex|time|stage|assay|method"
_GROUPS = ("donor", "patient", "individual", "subject", "mouse", "sample", "lane", "library", "batch")


@dataclass(frozen=True)
class Advice:
    """One choice.

    Attributes:
        keys: ``key=value`` words that make it; empty where nothing has to be said.
        reason: a sentence.
    """

    keys: tuple[str, ...]
    reason: str


def advise(path: str | Path, *, max_length: int, tokenizer: str, **reading: Any) -> list[Advice]:
    """Look at one file.

    Args:
        path: the file.
        max_length: tokens of a cell that the tokenizer keeps.
        tokenizer: its name.
        **reading: arguments of :func:`scfm.cells.file.open_cells`.

    Returns:
        Choices of counts, gene names, tokenizer, counts beside tokens, columns.
    """
    with open_cells(path, on_duplicate_cells="ignore", **reading) as cells:
        block = next(cells.blocks(0, min(SAMPLE, cells.n_cells), size=SAMPLE, columns=[]))
        detected = int(np.median(np.diff(block.counts.indptr)))
        ones = float((block.counts.data == 1).mean()) if block.counts.nnz else 0.0
        obs = cells.obs_rows(0, cells.n_cells, cells.obs_columns) if cells.obs_columns else pd.DataFrame()
        sources = Advice((), f"counts are read from {cells.counts_from}, gene names from {cells.genes_from}")
    return [sources, _tokenizer(tokenizer, max_length, detected), *_counts(detected, ones), *_columns(obs)]


def _tokenizer(name: str, max_length: int, detected: int) -> Advice:
    kept = min(1.0, max_length / max(detected, 1))
    if kept == 1:
        reason = f"its {max_length:,} tokens hold all {detected:,} genes of a median cell"
    else:
        longer = " (geneformer_v2 keeps 4,096)" if max_length < 4096 else ""
        reason = f"its {max_length:,} tokens hold the top {kept:.0%} of {detected:,} genes of a median cell{longer}"
    return Advice((f"tokenizer={name}",), reason)


def _counts(detected: int, ones: float) -> list[Advice]:
    if detected >= SHALLOW:
        return []
    reason = (
        f"the cells are shallow ({detected:,} genes in a median cell, {ones:.0%} of their values are 1): most ranks "
        "are ties, and a head can read counts instead (head.counts=true)"
    )
    return [Advice(("keep_counts=true",), reason)]


def _columns(obs: pd.DataFrame) -> list[Advice]:
    names = [str(name) for name in obs.columns if 2 <= obs[name].nunique() <= max(2, len(obs) // 2)]
    label, group = _likeliest(names, _LABELS), _likeliest(names, _GROUPS)
    others = [name for name in names if re.search(_OTHERS, name, re.IGNORECASE)][:4]
    carried = list(dict.fromkeys(name for name in (label, group, *others) if name is not None))
    advice = []
    if carried:
        reason = "columns of obs that a head can learn from or that splits need"
        advice.append(Advice((f"obs=[{','.join(carried)}]",), reason))
    if group is None:
        shown = f"of {', '.join(names[:8])} none" if names else "obs has none that"
        return [*advice, Advice((), f"no group: {shown} looks like a donor, so that cells will be split one by one")]
    reason = f"{obs[group].nunique()} values; whole ones stay on one side of a split"
    return [*advice, Advice((f"group={group}",), reason)]


def _likeliest(names: Sequence[str], patterns: Sequence[str]) -> str | None:
    for pattern in patterns:
        found = [name for name in names if re.search(pattern, name, re.IGNORECASE)]
        if found:
            return min(found, key=len)
    return None


def advice_text(choices: Sequence[Advice]) -> str:
    """Choices with their reasons, for a screen of 80 columns."""
    lines = ["What this file asks for, and why:"]
    for choice in choices:
        indent = " " * 4 if choice.keys else " " * 2
        lines += [f"  {key}" for key in choice.keys]
        lines += textwrap.wrap(choice.reason, 80, initial_indent=indent, subsequent_indent=indent)
    return "\n".join(lines)
