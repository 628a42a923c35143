"""Ours against the best rival, paired over splits: the difference, its interval, and what follows from it."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

#: The metrics that decide, of tasks where that is not the first column alone.
DECIDE = {"integration": ("total", "bio")}
#: Cells that are tested over cells that are learned from, where a seed is a split; 0 where all cells are scored.
TEST_SHARE = {
    "annotation": 0.25,
    "rejection": 0.25,
    "trajectory": 0.25,
    "visualization": 0.25,
    "protein": 0.25,
    "alignment": 0.25,
}
COLUMNS = ("task", "set", "setting", "metric", "ours", "rival", "difference", "low", "high", "outcome", "seconds_ratio")


def paired_interval(differences: Sequence[float], test_share: float) -> tuple[float, float]:
    """95 % interval of the mean of paired differences over repeated random splits, whose training cells overlap.

    mean ± t · √((1/k + n_test/n_train) · s²), the corrected resampled t-test (Nadeau & Bengio 2003).

    Args:
        differences: (k,) one of each split.
        test_share: n_test/n_train; 0 for repeats that do not split cells.

    Returns:
        (low, high); NaN with fewer than two splits.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n < 2:
        return float("nan"), float("nan")
    reach = student.ppf(0.975, n - 1) * np.sqrt((1 / n + test_share) * values.var(ddof=1))
    return float(values.mean() - reach), float(values.mean() + reach)


def compare(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A line for each of our methods, set, setting and deciding metric: beside the rival of the best mean.

    Rows without a role (of an earlier version) take no part, nor do ablations and controls.
    """
    frame, lines = pd.DataFrame(rows), []
    if "role" not in frame:
        return pd.DataFrame(columns=COLUMNS)
    for (task, name, setting), own in frame.groupby(["task", "set", "setting"], sort=False):
        for metric in _deciding(task, own):
            wide = own.pivot_table(index="seed", columns="method", values=metric)
            roles = own.drop_duplicates("method").set_index("method")["role"]
            ours, rivals = ([m for m in wide if roles[m] == role] for role in ("ours", "rival"))
            if not rivals:
                continue
            seconds = own.groupby("method")["seconds"].mean() if "seconds" in own else None
            best = wide[rivals].mean().idxmax()
            for method in ours:
                paired = (wide[method] - wide[best]).dropna()
                low, high = paired_interval(paired, TEST_SHARE.get(task, 0.0))
                ratio = np.nan if seconds is None else seconds[method] / max(seconds[best], 1e-3)
                line = (task, name, setting, metric, method, best, paired.mean(), low, high, outcome(low, high), ratio)
                lines.append(line)
    return pd.DataFrame(lines, columns=COLUMNS)


def outcome(low: float, high: float) -> str:
    """What an interval of a difference says: above, below or level; one split says nothing."""
    if np.isnan(low):
        return "one split"
    return "above" if low > 0 else "below" if high < 0 else "level"


def describe(table: pd.DataFrame) -> str:
    """The first paragraph: for each task and metric the best of ours in each set and setting, and where it stands."""
    sentences = []
    for (task, metric), own in table.groupby(["task", "metric"], sort=False):
        best = own.loc[own.groupby(["set", "setting"], sort=False)["difference"].idxmax()]
        parts = [
            f"{word} {', '.join(f'{row.set}' + _setting(own, row) for row in group.itertuples())}"
            for word, group in best.groupby("outcome", sort=True)
        ]
        sentences.append(f"{task} ({metric}): {'; '.join(parts)}.")
    return "The best of ours against the best rival, by the interval of the difference. " + " ".join(sentences)


def format_table(table: pd.DataFrame) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| " + " | ".join(COLUMNS) + " |"
    yield "|---" * len(COLUMNS) + "|"
    for row in table.itertuples(index=False):
        cells = [value if isinstance(value, str) else "" if np.isnan(value) else f"{value:+.3f}" for value in row[:-1]]
        yield "| " + " | ".join([*cells, "" if np.isnan(row[-1]) else f"{row[-1]:.0f}"]) + " |"


def _setting(own: pd.DataFrame, row: Any) -> str:
    return f" ({row.setting})" if own.loc[own["set"] == row.set, "setting"].nunique() > 1 else ""


def _deciding(task: str, own: pd.DataFrame) -> tuple[str, ...]:
    known = {"task", "set", "setting", "method", "role", "seed", "seconds", "GiB"}
    measured = [name for name in own if name not in known and own[name].notna().any()]
    return DECIDE.get(task, tuple(measured[:1]))
