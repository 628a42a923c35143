import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from scfm.head.annotation.discriminant import choose_scales, discriminant_directions, weighed_directions


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


def made_blocks(signal, seed=0, n=300):
    """A backbone of 60 columns and components of 10, of which one knows the classes."""
    rng = np.random.default_rng(seed)
    codes, values = np.arange(n) % 3, rng.normal(size=(n, 70))
    start = 0 if signal == "backbone" else 60
    values[:, start : start + 3] += 2.5 * np.eye(3)[codes]
    return values, codes


@pytest.mark.parametrize("seed", range(3))
def test_a_backbone_of_noise_has_no_part_in_the_directions(seed):
    values, codes = made_blocks("components", seed)
    scales = choose_scales(values, codes, (60, 10))
    assert scales[0] == 0
    directions = weighed_directions(values, codes, 8, (60, 10), scales)
    assert not directions[:, :60].any()
    alone = discriminant_directions(values[:, 60:] * scales[1], codes, 8) * scales[1]
    np.testing.assert_allclose(directions[:, 60:], alone, atol=1e-6)


def test_a_backbone_that_knows_is_used():
    values, codes = made_blocks("backbone")
    assert choose_scales(values, codes, (60, 10))[0] > 0


def test_directions_are_those_of_scaled_columns():
    values, codes = made_blocks("components")
    columns = np.repeat([0.3, 1.0], [60, 10])
    found = weighed_directions(values, codes, 5, (60, 10), (0.3, 1.0))
    np.testing.assert_allclose(
        values @ found.T, (values * columns) @ discriminant_directions(values * columns, codes, 5).T, atol=1e-4
    )


def test_a_single_block_and_few_cells_are_not_weighed():
    values, codes = made_blocks("components")
    assert choose_scales(values, codes, (70,)) == (1.0,)
    assert choose_scales(values[:3], codes[:3], (60, 10)) == (1.0, 1.0)
