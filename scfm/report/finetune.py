"""``report.html`` of a fine-tune: what the head can do, beside backbones that were not fine-tuned."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scfm import plot
from scfm.checkpoint import Checkpoint
from scfm.data.module import CellData
from scfm.evaluation.annotation import HEAD, head_calls
from scfm.evaluation.methods.method import FROZEN
from scfm.evaluation.methods.store_probes import (
    StoreFeatures,
    add_state,
    component_sentence,
    read_features,
    score_calls,
    score_pseudotime,
)
from scfm.evaluation.origin.origin import describe_corpus
from scfm.head.base import Written
from scfm.head.trajectory.base import PSEUDOTIME
from scfm.inference.write import store_columns
from scfm.metrics.integration import integration_scores
from scfm.metrics.stages import order_stages, stage_ranks
from scfm.metrics.structure import neighbor_overlap
from scfm.metrics.umap import umap
from scfm.page import (
    Section,
    image,
    paragraph,
    settings,
    side_by_side,
    table,
    versions,
    warning,
    write_page,
)
from scfm.report.alignment import alignment_sections
from scfm.report.annotation import call_figures
from scfm.report.figures import picture
from scfm.report.gains import ADDS, NOT_COMPARED, integration_gain, naming_gain, order_gain
from scfm.report.gains import section as gain_section
from scfm.report.protein import protein_sections
from scfm.report.samples import sample_sections
from scfm.store.token_store import TokenStore
from scfm.training.finalize import Finished

log = logging.getLogger(__name__)

#: Cells drawn on a map.
DRAWN = 3000
#: More stages than this are numbers, not categories to draw.
MAX_STAGES = 25
UNNAMED = (
    "In the line of the fine-tuned head a cell that it calls unknown counts as wrong; its best guess is the likeliest "
    "class in any case, as in the metrics below."
)
UNRANKED = ["coverage", "n_cells", "seconds", "megabytes"]


def report(output: Path, done: Finished, data: CellData, before: Checkpoint) -> Path | None:
    """Write the report and its pictures.

    Args:
        output: folder of the run.
        done: the head as shipped.
        data: the store and its split.
        before: the pretrained checkpoint.

    Returns:
        The page; None where no cell is held out to judge by.
    """
    if len(done.judged) == 0:
        log.warning("No cell is held out (data.val, data.test): there is nothing to report.")
        return None
    columns = store_columns(done.module.task, data.store, done.judged)
    all_written = done.module.task.write({**done.outputs, **columns}) if done.outputs else Written()
    written = all_written.obs
    probes = bool(written)
    features = read_features(before, data, done.judged, done.module.device, probes=probes)
    if probes:
        features = add_state(features, done.module, data, done.outputs)
    curves = output / "curves.png"
    naming, sentences = _annotation(output, done, data, features, written)
    judged = [
        *naming,
        *_trajectory(output, done, data, features, written),
        *_mixing_sections(done, data, features, before),
    ]
    if not any(section.title.startswith(ADDS) for section in judged):
        judged.append(Section(ADDS, [paragraph(NOT_COMPARED)]))
    maps = picture(_maps(done, data, features, written), _drawn(done), output / "maps.png")
    sections = [
        Section("", [paragraph(text) for text in [*_summary(done), *sentences]], "summary"),
        Section("", [warning(text) for text in _warnings(done, data, before)]),
        *judged,
        *protein_sections(output, done, data),
        *sample_sections(output, all_written, done.part),
        *alignment_sections(output, done, data),
        Section("Maps", [maps]),
        Section("Training", [image(curves.read_bytes(), "Logged over the run.")] if curves.is_file() else []),
        Section("Metrics", [settings({name: f"{value:.4f}" for name, value in done.metrics.items()})]),
        Section("Settings", [settings(done.config)]),
        Section("Versions", [settings(versions())]),
    ]
    path = write_page(output / "report.html", f"Fine-tune {done.config['name']}", sections)
    return path


def _drawn(done: Finished) -> str:
    return f"{len(done.judged):,} {done.part} cells, at most {DRAWN:,} of them drawn (UMAP, 15 neighbors)."


def _summary(done: Finished) -> list[str]:
    head = str(done.config["head"]["_target_"]).removeprefix("scfm.head.")
    text = f"{head}, judged on {len(done.judged):,} {done.part} cells that training did not see."
    metrics, part = done.metrics, "test" if done.part == "test" else "val"
    if f"{part}/coverage" in metrics and "calibration/temperature" in metrics:
        text += (
            f" Calibration: {metrics[f'{part}/coverage']:.1%} of the cells keep a name, of which "
            f"{metrics[f'{part}/accuracy_of_named']:.1%} are right; the calibration error went from "
            f"{metrics[f'{part}/ece_uncalibrated']:.3f} to {metrics[f'{part}/ece']:.3f}."
        )
        for name in (key for key in metrics if key.startswith(f"{part}/coverage/")):
            column = name.removeprefix(f"{part}/coverage/")
            right = metrics[f"{part}/accuracy_of_named/{column}"]
            text += f" Of {column}, {metrics[name]:.1%} keep a name, of which {right:.1%} are right."
    return [text]


def _warnings(done: Finished, data: CellData, before: Checkpoint) -> list[str]:
    warnings = []
    if "at random" in data.split.by:
        warnings.append(f"Split by {data.split.by}.")
    for path in (path for path in before.stores if path.is_dir()):
        share = float(TokenStore.open(path).overlap(data.store.hashes[done.judged]).mean())
        if share > 0:
            warnings.append(describe_corpus(share, done.part, str(path)))
    return warnings


def _annotation(
    output: Path, done: Finished, data: CellData, features: StoreFeatures, written: Mapping[str, np.ndarray]
) -> tuple[list[Section], list[str]]:
    """A section, and a sentence about the gene components, for each label that the head names with a confidence."""
    sections: list[Section] = []
    sentences: list[str] = []
    scored = np.flatnonzero(features.scored)
    groups = None if data.store.group is None else data.store.obs(data.store.group)[features.rows]
    for label in done.module.task.labels:
        column = f"scfm_{label}"
        codes = data.store.obs(label)[features.rows]
        known = codes[scored] >= 0
        if f"{column}_confidence" not in written or not known.any():
            continue
        classes = done.module.spec.classes[label]
        called, guessed, confidence = (written[f"{column}{end}"][known] for end in ("", "_guess", "_confidence"))
        heads = head_calls(called, guessed, confidence, classes, scored[known])
        probes = score_calls(features, codes, len(classes), heads)
        sentences += component_sentence(probes, codes, groups, len(classes))
        gain = naming_gain(done, features, codes, groups, len(classes))
        sentences += [] if gain is None else [gain.sentence]
        figures = call_figures(codes, {HEAD: heads[HEAD]}, classes, title=f"{label}, {done.part} cells")
        drawn = [picture(figure, text, output / f"{name}_{label}.png") for name, (figure, text) in figures.items()]
        scores = table(probes.scores, smaller_is_better=["ece"], unranked=UNRANKED, own=list(heads))
        parts = [scores, paragraph(UNNAMED), drawn[0], side_by_side(*drawn[1:])]
        sections.append(Section(f"Naming {label}", parts))
        if gain is not None:
            sections.append(gain_section(gain, label))
    return sections, sentences


def _trajectory(
    output: Path, done: Finished, data: CellData, features: StoreFeatures, written: Mapping[str, np.ndarray]
) -> list[Section]:
    """Pseudotime against the label that it was learned from, where it has an order."""
    label = getattr(done.module.task, "label", None)
    if PSEUDOTIME not in written or label is None:
        return []
    times, order = known_times(done.module.task, data, label, features.rows)
    if times is None:
        return []
    pseudotime = np.full(len(features.rows), np.nan)
    pseudotime[features.scored] = written[PSEUDOTIME]
    parts = [table(score_pseudotime(features, times, pseudotime), smaller_is_better=["unreached"], unranked=UNRANKED)]
    if order:
        scored = features.scored
        names = np.array([*order, ""], dtype=object)[np.where(np.isfinite(times), times, -1).astype(int)]
        figure = plot.stage_violins(pseudotime[scored], names[scored], list(order), title=f"pseudotime by {label}")
        parts.append(picture(figure, f"Pseudotime of the {done.part} cells in each stage.", output / "stages.png"))
    groups = None if data.store.group is None else data.store.obs(data.store.group)[features.rows]
    gain = order_gain(done, features, times, groups)
    return [Section("Ordering cells", parts), *([] if gain is None else [gain_section(gain, f"the order by {label}")])]


def known_times(task: Any, data: CellData, label: str, rows: np.ndarray) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """(n,) times or ranks of stages by the head's own reading of its label, NaN where missing; names of few stages."""
    values, names = data.store.obs(label)[rows], data.store.categories(label)
    if names is None:
        return values.astype(np.float64), ()
    order = tuple(getattr(task, "stages", ()))
    if not order:
        try:
            order = order_stages(names)
        except ValueError:
            return None, ()
        if len(order) > MAX_STAGES:
            return np.array([*map(float, names), np.nan])[values], ()
    return stage_ranks(np.array([*names, ""], dtype=object)[values], order), order


def _mixing_sections(done: Finished, data: CellData, features: StoreFeatures, origin: Checkpoint) -> list[Section]:
    """Batch mixing before and after, and what the backbone adds to it, for a head that integrates."""
    key = getattr(done.module.task, "batch_key", None)
    after = done.outputs.get("integrated")
    if key is None or after is None:
        return []
    scored = features.scored
    codes = data.store.obs(key)[features.rows][scored]
    known = codes >= 0
    before, batch = features.features[FROZEN][scored][known], codes[known]
    gain = integration_gain(done, data, origin)
    more = [] if gain is None else [gain_section(gain, "integration")]
    if len(np.unique(batch)) < 2:
        return [Section("Mixing batches", [paragraph(f"The {done.part} cells are all of one {key}.")]), *more]
    rows = {}
    for name, values in ((FROZEN, before), ("integrated", after[known])):
        rows[name] = integration_scores(values, None, batch, before)
        rows[name]["kept_neighbors"] = neighbor_overlap(before, values, batch)
    text = (
        "iLISI: how evenly neighborhoods hold the batches; pcr: share of the batch's variance that is gone; kept "
        "neighbors: of the frozen backbone's, inside batches. scfm-evaluate compares with Harmony, ComBat and scVI."
    )
    scores = pd.DataFrame.from_dict(rows, orient="index")
    return [
        Section(
            "Mixing batches",
            [
                table(scores, unranked=["kept_neighbors"], own=["integrated"]),
                paragraph(text),
            ],
        ),
        *more,
    ]


def _maps(done: Finished, data: CellData, features: StoreFeatures, written: Mapping[str, np.ndarray]) -> Figure:
    n = len(done.judged)
    shown = np.sort(np.random.default_rng(0).permutation(n)[:DRAWN])
    own = done.outputs.get("state", done.outputs["embedding"])
    spaces = {FROZEN: features.features[FROZEN][features.scored], "fine-tuned": own}
    if "integrated" in done.outputs:
        spaces["integrated"] = done.outputs["integrated"]
    places = {name: umap(values[shown]) for name, values in spaces.items()}
    if "map" in done.outputs:
        places["map of the head"] = done.outputs["map"][shown]
    colors: dict[str, np.ndarray] = {}
    for label in done.module.task.labels:
        values, names = data.store.obs(label)[done.judged], data.store.categories(label)
        colors[label] = values if names is None else np.array([*names, "(missing)"], dtype=object)[values]
    colors |= {
        name: np.asarray(values) for name, values in written.items() if not name.endswith(("_confidence", "_guess"))
    }
    return plot.maps(
        places, {name: values[shown] for name, values in (colors or {"cells": np.full(n, "cell")}).items()}
    )
