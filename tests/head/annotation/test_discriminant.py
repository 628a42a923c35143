import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from scfm.head.annotation.discriminant import discriminant_directions


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    codes = np.arange(300) % 3
    means = rng.normal(0, 2, (3, 8))
    return means[codes] + rng.normal(size=(300, 8)) @ rng.normal(size=(8, 8)), codes


def test_the_nearest_mean_is_the_call_of_a_discriminant_analysis(cells, monkeypatch):
    values, codes = cells
    monkeypatch.setattr("scfm.head.annotation.discriminant.SHRINK", 0.0)
    directions = discriminant_directions(values, codes, 8)
    z = values @ directions.T
    means = np.stack([z[codes == code].mean(axis=0) for code in range(3)])
    called = ((z[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    oracle = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(3, 1 / 3)).fit(values, codes)
    np.testing.assert_array_equal(called, oracle.predict(values))
    inside = np.cov((z - means[codes]).T) * 299 / 297
    np.testing.assert_allclose(inside, np.eye(8), atol=1e-4)


def test_the_directions_that_part_the_classes_come_first(cells):
    values, codes = cells
    few, all_of_them = discriminant_directions(values, codes, 2), discriminant_directions(values, codes, 99)
    assert few.shape == (2, 8)
    assert all_of_them.shape == (8, 8)
    means = np.stack([values[codes == code].mean(axis=0) for code in range(3)]) @ all_of_them.T
    assert np.ptp(means[:, 2:], axis=0).max() < 1e-3 < np.ptp(means[:, :2], axis=0).min()


def test_one_cell_a_class_is_enough_to_begin():
    values = np.random.default_rng(0).normal(size=(4, 6))
    assert np.isfinite(discriminant_directions(values, np.arange(4) % 2, 3)).all()
    assert np.isfinite(discriminant_directions(values[:2], np.arange(2), 3)).all()
