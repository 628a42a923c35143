import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from scfm.metrics import classification as score

CODES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


@given(CODES)
def test_scores_equal_scikit_learn(pairs):
    truth, predicted = np.array(pairs).T
    table = score.confusion(truth, predicted, 5)
    np.testing.assert_array_equal(table, metrics.confusion_matrix(truth, predicted, labels=range(5)))
    assert score.accuracy(table) == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert score.macro_f1(table) == pytest.approx(metrics.f1_score(truth, predicted, average="macro", zero_division=0))
    recalls = metrics.recall_score(truth, predicted, average=None, labels=np.unique(truth), zero_division=0)
    assert score.balanced_accuracy(table) == pytest.approx(recalls.mean())


def test_missing_labels_do_not_count():
    logits = np.array([[2.0, 0.0], [0.0, 2.0], [5.0, 0.0]])
    assert score.scores(logits, np.array([0, 1, -1])) == score.scores(logits[:2], np.array([0, 1]))


def test_no_label_gives_nan_and_no_warning(recwarn):
    found = score.scores(np.zeros((2, 3)), np.array([-1, -1]))
    assert set(found) == {"macro_f1", "accuracy", "balanced_accuracy", "ece"}
    assert all(np.isnan(value) for value in found.values())
    assert not recwarn


def test_calibration_error_by_hand():
    # bins of width 0.5: {0.4: right} and {0.8: right, 0.6: wrong}
    error = score.calibration_error(np.array([0.4, 0.8, 0.6]), np.array([True, True, False]), n_bins=2)
    assert error == pytest.approx((1 * abs(0.4 - 1) + 2 * abs(0.7 - 0.5)) / 3)


def test_a_confidence_of_one_lies_in_the_last_bin_and_zero_in_the_first():
    bins = score.reliability(np.array([0.0, 1.0]), np.array([False, True]), n_bins=10)
    assert bins[0, 2] == 1
    assert bins[-1, 2] == 1


def test_softmax_of_huge_logits_is_finite_and_temperature_flattens():
    logits = np.array([[1e4, 0.0]])
    assert np.isfinite(score.softmax(logits)).all()
    assert score.softmax(logits, 1e4)[0, 0] == pytest.approx(1 / (1 + np.exp(-1)))
