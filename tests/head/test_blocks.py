"""Blocks of a state: a penalty for each is a factor of its columns; what knows nothing does no harm."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from scfm.head.block_regression import BlockRegression
from scfm.head.blocks import (
    FOLDS,
    MAX_CELLS,
    cell_folds,
    class_log_likelihood,
    column_scales,
    is_gain,
    weigh_blocks,
)
from scfm.head.logistic import BALANCED, EITHER, Penalty, choose_penalty, logistic_regression


def made_blocks(n=240, signal=0, seed=0, noise=(40, 10), n_classes=3):
    """Blocks of noise, of which one knows the class of each cell."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, n_classes, n)
    blocks = [rng.normal(size=(n, width)) for width in noise]
    if signal is not None:
        blocks[signal][:, :n_classes] += 2.5 * np.eye(n_classes)[codes]
    return np.hstack(blocks), codes, noise


def accuracy(values, codes, blocks, penalty, test):
    weight, bias = logistic_regression(values[~test], codes[~test], codes.max() + 1, penalty, blocks)
    return float(((values @ weight.T + bias).argmax(1) == codes)[test].mean())


def test_a_block_penalty_is_that_of_scaled_columns_in_scikit_learn():
    values, codes, blocks = made_blocks(signal=1)
    penalty = Penalty(3.0, 1.0, (0.3, 2.0))
    weight, bias = logistic_regression(values, codes, 3, penalty, blocks)
    columns = np.repeat([0.3, 2.0], blocks)
    scaled = values * columns
    oracle = LogisticRegression(
        C=3.0 / np.square(scaled).sum(1).mean(), class_weight="balanced", max_iter=300, tol=1e-3
    ).fit(scaled, codes)
    np.testing.assert_allclose(weight, oracle.coef_ * columns, atol=1e-5)
    np.testing.assert_allclose(bias, oracle.intercept_, atol=1e-5)


def test_scaled_columns_have_the_optimum_of_separate_penalties():
    """Σ_i CE_i + Σ_b λ/s_b² ‖W_b‖²/2 has no slope at the weights that are found."""
    values, codes, blocks = made_blocks(signal=1, noise=(6, 5))
    scales, c = (0.5, 1.5), 1.0
    columns = np.repeat(scales, blocks)
    model = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(values * columns, codes)
    weight = torch.tensor(model.coef_ * columns, requires_grad=True)
    logits = torch.from_numpy(values) @ weight.T + torch.from_numpy(model.intercept_)
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(codes), reduction="sum")
    loss = loss + (weight.square() / torch.from_numpy(columns).square()).sum() / (2 * c)
    loss.backward()
    assert weight.grad.abs().max() < 1e-3


@pytest.mark.parametrize("n_classes", [2, 4])
def test_a_block_that_is_left_out_has_weights_of_zero_and_the_rest_is_as_if_it_were_not_there(n_classes):
    values, codes, blocks = made_blocks(signal=1, n_classes=n_classes)
    weight, bias = logistic_regression(values, codes, n_classes, Penalty(3.0, 1.0, (0.0, 1.0)), blocks)
    alone, bias_alone = logistic_regression(values[:, blocks[0] :], codes, n_classes, Penalty(3.0))
    assert not weight[:, : blocks[0]].any()
    np.testing.assert_array_equal(weight[:, blocks[0] :], alone)
    np.testing.assert_array_equal(bias, bias_alone)


@pytest.mark.parametrize("seed", range(3))
def test_a_backbone_of_noise_is_left_out_and_costs_no_accuracy(seed):
    values, codes, blocks = made_blocks(n=360, signal=1, seed=seed, noise=(120, 10))
    test = np.arange(360) % 3 == 0
    penalty = choose_penalty(values[~test], codes[~test], EITHER, blocks)
    assert penalty.scales[0] == 0
    without = choose_penalty(values[~test][:, 120:], codes[~test], EITHER)
    alone = accuracy(values[:, 120:], codes, (10,), without, test)
    pooled = accuracy(values, codes, blocks, choose_penalty(values[~test], codes[~test], EITHER), test)
    found = accuracy(values, codes, blocks, penalty, test)
    chance = np.sqrt(alone * (1 - alone) / test.sum())
    assert found >= alone - chance
    assert found >= pooled


def test_a_block_of_noise_among_components_does_no_harm_either():
    values, codes, blocks = made_blocks(n=360, signal=2, noise=(20, 120, 10))
    test = np.arange(360) % 3 == 0
    penalty = choose_penalty(values[~test], codes[~test], EITHER, blocks)
    assert penalty.scales[0] == penalty.scales[1] == 0 < penalty.scales[2]


@pytest.mark.parametrize("signal", [0, 1])
def test_a_block_of_signal_is_used(signal):
    values, codes, blocks = made_blocks(signal=signal, noise=(10, 40))
    penalty = choose_penalty(values, codes, BALANCED, blocks)
    assert penalty.scales[signal] > 0
    test = np.arange(len(codes)) % 3 == 0
    assert accuracy(values, codes, blocks, penalty, test) > 0.85


def test_a_backbone_that_adds_to_the_components_is_kept():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, 400)
    deep, wide = rng.normal(size=(400, 20)), rng.normal(size=(400, 10))
    deep[:, 0] += 4 * (codes % 2)
    wide[:, 0] += 4 * (codes // 2)
    penalty = choose_penalty(np.hstack([deep, wide]), codes, EITHER, (20, 10))
    assert min(penalty.scales) > 0


def test_weights_are_the_best_of_the_scores_and_the_first_block_needs_a_standard_error():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=100)

    def score(gain):
        return lambda scales: gain * scales[0] * (1 + noise) + 0.5 * scales[1]

    assert weigh_blocks(score(1.0), 2) == (1.0, 1.0)
    assert weigh_blocks(score(-1.0), 2) == (0.0, 1.0)
    unsure = noise - noise.mean() + 0.05
    assert not is_gain(unsure)
    assert weigh_blocks(lambda scales: scales[0] * unsure + scales[1], 2) == (0.0, 1.0)
    assert weigh_blocks(lambda scales: -np.ones(10) * sum(scales), 2) != (0.0, 0.0)


def test_groups_stay_together_and_large_sets_are_drawn_from():
    codes, groups = np.arange(200) % 3, np.arange(200) // 20
    folds = cell_folds(codes, groups)
    assert len(folds) == FOLDS
    assert all(not set(groups[kept]) & set(groups[held]) for kept, held in folds)
    np.testing.assert_array_equal(np.sort(np.concatenate([held for _, held in folds])), np.arange(200))
    few = cell_folds(codes, np.arange(200) // 100)  # two groups: cells are divided
    assert len(few) == FOLDS
    many = cell_folds(np.arange(3 * MAX_CELLS) % 3)
    assert sum(len(held) for _, held in many) == MAX_CELLS
    assert cell_folds(codes[:3]) == []
    assert cell_folds(np.zeros(50, dtype=int)) == []
    owned = cell_folds(np.repeat([0, 1], 40), np.repeat(np.arange(4), 20))
    assert len(owned) == FOLDS  # a fold of donors leaves both classes


def test_a_class_that_a_fold_did_not_see_has_the_least_probability():
    found = class_log_likelihood(np.array([0, 2]), np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]), np.array([0, 1, 2]))
    np.testing.assert_allclose(found, np.log([0.9, 1e-6, 0.5]))


def test_factors_of_other_blocks_are_a_fault():
    np.testing.assert_array_equal(column_scales((), (), 3), np.ones(3))
    with pytest.raises(AssertionError):
        column_scales((1.0,), (2, 1), 3)


class TestBlockRegression:
    def test_the_choice_is_saved_and_kept(self):
        values, codes, blocks = made_blocks(signal=1)
        layer, one = nn.Linear(50, 3), BlockRegression(blocks, EITHER)
        assert one.penalty is None
        one.regress(layer, values, codes)
        chosen = one.penalty
        assert chosen == choose_penalty(values, codes, EITHER, blocks)
        two = BlockRegression(blocks, EITHER)
        two.load_state_dict(one.state_dict())
        rng = np.random.default_rng(1)
        other = rng.permuted(values, axis=0)  # on which another would be chosen
        two.regress(layer, other, codes)
        assert two.penalty == chosen

    def test_a_checkpoint_of_before_has_no_choice(self):
        fresh = BlockRegression((4, 2), EITHER)
        fresh.chosen.fill_(1.0)
        fresh.load_state_dict({}, strict=True)
        assert fresh.penalty is None

    def test_one_class_leaves_the_layer(self):
        layer = nn.Linear(50, 3)
        before = layer.weight.detach().clone()
        one = BlockRegression((40, 10), EITHER)
        one.regress(layer, made_blocks()[0], np.where(np.arange(240) % 2, 1, -1))
        torch.testing.assert_close(layer.weight.detach(), before)
        assert one.penalty is None

    @pytest.mark.parametrize("useful", [True, False])
    def test_a_fine_tuned_backbone_comes_back_only_where_cells_that_it_has_not_seen_say_so(self, useful):
        values, codes, blocks = made_blocks(n=400, signal=1, seed=3)
        values[:, 40:43] -= 1.5 * np.eye(3)[codes]  # components that know a little
        trained = np.arange(400) < 300
        one = BlockRegression(blocks, BALANCED)
        one.chosen.copy_(torch.tensor([3.0, 1.0, 0.0, 1.0]))
        learned = np.ones(400, dtype=bool) if useful else trained  # overfitted: it knows the cells it has seen
        values[learned, :3] += 3 * np.eye(3)[codes[learned]]
        layer = nn.Linear(50, 3)
        one.regress(layer, values, codes, trained=trained)
        assert (one.penalty.scales[0] > 0) == useful
        assert bool(layer.weight[:, :40].any()) == useful

    def test_without_cells_that_training_has_not_seen_nothing_is_chosen_again(self):
        values, codes, blocks = made_blocks(signal=0)
        one = BlockRegression(blocks, BALANCED)
        one.chosen.copy_(torch.tensor([3.0, 1.0, 0.0, 1.0]))
        one.regress(nn.Linear(50, 3), values, codes, trained=np.ones(240, dtype=bool))
        assert one.penalty.scales == (0.0, 1.0)
