"""``metrics.csv``: a kill or a full disk at any moment loses no row that was written."""

import csv
import errno
import os
import signal

import pytest

from scfm import io
from scfm.callback.metrics_table import MetricsTable


@pytest.fixture
def table(tmp_path):
    table = MetricsTable(folder=str(tmp_path))
    for step in range(300):
        table.log_metrics({"loss": 1.0 / (step + 1)}, step)
    table.save()
    return table


def rows(folder) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def killed_at(call: str, work, monkeypatch) -> None:
    """Run ``work`` in a child that is killed at its first call of ``os.<call>``."""
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(io.os, call, lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
        work()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_killed_while_a_new_column_rewrites_the_file(table, tmp_path, monkeypatch, call):
    def add_column():
        table.log_metrics({"val/loss": 1.0}, 300)
        table.save()

    killed_at(call, add_column, monkeypatch)
    assert len(rows(tmp_path)) == 300
    add_column()
    assert len(rows(tmp_path)) == 301
    assert rows(tmp_path)[-1] == {"loss": "", "step": "300", "val/loss": "1.0"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_killed_while_a_resumed_run_drops_rows(table, tmp_path, monkeypatch, call):
    killed_at(call, lambda: table.drop_rows_from(200), monkeypatch)
    assert len(rows(tmp_path)) == 300
    table.drop_rows_from(200)
    assert [int(row["step"]) for row in rows(tmp_path)] == list(range(200))


def test_a_last_row_that_was_cut_off_is_dropped(tmp_path, table):
    path = tmp_path / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-3])
    resumed = MetricsTable(folder=str(tmp_path))
    resumed.drop_rows_from(300)
    assert len(rows(tmp_path)) == 299


@pytest.mark.parametrize("new_column", [False, True])
def test_a_full_disk_ends_nothing_and_rows_follow_later(table, tmp_path, monkeypatch, caplog, new_column):
    before = (tmp_path / "metrics.csv").read_bytes()
    name = "val/loss" if new_column else "loss"
    writerows = csv.DictWriter.writerows

    def full(self, rows):
        writerows(self, rows)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(csv.DictWriter, "writerows", full)
        table.log_metrics({name: 2.0}, 300)
        table.save()
        table.log_metrics({name: 3.0}, 301)
        table.save()
    assert "No space is left on the disk" in caplog.text
    assert (tmp_path / "metrics.csv").read_bytes() == before
    table.log_metrics({name: 4.0}, 302)
    table.save()
    assert [row[name] for row in rows(tmp_path)[-3:]] == ["2.0", "3.0", "4.0"]
    assert len(rows(tmp_path)) == 303
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
