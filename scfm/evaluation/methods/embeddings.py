"""The embeddings that are compared: those of the file, those that backbones make, the baselines and the controls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from scfm.evaluation.cells import Cells
from scfm.evaluation.methods.baselines import BASELINES, embed, keys
from scfm.evaluation.methods.components import gene_components, state_key
from scfm.evaluation.methods.cost import measure
from scfm.evaluation.methods.expression import Expression
from scfm.evaluation.methods.method import COMPONENTS, Method, Role
from scfm.evaluation.options import Options

log = logging.getLogger(__name__)

#: counts (B, G) -> (B, D) embedding
Encoder = Callable[[csr_matrix], np.ndarray]


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of the same cells.

    Attributes:
        methods: what they are; the one in question first.
        values: (B, D) by name.
        costs: seconds and megabytes by name; no row where nothing was computed.
    """

    methods: tuple[Method, ...]
    values: dict[str, np.ndarray]
    costs: pd.DataFrame

    def __or__(self, other: Embeddings) -> Embeddings:
        costs = [table for table in (self.costs, other.costs) if len(table)]
        return Embeddings(
            (*self.methods, *other.methods), self.values | other.values, pd.concat(costs) if costs else self.costs
        )


def file_embeddings(cells: Cells, embedding: str, encoders: Mapping[str, Encoder]) -> Embeddings:
    """The embeddings of the file, and those of backbones that were not fine-tuned.

    Args:
        cells: with their embeddings.
        embedding: the key of the one in question; with it goes what its head reads.
        encoders: embed counts, by name.
    """

    def role(key: str) -> Role:
        if key == state_key(embedding):
            return "ours"
        return "ablation" if key in cells.written else "rival"

    methods = [Method(embedding, embedding, "", "ours")]
    methods += [Method(key, key, "", role(key)) for key in cells.others]
    methods += [Method(name, name, "", "ablation") for name in encoders]
    made, costs = measure({name: partial(_encoded, encode, cells.expression) for name, encode in encoders.items()})
    return Embeddings(tuple(methods), {embedding: cells.embedding, **cells.others, **made}, costs)


def component_embeddings(cells: Cells, embedding: str) -> Embeddings:
    """The gene components inside what the head reads, as an embedding of their own; none where there are none."""
    values = gene_components(cells.embedding, cells.others.get(state_key(embedding)))
    methods = () if values is None else (Method(COMPONENTS, COMPONENTS, "", "ablation"),)
    return Embeddings(methods, {} if values is None else {COMPONENTS: values}, pd.DataFrame())


def baseline_embeddings(cells: Cells, options: Options) -> tuple[Embeddings, list[str]]:
    """PCA, the chosen baselines and the controls, without those that lack a column or a package; and notes on these."""
    chosen = dict.fromkeys(["pca", *options.baselines, *(keys("control") if options.controls else ())])
    columns = {"batch": cells.batch, "label": cells.labels}
    makers: dict[str, Callable[[], np.ndarray]] = {}
    methods, notes = [], list[str]()
    for key in chosen:
        baseline = BASELINES[key]
        if not baseline.installed:
            notes.append(f"{baseline.title} is left out: it needs pip install {baseline.install}.")
            log.warning("%s", notes[-1])
            continue
        lacking = [f"{column}=COLUMN" for column in baseline.needs if columns[column] is None]
        if lacking:
            log.info("%s is left out: it needs %s", baseline.title, " and ".join(lacking))
            continue
        methods.append(baseline.method)
        makers[baseline.title] = partial(embed, key, cells.expression, cells.batch, cells.labels, options.seed)
    values, costs = measure(makers)
    return Embeddings(tuple(methods), values, costs), notes


def check_baselines(names: tuple[str, ...] | list[str]) -> None:
    """Refuse names of baselines that do not exist.

    Raises:
        ValueError: an unknown name.
    """
    known = keys("rival")
    wrong = [name for name in names if name not in known]
    if wrong:
        raise ValueError(f"baselines={list(names)}: {', '.join(wrong)} is unknown; choose from {', '.join(known)}")


def _encoded(encode: Encoder, expression: Expression) -> np.ndarray:
    return np.nan_to_num(np.asarray(encode(expression.counts), dtype=np.float64))
