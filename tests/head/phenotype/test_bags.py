"""What cannot be learned from is refused, each with its reason."""

import logging

import numpy as np
import pytest

from scfm.head.phenotype.bags import find_samples, require_donors, require_no_batch
from scfm.head.phenotype.space import SampleSpace


def cells(n=12, each=12):
    place = np.repeat(np.arange(n), each)
    return place, (place % 2).astype(np.int64)


def test_samples_and_their_labels():
    place, truth = cells()
    place[:3], truth[-12:] = -1, -1  # three cells without a sample, one sample without a label
    samples = find_samples(place, truth, min_cells=10)
    assert samples.codes.tolist() == list(range(1, 11))  # the first has nine cells left
    assert samples.truth.tolist() == [1, 0] * 5
    assert (samples.cells[:12] == -1).all() and (samples.cells[-12:] == -1).all()
    assert (samples.codes[samples.cells[12:-12]] == place[12:-12]).all()


def test_a_label_that_is_not_constant_in_a_donor_is_refused():
    place, truth = cells()
    truth[13] = 0
    with pytest.raises(ValueError, match=r"the label is not constant in 1 sample\(s\) \(p1\)"):
        find_samples(place, truth, names=[f"p{i}" for i in range(12)])


def test_a_sample_of_two_donors_is_refused():
    place, truth = cells()
    donors = place.copy()
    donors[0] = 5
    with pytest.raises(ValueError, match="the donor is not constant"):
        find_samples(place, truth, donors)


def test_numbers_and_survival_are_labels_too():
    place, _ = cells()
    number = place.astype(np.float32)
    number[:12] = np.nan
    assert find_samples(place, number).truth.tolist() == list(range(1, 12))
    both = np.stack([number, place % 2], axis=1)
    assert find_samples(place, both).truth.shape == (11, 2)
    both[20, 1] = 7
    with pytest.raises(ValueError, match="label is not constant"):
        find_samples(place, both)


def test_bags_of_one_cell_are_refused():
    with pytest.raises(ValueError, match="a bag of one cell is no sample"):
        find_samples(np.arange(40), np.arange(40) % 2)


def test_small_samples_are_left_out_and_counted(caplog):
    place, truth = cells()
    with caplog.at_level(logging.WARNING):
        assert len(find_samples(place[:-8], truth[:-8])) == 11
    assert "1 of 12 samples have fewer than 10 cells" in caplog.text


def test_fewer_than_five_donors_of_a_class_are_refused_however_many_samples():
    place, truth = cells(9)
    with pytest.raises(ValueError, match="'case' has 4 donor"):
        require_donors(find_samples(place, truth), ("control", "case"))
    place, truth = cells(40)
    donors = place % 8
    with pytest.raises(ValueError, match="'control' has 4, 'case' has 4 donor"):
        require_donors(find_samples(place, truth, donors), ("control", "case"))
    require_donors(find_samples(*cells(10)), ("control", "case"))


def test_a_label_that_follows_the_batch_is_refused_and_one_that_leans_on_it_is_told(caplog):
    place, truth = cells()
    samples = find_samples(place, truth)
    with pytest.raises(ValueError, match="the label follows 'lane'"):
        require_no_batch(samples, truth + 3, "lane")
    with pytest.raises(ValueError, match="the label follows 'lane'"):
        require_no_batch(samples, 2 * truth + (place // 2) % 2, "lane")
    assert require_no_batch(samples, (place // 2) % 2, "lane") > 0.5
    leaning = np.where(place < 2, 1 - truth, truth)
    with caplog.at_level(logging.WARNING):
        assert require_no_batch(samples, leaning, "lane") < 0.05
    assert "The label depends on lane" in caplog.text
    assert np.isnan(require_no_batch(samples, np.zeros_like(place), "lane"))
    require_no_batch(samples, place, "donor")  # a batch a donor cannot be told apart, and says nothing


def test_samples_count_alike_in_the_space_and_types_leave_no_composition():
    rng = np.random.default_rng(0)
    place = np.repeat([0, 1], [200, 20])
    types = rng.integers(0, 2, 220)
    states = rng.normal(size=(220, 8)).astype(np.float32) + 5 * types[:, None]
    import torch

    space = SampleSpace(8, 3)
    space.fit(states, place)
    expected = (states[:200].mean(0) + states[200:].mean(0)) / 2
    np.testing.assert_allclose(space.center, expected, atol=1e-5)
    inside = SampleSpace(8, 3, 2)
    inside.fit(states, place, types)
    low = inside(torch.from_numpy(states), torch.from_numpy(types))
    for kind in range(2):
        np.testing.assert_allclose(low[types == kind].mean(0), 0, atol=1e-5)
    unknown = inside(torch.from_numpy(states), torch.full((220,), -1))
    np.testing.assert_allclose(unknown, space(torch.from_numpy(states)), atol=1e-5)
