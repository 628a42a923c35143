"""Log-linear profiles: the fit is a stationary point, genes without signal keep their means."""

import numpy as np
import pytest
import torch

from scfm.head.imputation.profiles import Thinned, find_centers, fit_profiles, fit_weight, gene_shares, make_landmarks


def made(n=300, genes=30, signal=1.0, seed=0):
    """Molecules whose shares follow a state of two numbers in the first ten genes."""
    rng = np.random.default_rng(seed)
    state, truth = rng.normal(size=(n, 2)), np.zeros((2, genes))
    truth[:, :10] = signal * rng.normal(size=(2, 10))
    score = rng.normal(size=genes) - 2 * (np.arange(genes) < 10) + state @ truth
    shares = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    copies = [Thinned(state, rng.poisson(200 * shares).astype(np.float32)) for _ in range(2)]
    means = sum(copy.hidden.sum(axis=0) for copy in copies).astype(np.float64)
    return copies, means / means.sum()


def test_the_gradient_of_the_fit_is_0():
    copies, means = made()
    landmarks = make_landmarks(copies, means, *find_centers(copies, 0))

    def gradient(weight):
        found = 2 * 10.0 * weight
        for copy in copies:
            score = landmarks.scores(torch.from_numpy(copy.state)).double().numpy() + copy.state @ weight
            shares = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
            found += copy.state.T @ (copy.hidden.sum(axis=1, keepdims=True) * shares - copy.hidden)
        return np.abs(found).max()

    weight = fit_weight(copies, landmarks, 10.0)
    for _ in range(4):
        weight = fit_weight(copies, landmarks, 10.0, weight)
    assert gradient(weight) < 0.01 * gradient(np.zeros_like(weight))


def test_genes_with_a_signal_are_told_and_others_have_no_weight():
    copies, means = made(signal=1.5)
    fit = fit_profiles(copies, means, 2.0, None)
    assert fit.told[:10].mean() >= 0.7
    # the others are shares: where some genes rise, these fall, and are told too
    assert (fit.weight[:, ~fit.told] == 0).all()
    assert fit.d2 > 0.01


def test_landmarks_mix_the_profiles_of_groups_by_distance():
    copies = [Thinned(np.repeat([[0.0], [9.0]], 30, axis=0), np.repeat([[8.0, 0.0], [0.0, 8.0]], 30, axis=0))]
    means = np.array([0.5, 0.5])
    landmarks = make_landmarks(copies, means, np.array([[0.0], [9.0]]), 1.0)
    shares = landmarks.scores(torch.tensor([[0.0], [9.0], [4.5]])).exp()
    own = (240 + 10) / 260  # twenty molecules of the mean beside 240 of its own
    torch.testing.assert_close(shares, torch.tensor([[own, 1 - own], [1 - own, own], [0.5, 0.5]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_without_a_signal_hardly_a_gene_is_told(seed):
    copies, means = made(signal=0.0, genes=60, seed=seed)
    fit = fit_profiles(copies, means, 2.0, None)
    assert fit.told.mean() <= 0.1
    assert fit.d2 < 0.01


def test_too_few_cells_to_choose_by_get_means():
    copies, means = made(n=6)
    fit = fit_profiles(copies, means, 2.0, None)
    assert not fit.told.any()
    assert not fit.weight.any()


def test_shares_by_hand():
    means, told = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([True, False, True])
    scores = torch.tensor([[0.0, 9.0, 1.0986123], [0.0, -9.0, 0.0]])
    expected = torch.tensor([[0.7 / 4, 0.3, 0.7 * 3 / 4], [0.35, 0.3, 0.35]])
    torch.testing.assert_close(gene_shares(scores, means, told), expected)
    torch.testing.assert_close(gene_shares(scores, means, torch.zeros(3, dtype=torch.bool)), means.expand(2, 3))
