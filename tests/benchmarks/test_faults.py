"""The table of faults goes on after the rows that are finished, as long as the code is the same."""

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def faults():
    sys.path.insert(0, str(FOLDER))
    try:
        import faults
    finally:
        sys.path.remove(str(FOLDER))
    return faults


def test_a_finished_row_is_not_run_again(faults, tmp_path):
    path, lost = tmp_path / "rows.json", faults.Count(3, 2, 0, 1, ("what was lost",))
    assert faults.Rows(path, source="a", seed=0).count("embed", 3, lambda: lost) == lost
    assert faults.Rows(path, source="a", seed=0).count("embed", 3, lambda: pytest.fail("run again")) == lost


@pytest.mark.parametrize(("source", "tries"), [("b", 3), ("a", 5)])
def test_other_code_or_more_tries_are_run(faults, tmp_path, source, tries):
    path, new = tmp_path / "rows.json", faults.Count(tries, tries)
    faults.Rows(path, source="a", seed=0).count("embed", 3, lambda: faults.Count(3, 0, 0, 3))
    assert faults.Rows(path, source=source, seed=0).count("embed", tries, lambda: new) == new


def test_sixty_stops_or_more_and_every_command_of_them(faults):
    names = [kind.name for kind in faults.kinds()]
    assert len(names) * 5 >= 60
    for command in ("prepare", "train mlm", "train ar", "finetune", "embed", "evaluate"):
        assert any(name.startswith(command) for name in names)
