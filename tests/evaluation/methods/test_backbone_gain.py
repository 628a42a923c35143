"""With the backbone, without it, with random weights: rows, interval and sentence agree."""

import numpy as np
import pandas as pd
import pytest

from scfm.evaluation.methods.backbone_gain import (
    RANDOM,
    WITH,
    WITHOUT,
    compare_backbones,
    compare_orders,
    describe,
)


def made(backbone_knows, seed=0, n=400):
    """Components tell class 0 from 1 and 2; 1 from 2 only the backbone, or no one."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, n)
    deep, random, components = (rng.normal(size=(n, width)) for width in (30, 30, 8))
    components[:, 0] += 4 * (codes == 0)
    if backbone_knows:
        deep[:, 0] += 6 * (codes == 1)
    return {WITH: deep, RANDOM: random}, components, codes, np.arange(n) % 2 == 0


def test_a_backbone_that_knows_adds_and_random_weights_do_not():
    embeddings, components, codes, train = made(backbone_knows=True)
    gain = compare_backbones(embeddings, components, (5, 3), codes, train, 3)
    assert list(gain.table.index) == [WITH, WITHOUT, RANDOM]
    assert gain.table.loc[WITH, "low"] > 0.1
    assert gain.table.loc[WITHOUT, ["gain", "low", "high"]].eq(0).all()
    assert gain.sentence.startswith("The pretrained backbone adds +")


@pytest.mark.parametrize("grouped", [False, True])
def test_noise_adds_nothing_and_takes_nothing(grouped):
    embeddings, components, codes, train = made(backbone_knows=False)
    groups = np.arange(400) // 20 if grouped else None
    gain = compare_backbones(embeddings, components, (8,), codes, train, 3, groups)
    assert gain.table.loc[WITH, "low"] <= 0 <= gain.table.loc[WITH, "high"]
    assert "adds nothing to the gene components" in gain.sentence


def test_cells_without_a_label_do_not_count():
    embeddings, components, codes, train = made(backbone_knows=True)
    whole = compare_backbones(embeddings, components, (8,), codes, train, 3).table
    more = [np.vstack([values, np.full((9, values.shape[1]), 7.0)]) for values in (*embeddings.values(), components)]
    padded = dict(zip(embeddings, more[:2], strict=True))
    marks = np.arange(9) % 2 == 0
    table = compare_backbones(padded, more[2], (8,), np.append(codes, [-1] * 9), np.append(train, marks), 3).table
    pd.testing.assert_frame_equal(table, whole)


def test_a_loss_is_said():
    rows = {WITH: (-0.1, -0.2, -0.05), WITHOUT: (0, 0, 0), RANDOM: (0.01, -0.1, 0.1)}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["gain", "low", "high"], dtype=float)
    assert describe(table).startswith("The pretrained backbone takes from the gene components: -0.100 [-0.200, -0.050]")


def ordered(backbone_knows, seed=0, n=240):
    """Components tell early from late; the order inside both only the backbone, or no one."""
    rng = np.random.default_rng(seed)
    times = rng.integers(0, 6, n).astype(float)
    deep, random, components = (rng.normal(size=(n, width)) for width in (8, 8, 6))
    components[:, 0] += 5 * (times > 2)
    if backbone_knows:
        deep[:, :6] += 5 * np.eye(6)[times.astype(int)]
    return {WITH: deep, RANDOM: random}, components, times, np.arange(n) % 2 == 0


def test_a_backbone_that_knows_the_order_adds_to_it():
    embeddings, components, times, train = ordered(backbone_knows=True)
    gain = compare_orders(embeddings, components, (6,), times, train)
    assert gain.table.loc[WITH, "concordance"] > 0.95
    assert gain.table.loc[WITH, "low"] > 0.05
    assert gain.table.loc[RANDOM, "low"] <= 0.01
    assert "of the pairs of cells in order to the gene components" in gain.sentence


def test_an_order_that_no_backbone_knows_gains_nothing_and_unknown_times_do_not_count():
    embeddings, components, times, train = ordered(backbone_knows=False)
    groups = np.arange(240) // 6
    gain = compare_orders(embeddings, components, (6,), times, train, groups)
    assert gain.table.loc[WITH, "low"] <= 0 <= gain.table.loc[WITH, "high"] + 1e-9
    times[::7] = np.nan
    again = compare_orders(embeddings, components, (6,), times, train, groups)
    assert np.isfinite(again.table.to_numpy()).all()


def test_numbers_are_put_into_classes():
    embeddings, components, times, train = ordered(backbone_knows=True)
    smooth = times + np.random.default_rng(1).uniform(0, 0.5, 240)
    assert compare_orders(embeddings, components, (6,), smooth, train).table.loc[WITH, "concordance"] > 0.9


def test_cells_of_one_time_have_no_order():
    embeddings, components, times, train = ordered(backbone_knows=True)
    with pytest.raises(ValueError, match="the 120 cells to score have no two different times"):
        compare_orders(embeddings, components, (6,), np.where(train, times, 1.0), train)
