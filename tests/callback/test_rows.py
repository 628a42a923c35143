"""The rows of ``metrics.csv``: each validation once, each at its step, also after a resume."""

import json
from collections import Counter

import pandas as pd
import pytest

from scfm.objective.mlm import MLM


def rows(folder, name) -> pd.Series:
    return pd.read_csv(folder / "metrics.csv").dropna(subset=[name]).set_index("step")[name]


@pytest.mark.parametrize(("steps", "expected"), [(8, [3, 7]), (6, [3, 6])])
def test_the_last_step_is_validated_once(train, monkeypatch, steps, expected):
    forward, seen = MLM.forward, []

    def watched(self, backbone, batch):
        seen.append((self.training, tuple(batch.index.tolist())))
        return forward(self, backbone, batch)

    monkeypatch.setattr(MLM, "forward", watched)
    folder = train(f"trainer.max_steps={steps}", "validate_every=4")
    times = Counter(cells for training, cells in seen if not training)
    assert set(times.values()) == {1, 3}  # test cells; those of the loss before the first step and of two validations
    losses = rows(folder, "val/loss")
    assert losses.index.tolist() == expected
    assert json.loads((folder / "metrics.json").read_text())["val/loss"] == pytest.approx(losses.iloc[-1], rel=1e-6)


def test_a_finished_run_that_is_resumed(train):
    options = ("trainer.max_steps=6", "validate_every=3")
    before = json.loads((train(*options) / "metrics.json").read_text())
    for _ in range(2):
        folder = train(*options, "ckpt_path=last")
        assert rows(folder, "val/loss").index.tolist() == [2, 5, 6]
    assert json.loads((folder / "metrics.json").read_text()) == pytest.approx(before, rel=1e-6)


@pytest.mark.parametrize("every", [4, 5, 1000])
def test_steps_keep_their_numbers_when_a_run_goes_on_longer(train, every):
    """A checkpoint of the last validation, resumed with other moments to validate."""
    train("trainer.max_steps=8", "validate_every=4")
    folder = train("trainer.max_steps=12", f"validate_every={every}", "ckpt_path=last")
    assert rows(folder, "train/loss").index.tolist() == list(range(12))
    assert rows(folder, "lr-AdamW/pg1").index.tolist() == list(range(12))
    ends = {4: [3, 7, 11], 5: [3, 7, 9, 12], 1000: [3, 7, 11]}
    assert rows(folder, "val/loss").index.tolist() == ends[every]
