"""Find the counts of a file, and check that they are counts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numba import njit

from scfm.cells.names import has_names
from scfm.cells.source import Matrix, Place, Source, did_you_mean

log = logging.getLogger(__name__)

#: Stored values that are checked before a matrix is taken for counts.
SAMPLE = 1 << 18

#: Values checked at once, so that they stay in the processor's cache.
STRIDE = 1 << 15

#: ``required``: integers. ``decimals_ok``: also decimals that are counts (ambient-corrected, or shared among genes by
#: EM), no logarithms. ``lognorm_ok``: any non-negative values.
Demand = Literal["required", "decimals_ok", "lognorm_ok"]

#: Logarithms of normalized counts stay below this; so do counts of very shallow cells.
LOGARITHM = 12.0

#: Cells whose totals tell logarithms from counts.
CELLS_FOR_TOTALS = 64


@dataclass(frozen=True)
class Candidate:
    """A place that may hold the counts, with what its values are.

    Attributes:
        place: the place.
        matrix: its matrix, opened.
        kind: the kind of its values.
        words: the kind in words, with an example.
    """

    place: Place
    matrix: Matrix
    kind: Literal["counts", "fractions", "invalid", "empty"]
    words: str


def find_counts(source: Source, layer: str | None, demand: Demand) -> Candidate:
    """Look for counts in a stated order and take the first place that holds them, unless a later one has more genes.

    A named ``layer`` is taken or refused: there is no second choice. Otherwise ``layers['counts']``, ``raw.X`` and
    ``X`` are looked at in this order; a place that holds something else (log-normalized or scaled values) is passed
    over with a warning, and so is one that holds the counts of fewer genes than a later one (variable genes beside
    all of them in ``raw``). With "decimals_ok" and "lognorm_ok", integers are still preferred; where there are none,
    the first place with non-negative values is taken, for "decimals_ok" the first that holds no logarithms.

    Args:
        source: the open file.
        layer: a layer's name.
        demand: which values are accepted.

    Raises:
        ValueError: no such layer, or no usable values; lists the places and what they hold.
    """
    if layer is not None and layer not in source.layers:
        raise ValueError(f"has no layer {layer!r}; {did_you_mean(layer, list(source.layers))}")
    places = [source.layers[layer]] if layer is not None else list(source.default)
    seen: list[Candidate] = []
    for place in places:
        seen.append(judge(source, place))
        if seen[-1].kind == "counts":
            break
    wanted = ["counts"] if demand == "required" else ["counts", "fractions"]
    for kind in wanted:
        for candidate in seen:
            if candidate.kind != kind:
                continue
            if kind == "fractions" and demand == "decimals_ok" and _are_logarithms(candidate):
                continue
            _warn_passed_over(seen, candidate)
            return _prefer_more_genes(source, candidate, places[len(seen) :])
    if seen and all(candidate.kind == "empty" for candidate in seen):
        return replace(seen[0], kind="counts")
    raise ValueError(_refusal(seen, source, layer, demand))


def _prefer_more_genes(source: Source, taken: Candidate, later: Sequence[Place]) -> Candidate:
    """A later place with counts of more genes, or of as many whose names are known, else the place chosen so far."""
    for place in later:
        var = place.var()
        genes, n_taken = len(var), taken.matrix.shape[1]
        is_named = genes == n_taken and has_names(var) and not has_names(taken.place.var())
        if genes <= n_taken and not is_named:
            continue
        other = judge(source, place)
        if other.kind != "counts":
            log.warning(
                "%s has the counts of %d genes%s; %s has %d genes, but holds %s",
                taken.place.label, n_taken, " without names" if is_named else "", place.label, genes, other.words,
            )  # fmt: skip
            continue
        log.warning(
            "%s holds the counts of %d genes%s, %s those of %d: %s is used instead",
            taken.place.label, n_taken, " without names" if is_named else "", place.label, genes, place.label,
        )  # fmt: skip
        taken.matrix.close()
        taken = other
    return taken


def _warn_passed_over(seen: list[Candidate], taken: Candidate) -> None:
    for other in seen:
        if other is not taken:
            log.warning("%s holds %s: %s is used instead", other.place.label, other.words, taken.place.label)


def _are_logarithms(candidate: Candidate) -> bool:
    """Whether values are log1p of counts normalized to one total: small, and of equal total after expm1."""
    n = min(CELLS_FOR_TOTALS, candidate.matrix.shape[0])
    rows = next(iter(candidate.matrix.blocks(0, n, CELLS_FOR_TOTALS)), None)
    if rows is None or not rows.nnz or rows.data.max() >= LOGARITHM:
        return False
    raised = rows.astype(np.float64)
    raised.data = np.expm1(raised.data)
    totals = np.asarray(raised.sum(axis=1)).ravel()
    totals = totals[totals > 0]
    if len(totals) > 1 and totals.std() < 0.01 * totals.mean():
        return True
    log.warning(
        "%s holds decimals below %g, taken as counts (counts=decimals_ok); make sure that they are no logarithms",
        candidate.place.label, LOGARITHM,
    )  # fmt: skip
    return False


def _refusal(seen: list[Candidate], source: Source, layer: str | None, demand: Demand) -> str:
    where = "; ".join(f"{candidate.place.label} holds {candidate.words}" for candidate in seen)
    if not seen:
        where = "there is no layers['counts'], no raw.X and no X"
    others = [name for name in source.layers if name != "counts"]
    also = f" (layers not looked at: {', '.join(map(repr, others[:12]))})" if others and layer is None else ""
    what = {"required": "raw counts", "decimals_ok": "counts", "lognorm_ok": "usable values"}[demand]
    text = f"no {what} found. Looked in this order: {where}{also}. "
    decimals = any(candidate.kind == "fractions" for candidate in seen)
    if demand == "lognorm_ok":
        return text + "Values must be non-negative, without NaN. Name a layer that has such values (layer=...)"
    if demand == "decimals_ok":
        why = " (after expm1, all cells have one total)" if decimals else ""
        return f"{text}Counts are non-negative and no logarithms{why}. Name the layer that has them (layer=...)"
    text += "Counts are non-negative integers. Name the layer that has them (layer=...)"
    if decimals:
        text += (
            "; where the decimals are counts, ambient-corrected or shared among genes, take them with "
            "counts=decimals_ok; where they are logarithms, a tokenizer that only needs the order of the genes takes "
            "them with counts=lognorm_ok"
        )
    return text


def judge(source: Source, place: Place) -> Candidate:
    """Open a place and judge it by values sampled over the whole matrix."""
    matrix = place.matrix()
    values, rows = matrix.sample(SAMPLE)
    bad = first_bad(values, whole=True)
    if bad < 0 and not values.any():
        return Candidate(place, matrix, "empty", "no value but zero")
    if bad < 0:
        return Candidate(place, matrix, "counts", "counts")
    worse = first_bad(values, whole=False)
    shown = worse if worse >= 0 else bad
    cell = source.obs(int(rows[shown]), int(rows[shown]) + 1, []).index[0]
    example = f"({values[shown]:.4g} in cell {cell!r})"
    if worse < 0:
        return Candidate(place, matrix, "fractions", f"fractions, as after normalizing {example}")
    return Candidate(place, matrix, "invalid", f"{describe(values[worse])} {example}")


def describe(value: float) -> str:
    """What is wrong with a value, in words."""
    if np.isnan(value):
        return "NaN (missing values)"
    if np.isinf(value):
        return "infinite values"
    return "negative values" if value < 0 else "fractions"


def first_bad(values: np.ndarray, whole: bool) -> int:
    """Position of the first value that is negative, NaN, infinite or (``whole``) no integer; -1 if there is none."""
    if values.dtype.kind in "ub" or not len(values):
        return -1
    if values.dtype.kind == "i":
        return int(np.argmax(values < 0)) if values.min() < 0 else -1
    for start in range(0, len(values), STRIDE):
        part = values[start : start + STRIDE]
        if part.dtype not in (np.float32, np.float64):
            part = part.astype(np.float64)  # half precision, or bytes in the other order
        if all_valid(part, whole):
            continue
        good = (part >= 0) & np.isfinite(part)
        if whole:
            good &= np.rint(part) == part
        if not good.all():
            return start + int(np.argmin(good))
    return -1


@njit(nogil=True, cache=True)
def all_valid(values: np.ndarray, whole: bool) -> bool:
    """Whether all values are non-negative, and integers if ``whole``; false also for very large ones.

    One pass without a branch, which is vectorized. NaN fails every comparison.
    """
    wrong = 0
    for i in range(values.size):
        value = values[i]
        wrong += not (value >= 0) or not (value < 1 << 24)
    if wrong:
        return False
    if whole:
        for i in range(values.size):
            wrong += np.float64(np.int32(values[i])) != np.float64(values[i])
    return wrong == 0
