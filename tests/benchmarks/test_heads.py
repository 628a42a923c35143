"""The benchmark of the heads: what is measured is kept, what is missing is said, every experiment is there."""

import json
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from scfm.cli import CONFIGS

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def heads():
    sys.path.insert(0, str(FOLDER))
    try:
        import heads
        from tasks import TASKS, bench
    finally:
        sys.path.remove(str(FOLDER))
    return heads, bench, TASKS


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
    assert {one.task for one in heads[1].SETS.values()} == set(heads[2])


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


def test_a_missing_file_is_named(heads, tmp_path):
    tasks = heads[1]
    with pytest.raises(FileNotFoundError, match=r"zheng_sorted_pbmc_3500.h5ad does not exist; say with --data"):
        tasks.Bench(tmp_path, tmp_path, None).cells(tasks.SETS["zheng"])


def test_several_files_are_batches_on_their_common_genes(heads, tmp_path):
    tasks = heads[1]
    for name, genes in (("a", ["x", "y", "z"]), ("b", ["z", "y", "w"])):
        cells = ad.AnnData(np.eye(3, dtype=np.float32))
        cells.var_names, cells.obs["kind"] = genes, name
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
    whole = tasks.Bench(tmp_path, tmp_path, None).cells(tasks.Set("integration", ("a", "b"), "kind", "batch"))
    assert set(whole.var_names) == {"y", "z"}
    assert whole.obs["batch"].tolist() == ["a"] * 3 + ["b"] * 3


def test_few_labels_are_at_least_two_a_class_and_never_lost_in_the_test(heads):
    codes, test = np.repeat([0, 1, 2], [100, 20, 5]), np.arange(0, 125, 5)
    known = sys.modules["tasks.annotation"]._labeled(codes, test, 0.1, seed=0)
    assert known[test].all()
    rest = np.setdiff1d(np.arange(125), test)
    assert [int(known[rest][codes[rest] == code].sum()) for code in range(3)] == [8, 2, 2]
