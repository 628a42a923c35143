"""With the backbone, without it, with random weights: an integration head trained three times on the same cells."""

import numpy as np
import pandas as pd
import pytest
import torch

from scfm.evaluation.methods.backbone_gain import RANDOM, WITH, WITHOUT
from scfm.evaluation.methods.integration_gain import StateTable, compare_integrations, describe
from scfm.head.integration.triplet import Triplet
from scfm.types import Spec
from scfm.vocab import Vocab

VOCAB = Vocab(("<pad>", "<mask>", "<cls>", "<eos>", "A", "B"), {"pad": 0, "mask": 1, "cls": 2, "eos": 3})


def make_head():
    spec = Spec(VOCAB, width=6, classes={"batch": ("one", "two")}, n_cells=240)
    return Triplet(spec, batch_key="batch", width=4, gene_components=4, hidden=16, neighbors=8)


@pytest.fixture(scope="module")
def cells():
    """The second batch is moved along the axis of the cells' own variety: where a cell lies does not say its batch."""
    rng = np.random.default_rng(0)
    batch = np.arange(240) % 2
    components = rng.normal(size=(240, 4)).astype(np.float32) * [3, 0.3, 0.3, 0.3]
    components[:, 0] += 2.0 * batch
    known = np.zeros((240, 6), dtype=np.float32)
    known[np.arange(240), batch] = 1
    return {WITH: known, RANDOM: rng.normal(size=(240, 6)).astype(np.float32)}, components.astype(np.float32), batch


def test_a_backbone_that_knows_the_batch_helps_to_mix(cells):
    embeddings, components, batch = cells
    rows = np.arange(240) * 3 + 5  # of a larger store
    gain = compare_integrations(make_head, embeddings, components, rows, {"batch": batch}, steps=60)
    assert list(gain.table.index) == [WITH, WITHOUT, RANDOM]
    assert gain.table.loc[WITH, "low"] > 0.02
    assert gain.table.loc[WITHOUT, ["gain", "low", "high", "kept_gain"]].eq(0).all()
    assert gain.table.loc[RANDOM, "gain"] < gain.table.loc[WITH, "gain"]
    assert gain.table[["mixing", "kept_neighbors"]].to_numpy().min() >= 0
    assert gain.table[["mixing", "kept_neighbors"]].to_numpy().max() <= 1


def test_the_comparison_repeats_itself_and_leaves_the_generator_alone(cells):
    embeddings, components, batch = cells
    state = torch.random.get_rng_state()
    one, two = (
        compare_integrations(make_head, embeddings, components, np.arange(240), {"batch": batch}, steps=3).table
        for _ in range(2)
    )
    pd.testing.assert_frame_equal(one, two)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_states_are_found_by_row(cells):
    embeddings, components, _ = cells
    table = StateTable(np.array([2, 9]), embeddings[WITH][:2], components[:2])
    batch = type("Rows", (), {"index": torch.tensor([9, 2])})
    np.testing.assert_array_equal(table(None, batch)[:, 6:].detach().numpy(), components[[1, 0]])


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((0.1, 0.05, 0.2, 0.0, -0.1, 0.1), "helps to mix batches"),
        ((0.1, 0.05, 0.2, -0.2, -0.3, -0.1), "gives one score for the other"),
        ((0.0, -0.1, 0.1, 0.1, 0.05, 0.2), "helps to keep neighbors"),
        ((-0.1, -0.2, -0.05, 0.0, -0.1, 0.1), "takes from the mixing"),
        ((0.0, -0.1, 0.1, 0.0, -0.1, 0.1), "adds nothing"),
    ],
)
def test_the_sentence_follows_the_intervals(numbers, words):
    columns = ["gain", "low", "high", "kept_gain", "kept_low", "kept_high"]
    table = pd.DataFrame([numbers, [0.0] * 6, [0.0] * 6], [WITH, WITHOUT, RANDOM], columns)
    assert words in describe(table)
