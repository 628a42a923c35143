"""Scores of samples against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from scfm.metrics.samples import auc, concordance, donor_interval, mean_auc, sample_scores


def test_against_scikit_learn():
    rng = np.random.default_rng(0)
    truth, p = rng.integers(0, 3, 60), rng.dirichlet(np.ones(3), 60).round(1)
    p /= p.sum(axis=1, keepdims=True)
    assert auc(truth == 1, p[:, 1]) == pytest.approx(roc_auc_score(truth == 1, p[:, 1]))
    found = sample_scores(truth, p)
    assert found["auc"] == pytest.approx(np.mean([roc_auc_score(truth == c, p[:, c]) for c in range(3)]))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, p.argmax(1)))
    assert sample_scores(np.array([1]), np.array([[0.2, 0.8]]))["brier"] == pytest.approx(0.04)
    assert np.isnan(mean_auc(np.array([1, 1]), np.array([[0.5, 0.5]] * 2)))


def test_concordance_by_hand():
    time, event = np.array([1.0, 2.0, 3.0, 2.5]), np.array([1, 1, 0, 0])
    # comparable: (0,1) (0,2) (0,3) (1,2) (1,3)
    assert concordance(np.array([4.0, 3.0, 1.0, 2.0]), time, event) == 1
    assert concordance(np.array([4.0, 1.0, 2.0, 2.0]), time, event) == pytest.approx(3 / 5)
    assert concordance(np.zeros(4), time, event) == 0.5
    assert np.isnan(concordance(np.zeros(4), time, np.zeros(4)))


def test_intervals_resample_donors_not_samples():
    truth = np.repeat([0, 1] * 6, 10)
    score = truth + np.repeat(np.random.default_rng(0).normal(size=12), 10)
    by_donor = donor_interval(lambda rows: auc(truth[rows] == 1, score[rows]), np.repeat(np.arange(12), 10), 200)
    by_sample = donor_interval(lambda rows: auc(truth[rows] == 1, score[rows]), np.arange(120), 200)
    assert np.ptp(by_donor) > 2 * np.ptp(by_sample)
