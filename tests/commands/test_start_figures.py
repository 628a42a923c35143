"""The figures of the start of a run, in the run that goes on after a stop."""

import json

import pytest


def figures(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_a_resumed_run_has_the_loss_before_its_first_step(train):
    _, folder = train("trainer.max_steps=2")
    before = figures(folder)["val/loss_before"]
    train("trainer.max_steps=4", "ckpt_path=last")
    assert figures(folder)["val/loss_before"] == before


@pytest.mark.parametrize("text", ["", "[1]", '{"val/loss_before": "x"}', "{"])
def test_a_damaged_file_of_them_does_not_cost_the_run(train, caplog, text):
    _, folder = train("trainer.max_steps=2")
    (folder / "start.json").write_text(text)
    train("trainer.max_steps=4", "ckpt_path=last")
    assert "val/loss_before" not in figures(folder)
    assert "start.json cannot be read" in caplog.text
