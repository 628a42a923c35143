"""Sets for tuning and for judging are apart, looks are counted, and a user's own files make sets."""

import json
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
DATA = Path(__file__).parents[3] / "shared/data"


@pytest.fixture(scope="module")
def sets():
    sys.path.insert(0, str(FOLDER))
    try:
        import sets
    finally:
        sys.path.remove(str(FOLDER))
    return sets


@pytest.fixture(scope="module")
def looks(sets):
    sys.path.insert(0, str(FOLDER))
    try:
        import looks
    finally:
        sys.path.remove(str(FOLDER))
    return looks


@pytest.fixture
def judged(sets):
    return sets.judging("annotation")["zheng"]


def test_no_cell_both_tunes_and_judges_a_task(sets):
    for task in sets.TASKS:
        tuned, judged = sets.tuning(task), sets.judging(task)
        assert judged
        assert not set(tuned) & set(judged)
        files = {name for one in judged.values() for name in one.files}
        shared = {name for one in tuned.values() for name in one.files if name in files}
        assert shared == set(), f"{task}: {shared}"
        assert {one.role for one in tuned.values()} <= {"tuning"}
        assert {one.role for one in judged.values()} == {"judging"}


def test_heads_are_never_tuned_on_cells_that_judge_a_head(sets):
    heads = [task for task in sets.TASKS if task != "backbone"]
    protected = {"zheng_sorted_pbmc_3500", "hao_pbmc_small", "kang_pbmc_ctrl", "breast_tnbc_cid4465"}
    tuned = {name for task in heads for one in sets.tuning(task).values() for name in one.files}
    assert not tuned & protected


def test_an_unknown_task_is_refused(sets):
    with pytest.raises(ValueError, match="task='naming' is unknown; choose from backbone, annotation"):
        sets.tuning("naming")


def test_every_set_can_be_read_with_its_columns(sets):
    if not DATA.is_dir():
        pytest.skip("no folder of real cells beside the project")
    for one in [*sets.tuning("trajectory").values(), *sets.judging("integration").values()]:
        cells = sets.read_cells(one, DATA)
        assert cells.obs_names.is_unique
        assert cells.obs[one.truth].notna().any()
    kang = sets.read_cells(sets.judging("backbone")["kang"], DATA)
    assert kang.obs["donor"].value_counts().max() <= 500


def _write(folder, name, genes, **obs):
    cells = ad.AnnData(np.eye(3, dtype=np.float32))
    cells.var_names = genes
    for column, values in obs.items():
        cells.obs[column] = values
    cells.write_h5ad(folder / f"{name}.h5ad")


def test_several_files_are_batches_on_their_common_genes(sets, tmp_path):
    _write(tmp_path, "a", ["x", "y", "z"], kind=["t", "u", "odd"])
    _write(tmp_path, "b", ["z", "y", "w"], kind=["T", "u", "u"])
    one = sets.CellSet("ab", ("a", "b"), "kind", batch="batch", names={"T": "t", "odd": ""}, task="integration")
    whole = sets.read_cells(one, tmp_path)
    assert set(whole.var_names) == {"y", "z"}
    assert whole.obs["batch"].tolist() == ["a"] * 2 + ["b"] * 3
    assert whole.obs["kind"].tolist() == ["t", "u", "t", "u", "u"]


def test_a_missing_file_or_column_is_named(sets, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"zheng_sorted_pbmc_3500.h5ad does not exist; say with --data"):
        sets.read_cells(sets.judging("annotation")["zheng"], tmp_path)
    _write(tmp_path, "a", ["x", "y", "z"], kind="t")
    with pytest.raises(ValueError, match="set 'mine': 'type' is not a column of obs; the columns are: kind"):
        sets.read_cells(sets.CellSet("mine", ("a",), "type"), tmp_path)


def test_a_set_leaves_out_the_cells_of_another_file(sets, tmp_path):
    _write(tmp_path, "a", ["x", "y", "z"], kind="t")
    other = ad.AnnData(np.eye(1, dtype=np.float32))
    other.obs_names = ["1"]
    other.write_h5ad(tmp_path / "b.h5ad")
    cells = sets.read_cells(sets.CellSet("rest", ("a",), "kind", without="b"), tmp_path)
    assert cells.obs_names.tolist() == ["0", "2"]


def test_a_yaml_names_files_columns_and_so_the_tasks(sets, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "lung: {files: lung.h5ad, label: cell_type, group: donor, batch: sample}\n"
        "wave: {files: [one.h5ad, two.h5ad], label: kind, time: day, task: [pseudotime], role: tuning}\n"
    )
    found = sets.from_yaml(path)
    assert set(found) == {"backbone", "annotation", "rejection", "integration", "visualization", "pseudotime"}
    lung, wave = found["integration"]["lung"], found["pseudotime"]["wave"]
    assert (lung.files, lung.group, lung.batch, lung.role) == (("lung",), "donor", "sample", "judging")
    assert (wave.files, wave.batch, wave.role, wave.truth) == (("one", "two"), "batch", "tuning", "day")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("- lung.h5ad", "expected NAME: {files: cells.h5ad, label: COLUMN"),
        ("lung: {files: a.h5ad, lable: kind}", "lung has the keys lable; choose from batch, files"),
        ("lung: {label: kind}", "lung names no files"),
        ("lung: {files: a.h5ad}", "lung allows no task; name label: COLUMN"),
        (
            "lung: {files: a.h5ad, label: kind, task: naming}",
            "expected a role of tuning, judging and tasks of backbone",
        ),
        ("lung: {files: a.h5ad, label: kind, role: own}", "role='own'"),
        (
            "lung: {files: a.h5ad, label: kind, task: integration}",
            "lung names no batch: COLUMN, which integration needs",
        ),
        ("lung: {files: a.h5ad, label: kind, task: trajectory}", "'lung' names no time, which trajectory needs"),
        ("lung: {files: a.h5ad, label: [kind, more]}", r"label: \['kind', 'more'\]; expected one name"),
    ],
)
def test_a_yaml_that_says_too_little_is_refused(sets, tmp_path, text, match):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        sets.from_yaml(path)


def test_a_missing_yaml_is_named(sets, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no.yaml does not exist; expected a yaml"):
        sets.from_yaml(tmp_path / "no.yaml")


def test_a_look_is_counted_once_for_a_version_and_command(looks, judged, tmp_path):
    log = tmp_path / "looks.jsonl"
    assert looks.record_look(judged, "1", "heads --task annotation", log) == 1
    assert looks.record_look(judged, "1", "heads --task annotation", log) == 1  # goes on
    assert looks.record_look(judged, "2", "heads --task annotation", log) == 2
    assert [look["version"] for look in looks.read_looks(log)] == ["1", "2"]
    assert looks.describe_looks([judged], log) == "Looks at judging sets so far, all versions: zheng 2."


def test_a_version_is_not_judged_by_a_second_command(looks, judged, tmp_path):
    log = tmp_path / "looks.jsonl"
    looks.record_look(judged, "1", "heads", log)
    with pytest.raises(ValueError, match="set zheng has judged version 1 for annotation by 'heads'"):
        looks.record_look(judged, "1", "heads --seeds 9", log)
    assert looks.count_looks("zheng", "annotation", log) == 1


def test_another_task_or_a_set_for_tuning_is_no_look(looks, sets, judged, tmp_path):
    log = tmp_path / "looks.jsonl"
    assert looks.record_look(sets.tuning("annotation")["pbmc3k"], "1", "c", log) == 0
    assert not log.exists()
    looks.record_look(sets.judging("rejection")["zheng"], "1", "c", log)
    assert looks.count_looks("zheng", "annotation", log) == 0
    log.write_text(json.dumps({"set": "zheng", "task": "annotation", "version": "earlier", "times": 5}) + "\n")
    assert looks.record_look(judged, "1", "c", log) == 6


def test_the_committed_log_names_sets_that_judge(looks, sets):
    for look in looks.read_looks():
        assert look["set"] in sets.judging(look["task"]), look


def test_a_version_changes_with_code_and_configs_alone(looks, tmp_path):
    for folder in ("scfm", "configs", "docs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "scfm/a.py").write_text("1")
    (tmp_path / "configs/a.yaml").write_text("1")
    first = looks.code_version(tmp_path)
    (tmp_path / "docs/a.py").write_text("2")
    assert looks.code_version(tmp_path) == first
    (tmp_path / "configs/a.yaml").write_text("2")
    second = looks.code_version(tmp_path)
    (tmp_path / "scfm/a.py").rename(tmp_path / "scfm/b.py")
    assert len({first, second, looks.code_version(tmp_path)}) == 3
