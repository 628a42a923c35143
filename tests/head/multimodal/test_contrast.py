"""The contrast, its start and its targets, by hand and against numpy."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import TruncatedSVD

from scfm.head.multimodal.contrast import (
    SHRINKAGES,
    canonical_directions,
    choose_start,
    contrast_loss,
    soft_targets,
)
from scfm.head.multimodal.towers import PanelValues, PeakComponents, Projection


def test_the_loss_by_hand():
    one, other = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    loss = contrast_loss(one, other, torch.tensor(0.5), torch.eye(2))  # S / τ = [[2, 2], [0, 0]]
    by_row = np.log(2)
    by_column = (np.log(1 + np.exp(-2)) + np.log(1 + np.exp(2))) / 2
    assert loss.item() == pytest.approx((by_row + by_column) / 2, rel=1e-6)


def test_soft_targets():
    reference = torch.tensor([[1.0, 0.0], [0.999, 0.01], [0.0, 1.0], [0.01, 0.999]])
    targets = soft_targets(reference, 0.2, n_neighbors=1)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))
    torch.testing.assert_close(targets.diagonal(), torch.full((4,), 0.8))
    assert targets[0, 1] == pytest.approx(0.2)
    assert targets[2, 3] == pytest.approx(0.2)
    assert torch.equal(soft_targets(reference, 0.0), torch.eye(4))
    assert torch.equal(soft_targets(reference[:1], 0.2), torch.eye(1))


def test_canonical_correlation_finds_what_is_shared():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(2000, 2)) * [1.0, 2.0]
    one = np.hstack([shared, rng.normal(size=(2000, 3)) * 5]) @ rng.normal(size=(5, 5)) + 3
    other = np.hstack([rng.normal(size=(2000, 2)) * 9, shared[:, ::-1] + 0.1 * rng.normal(size=(2000, 2))])
    left, right, weights = canonical_directions(one, other, 10, 0.0)
    assert left.shape == (5, 4)
    assert right.shape == (4, 4)
    assert weights[:2].min() > 0.98
    assert weights[2:].max() < 0.1
    found = [np.corrcoef((one @ left)[:, i], (other @ right)[:, i])[0, 1] for i in range(4)]
    np.testing.assert_allclose(found, weights, atol=1e-6)
    assert canonical_directions(one, other, 3, 1.0)[2][0] < weights[0], "shrinkage lowers correlations"


def test_a_block_of_noise_is_not_read_at_the_start():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(240, 3))
    one = np.hstack([rng.normal(size=(240, 40)) * 3, shared])
    other = np.hstack([shared + 0.3 * rng.normal(size=(240, 3)), rng.normal(size=(240, 5))])
    read, shrinkage = choose_start(one, other, (40, 3), 4)
    assert read.tolist() == [False] * 40 + [True] * 3
    assert shrinkage in SHRINKAGES
    read, shrinkage = choose_start(one[:5], other[:5], (40, 3), 4)
    assert read.all(), "too few cells for folds"
    assert shrinkage == SHRINKAGES[-1]


def test_peaks_are_latent_semantic_components():
    rng = np.random.default_rng(0)
    dense = rng.random((150, 40)) < np.where(np.arange(150)[:, None] < 75, 0.2, 0.5)
    dense[:, 39] = False
    width = int(dense.sum(axis=1).max())
    peaks = np.full((150, width), -1)
    for cell, row in enumerate(dense):
        peaks[cell, : row.sum()] = np.flatnonzero(row)
    reader = PeakComponents(40, 5)
    reader.fit(peaks)
    found, known = reader(torch.from_numpy(peaks))
    assert known.all()
    idf = np.log1p(150 / dense.sum(axis=0).clip(min=1)) * dense.any(axis=0)
    x = np.where(dense, np.log1p(1e4 * idf / dense.sum(axis=1, keepdims=True)), 0)
    oracle = TruncatedSVD(6, algorithm="arpack", random_state=0).fit_transform(x)[:, 1:]
    oracle -= oracle.mean(axis=0)
    correlations = [abs(np.corrcoef(found[:, i], oracle[:, i])[0, 1]) for i in range(3)]
    assert min(correlations) > 0.98
    assert float((found**2).mean()) == pytest.approx(1, abs=0.01)
    bare = torch.full((2, 3), -1)
    bare[0, 0] = 39
    assert not reader(bare)[1].any(), "no open peak, or none that is read"
    torch.testing.assert_close(reader(torch.from_numpy(np.pad(peaks, ((0, 0), (0, 4)), constant_values=-1)))[0], found)
    with pytest.raises(ValueError, match="no peak is open in 1%"):
        PeakComponents(40, 5).fit(np.full((150, 1), -1))


def test_proteins_that_were_not_measured_are_average():
    values = np.random.default_rng(0).poisson(9, (40, 3)).astype(np.float32)
    values[:5] = np.nan
    values[5:9, 1] = np.nan
    reader = PanelValues(3)
    reader.fit(values)
    found, known = reader(torch.from_numpy(values))
    assert known.tolist() == [False] * 5 + [True] * 35
    assert not found[:5].any()
    assert not found[5:9, 1].any()


def test_a_projection_begins_at_its_directions():
    tower = Projection(6, 4, hidden=5, dropout=0.0).eval()
    rng = np.random.default_rng(0)
    directions, center, x = rng.normal(size=(6, 3)), rng.normal(size=6), rng.normal(size=(10, 6))
    tower.begin(directions, center)
    expected = (x - center) @ directions
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = tower(torch.from_numpy(x.astype(np.float32))).detach().numpy()
    np.testing.assert_allclose(found[:, :3], expected, atol=1e-5)
    assert not found[:, 3].any()
