"""Ridge regression with blocks and missing targets, against scikit-learn."""

import numpy as np
from sklearn.linear_model import Ridge

from scfm.head.block_ridge import PENALTIES, RidgeChoice, choose_ridge, fit_ridge


def made(n=200, seed=0):
    rng = np.random.default_rng(seed)
    noise, signal = rng.normal(size=(n, 6)), rng.normal(size=(n, 4))
    targets = np.column_stack([signal[:, 0] * 2 + 1, signal[:, 1] - signal[:, 2], rng.normal(size=n)])
    return np.hstack([noise, signal]), targets + rng.normal(0, 0.1, targets.shape), (6, 4)


def test_each_target_is_the_ridge_regression_of_the_cells_that_have_it():
    values, targets, blocks = made()
    targets[:70, 0] = np.nan
    targets[40:, 2] = np.nan
    choice = RidgeChoice((0.3, 1.0), np.array([1.0, 10.0, 100.0]))
    weights, biases = fit_ridge(values, targets, choice, blocks)
    columns = np.repeat([0.3, 1.0], blocks)
    for target, penalty in enumerate(choice.penalties):
        known = np.isfinite(targets[:, target])
        oracle = Ridge(penalty).fit(values[known] * columns, targets[known, target])
        np.testing.assert_allclose(weights[target], oracle.coef_ * columns, atol=1e-5)
        np.testing.assert_allclose(biases[target], oracle.intercept_, atol=1e-5)


def test_a_block_that_is_left_out_has_no_weight_and_a_target_without_cells_is_zero():
    values, targets, blocks = made()
    targets[:, 1] = np.nan
    weights, biases = fit_ridge(values, targets, RidgeChoice((0.0, 1.0), np.ones(3)), blocks)
    assert not weights[:, :6].any()
    assert not weights[1].any()
    assert biases[1] == 0


def test_noise_is_left_out_and_noise_is_shrunk():
    values, targets, blocks = made()
    choice = choose_ridge(values, targets, blocks)
    assert choice.scales[0] == 0
    assert choice.scales[1] > 0
    assert choice.penalties[2] == PENALTIES[-1], "a target that nothing tells"
    assert (choice.penalties[:2] < PENALTIES[-1]).all()


def test_donors_stay_together():
    """A block that names the donor helps within donors and not across them."""
    rng = np.random.default_rng(0)
    donor = np.repeat(np.arange(8), 30)
    identity, signal = rng.normal(size=(8, 8))[donor], rng.normal(size=(240, 1))
    target = (rng.normal(size=8)[donor] * 3 + signal[:, 0] + rng.normal(0, 0.1, 240))[:, None]
    values = np.hstack([identity, signal])
    apart = choose_ridge(values, target, (8, 1), donor)
    assert apart.scales[0] < choose_ridge(values, target, (8, 1)).scales[0]


def test_too_few_cells_for_folds():
    values, targets, blocks = made(n=6)
    choice = choose_ridge(values, targets, blocks)
    assert choice.scales == (1.0, 1.0)
    assert (choice.penalties == np.median(PENALTIES)).all()
