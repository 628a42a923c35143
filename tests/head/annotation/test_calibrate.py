import numpy as np
import pytest

from scfm.head.annotation.calibrate import fit_temperature, fit_thresholds
from scfm.metrics.classification import softmax


def drawn(n_cells=4000, n_classes=4, seed=0):
    """Logits and labels that are drawn from exactly these logits' softmax."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n_cells, n_classes)) * 2
    truth = (softmax(logits).cumsum(1) > rng.random((n_cells, 1))).argmax(1)
    return logits, truth


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_temperature_undoes_a_factor(factor):
    logits, truth = drawn()
    assert fit_temperature(logits * factor, truth) == pytest.approx(factor, rel=0.06)


def test_temperature_without_cells_is_one():
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, dtype=int)) == 1.0


def test_thresholds_are_quantiles_of_correct_calls_only():
    confidence = np.linspace(0.5, 0.99, 50)
    probabilities = np.column_stack([confidence, 1 - confidence])
    truth = np.zeros(50, dtype=int)
    truth[:10] = 1  # the ten least sure calls of class 0 are wrong
    found = fit_thresholds(probabilities, truth, 0.05)
    assert found[0] == pytest.approx(np.quantile(confidence[10:], 0.05))


def test_a_class_with_few_correct_calls_takes_the_pooled_threshold():
    many, few = np.full((25, 2), [0.9, 0.1]), np.full((19, 2), [0.3, 0.7])
    truth = np.repeat([0, 1], [25, 19])
    found = fit_thresholds(np.vstack([many, few]), truth, 0.05)
    assert found[0] == pytest.approx(0.9)
    assert found[1] == pytest.approx(np.quantile(np.repeat([0.9, 0.7], [25, 19]), 0.05))


def test_nothing_correct_rejects_nothing():
    np.testing.assert_array_equal(fit_thresholds(np.array([[0.9, 0.1]]), np.array([1]), 0.05), [0, 0])


def test_perfect_calibration_cells_do_not_make_every_call_certain():
    logits = np.eye(3).repeat(20, axis=0)
    truth = np.arange(3).repeat(20)
    temperature = fit_temperature(logits, truth)
    assert softmax(logits, temperature).max() == pytest.approx(61 / 62, abs=1e-3)
