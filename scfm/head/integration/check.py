"""Checks of the cells before integration."""

import logging

import numpy as np

from scfm.types import Spec

log = logging.getLogger(__name__)


def check_batches(spec: Spec, batch_key: str) -> tuple[str, ...]:
    """Names of the batches to integrate.

    Args:
        spec: categorical columns, and how many training cells each category has (empty in a restored head).
        batch_key: obs column of the experimental batches.

    Raises:
        ValueError: no such column, or a single batch.
    """
    names = spec.categories("head.batch_key", batch_key)
    counts = spec.class_counts.get(batch_key)
    present = names if counts is None else [name for name, count in zip(names, counts, strict=True) if count]
    if len(present) < 2:
        have = f"are all of {present[0]!r}" if present else "have none"
        raise ValueError(
            f"integration needs at least two batches, but by {batch_key!r} the training cells {have}: choose another "
            "head.batch_key, or there is nothing to integrate"
        )
    return names


def warn_confounded(
    batches: np.ndarray, conditions: np.ndarray, names: tuple[str, ...], condition_names: tuple[str, ...], key: str
) -> bool:
    """Warn, with the contingency table, where every batch has one condition: integration removes its effect.

    Args:
        batches: (n,) batch codes, -1 where missing.
        conditions: (n,) condition codes, -1 where missing.
        names: of the batches.
        condition_names: of the conditions.
        key: the condition's obs column.

    Returns:
        Whether batch and condition are confounded.
    """
    known = (batches >= 0) & (conditions >= 0)
    table = np.zeros((len(names), len(condition_names)), dtype=np.int64)
    np.add.at(table, (batches[known], conditions[known]), 1)
    table_rows, table_columns = np.flatnonzero(table.sum(axis=1)), np.flatnonzero(table.sum(axis=0))
    confounded = len(table_columns) > 1 and bool(((table[table_rows] > 0).sum(axis=1) == 1).all())
    if confounded:
        from scipy.stats import chi2_contingency

        seen = table[np.ix_(table_rows, table_columns)]
        lines = [
            f"  {names[row]}: "
            + ", ".join(f"{condition_names[column]} {table[row, column]}" for column in table_columns)
            for row in table_rows
        ]
        log.warning(
            "Every batch has a single %s, so removing batch effects removes its effect too (chi-squared p = %.2g); "
            "cells of each batch:\n%s",
            key,
            chi2_contingency(seen).pvalue,
            "\n".join(lines),
        )
    return confounded
