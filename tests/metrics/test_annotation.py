import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score, roc_curve

from scfm.evaluation.methods.probes import Calls
from scfm.metrics.annotation import (
    annotation_scores,
    bootstrap,
    false_positive_rate,
    interval,
    rejection_curve,
    risk_area,
    unknown_auroc,
)


def calls_of(codes, confidence=None, rows=None):
    codes = np.asarray(codes)
    confidence = np.ones(len(codes)) if confidence is None else np.asarray(confidence)
    return Calls(codes, confidence, np.arange(len(codes)) if rows is None else np.asarray(rows))


def test_scores_equal_scikit_learn_when_all_are_named():
    rng = np.random.default_rng(0)
    truth, called = rng.integers(4, size=(2, 60))
    found = annotation_scores(truth, calls_of(called), 4)
    assert found["macro_f1"] == pytest.approx(f1_score(truth, called, average="macro"))
    assert found["coverage"] == 1


def test_unknown_costs_recall_but_is_no_class():
    found = annotation_scores(np.array([0, 0, 1, 1]), calls_of([0, -1, 1, 1]), 2)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["accuracy"] == 0.75
    assert found["coverage"] == 0.75


def test_calls_are_matched_to_their_cells():
    truth = np.array([0, 1, 2])
    assert annotation_scores(truth, calls_of([2, 0], rows=[2, 0]), 3)["accuracy"] == 1


def test_groups_widen_the_interval():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(8), 50)
    truth = rng.integers(3, size=400)
    wrong = rng.random(400) < np.repeat(rng.random(8), 50)  # some donors are much harder
    calls = calls_of(np.where(wrong, (truth + 1) % 3, truth))
    by_group, by_cell = (interval(bootstrap(truth, calls, owner, 3)) for owner in (groups, None))
    assert by_group[1] - by_group[0] > 2 * (by_cell[1] - by_cell[0])


def test_draws_are_paired_whatever_the_order_of_the_calls():
    rng = np.random.default_rng(0)
    truth, called = rng.integers(3, size=(2, 90))
    order = rng.permutation(90)
    first = bootstrap(truth, calls_of(called), None, 3)
    np.testing.assert_array_equal(first, bootstrap(truth, calls_of(called[order], rows=order), None, 3))


def test_rejection_curve_by_hand():
    curve = rejection_curve(np.array([0.2, 0.9, 0.5]), np.array([False, True, True]))
    np.testing.assert_allclose(curve, [[1 / 3, 1], [2 / 3, 1], [1, 2 / 3]])


def test_unknown_auroc_equals_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    confidence, known = rng.integers(5, size=50) / 4, rng.random(50) < 0.5
    assert unknown_auroc(confidence, known) == pytest.approx(roc_auc_score(known, confidence))
    assert np.isnan(unknown_auroc(confidence, np.ones(50, bool)))


def test_the_false_positive_rate_is_that_of_the_roc_curve():
    rng = np.random.default_rng(1)
    known = rng.random(400) < 0.6
    confidence = rng.normal(size=400) + known
    false, true, _ = roc_curve(known, confidence, drop_intermediate=False)
    assert false_positive_rate(confidence, known) == pytest.approx(false[np.flatnonzero(true >= 0.95)[0]], abs=0.02)
    assert false_positive_rate(np.where(known, 2.0, 1.0), known) == 0.0
    assert false_positive_rate(np.ones(400), known) == 1.0
    assert np.isnan(false_positive_rate(confidence, np.ones(400, dtype=bool)))


def test_the_area_under_the_risk_is_smallest_where_errors_come_last():
    correct = np.array([True] * 6 + [False] * 2)
    best = risk_area(np.linspace(1, 0, 8), correct)
    assert best == pytest.approx((1 / 7 + 2 / 8) / 8)
    assert best < risk_area(np.linspace(0, 1, 8), correct)
    assert risk_area(np.random.default_rng(0).random(8), np.ones(8, dtype=bool)) == 0
