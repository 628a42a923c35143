"""The benchmark of the heads: what is measured is kept, what is missing is said, every experiment is there."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from scfm.cli import CONFIGS

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def heads():
    sys.path.insert(0, str(FOLDER))
    try:
        import differences
        import heads
        import sets
        from tasks import TASKS
    finally:
        sys.path.remove(str(FOLDER))
    return heads, sets, TASKS, differences


def test_every_head_has_an_experiment():
    groups = [path.relative_to(CONFIGS / "head").with_suffix("") for path in (CONFIGS / "head").rglob("*.yaml")]
    for head in groups:
        experiment = CONFIGS / "experiment" / f"{'_'.join(head.parts)}.yaml"
        assert experiment.is_file(), f"head={head} has no experiment"
        assert f"/head: {head.as_posix()}" in experiment.read_text()


def test_every_experiment_that_the_benchmark_names_is_there():
    text = "".join(path.read_text() for path in (FOLDER / "tasks").glob("*.py"))
    named = {path.stem for path in (CONFIGS / "experiment").glob("*.yaml") if f'"{path.stem}"' in text}
    assert {"annotation_classifier", "trajectory_ordinal", "trajectory_time"} <= named


def test_every_set_has_a_task(heads):
    assert set(heads[1].TASKS) - {"backbone"} == set(heads[2])


def test_the_backbone_is_pretrained_on_no_file_that_judges_alone(heads):
    judged = {name for task in heads[2] for one in heads[1].judging(task).values() for name in one.files}
    assert set(sys.modules["tasks.bench"].CORPUS) & judged <= {"pbmc3k"}


def test_sets_are_chosen_by_role_and_name(heads, tmp_path):
    choose = heads[0].chosen_sets
    assert {one.role for one in choose("annotation", [], judge=False)} == {"tuning"}
    assert [one.name for one in choose("annotation", ["zheng"], judge=True)] == ["zheng"]
    assert choose("trajectory", ["zheng"], judge=True) == []
    with pytest.raises(ValueError, match=r"--sets zheng: no set for tuning; choose from .*run with --judge"):
        choose("annotation", ["zheng"], judge=False)
    path = tmp_path / "my.yaml"
    path.write_text("lung: {files: lung.h5ad, label: kind}")
    assert [one.files for one in choose("annotation", [str(path)], judge=False)] == [("lung",)]
    assert choose("integration", [str(path)], judge=False) == []


def test_a_measured_row_is_kept_and_not_measured_again(heads, tmp_path):
    key = {"task": "t", "set": "s", "setting": "x", "method": "m", "seed": 0}
    rows = heads[0].Rows(tmp_path / "rows.json")
    rows.measure(key, lambda: {"macro_f1": 0.5})
    again = heads[0].Rows(tmp_path / "rows.json")
    again.measure(key, lambda: pytest.fail("measured twice"))
    again.measure({**key, "seed": 1}, lambda: {"macro_f1": 0.7})
    assert [row["macro_f1"] for row in json.loads((tmp_path / "rows.json").read_text())] == [0.5, 0.7]
    (table,) = heads[0].tables(again.rows)
    assert "| s | x | m | 2 | 0.600 ± 0.141 |" in table


def test_a_row_that_fails_leaves_the_earlier_ones(heads, tmp_path):
    rows = heads[0].Rows(tmp_path / "rows.json")
    rows.measure({"seed": 0}, lambda: {"a": 1.0})
    with pytest.raises(ZeroDivisionError):
        rows.measure({"seed": 1}, lambda: {"a": 1 / 0})
    assert len(heads[0].Rows(tmp_path / "rows.json").rows) == 1


def _rows(ours, rival, task="annotation"):
    methods = {"scfm": ("ours", ours), "LR": ("rival", rival), "kNN": ("rival", [0.1] * len(rival))}
    methods["majority"] = ("control", [0.9] * len(rival))
    return [
        {"task": task, "set": "s", "setting": "all", "method": name, "role": role, "seed": seed, "macro_f1": value,
         "seconds": 60.0 if role == "ours" else 2.0}
        for name, (role, values) in methods.items() for seed, value in enumerate(values)
    ]  # fmt: skip


def test_differences_are_paired_and_to_the_best_rival(heads):
    found = heads[3].compare(_rows([0.80, 0.70, 0.90], [0.78, 0.68, 0.88]))
    (line,) = found.itertuples()
    assert (line.ours, line.rival, line.outcome) == ("scfm", "LR", "above")
    assert line.difference == pytest.approx(0.02)
    assert line.seconds_ratio == pytest.approx(30)
    assert heads[3].compare(_rows([0.80, 0.70, 0.90], [0.68, 0.78, 0.88])).outcome.tolist() == ["level"]
    assert heads[3].compare(_rows([0.5, 0.41, 0.3], [0.78, 0.68, 0.58])).outcome.tolist() == ["below"]
    assert heads[3].compare(_rows([0.9], [0.1])).outcome.tolist() == ["one split"]


def test_the_interval_widens_by_the_overlap_of_training_cells(heads):
    values = [0.01, 0.03, 0.02, 0.04]
    low, high = heads[3].paired_interval(values, 0.0)
    assert (low, high) == pytest.approx(ttest_1samp(values, 0).confidence_interval())
    wide = heads[3].paired_interval(values, 0.25)
    assert wide[0] < low and wide[1] > high
    assert sum(wide) == pytest.approx(sum((low, high)))


def test_the_first_paragraph_says_where_ours_stands(heads):
    text = heads[0].report(_rows([0.80, 0.70, 0.90], [0.78, 0.68, 0.88]), [], Path("none"))
    assert "annotation (macro_f1): above s." in text
    assert "| annotation | s | all | macro_f1 | scfm | LR | +0.020 |" in text
    assert "| s | all | scfm | 3 | 0.800 ± 0.100 | 60 |" in text
    old = [{name: value for name, value in row.items() if name != "role"} for row in _rows([0.8], [0.7])]
    assert "| s | all | scfm |" in heads[0].report(old, [], Path("none"))


def test_few_labels_are_at_least_two_a_class_and_never_lost_in_the_test(heads):
    codes, test = np.repeat([0, 1, 2], [100, 20, 5]), np.arange(0, 125, 5)
    known = sys.modules["tasks.annotation"]._labeled(codes, test, 0.1, seed=0)
    assert known[test].all()
    rest = np.setdiff1d(np.arange(125), test)
    assert [int(known[rest][codes[rest] == code].sum()) for code in range(3)] == [8, 2, 2]
