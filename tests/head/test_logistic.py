"""The logistic regression that linear layers begin and end at."""

import numpy as np
import pytest
import torch
from torch import nn

from scfm.head.logistic import BALANCED, EITHER, NEVER, Penalty, choose_penalty, logistic_regression, regress


def blobs(n_classes, n=120, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % n_classes
    return 4 * np.eye(n_classes, 8)[codes] + rng.normal(size=(n, 8)), codes


@pytest.mark.parametrize("n_classes", [2, 4])
def test_weights_and_biases_name_the_classes(n_classes):
    values, codes = blobs(n_classes)
    weight, bias = logistic_regression(values, codes, n_classes, Penalty(30))
    new, truth = blobs(n_classes, seed=1)
    assert ((new @ weight.T + bias).argmax(1) == truth).mean() > 0.95


@pytest.mark.parametrize(("balance", "weights"), [(1, "balanced"), (0, None)])
def test_two_classes_have_the_probabilities_of_scikit_learn(balance, weights):
    from sklearn.linear_model import LogisticRegression

    values, codes = blobs(2)
    codes = np.where(np.arange(120) % 5, codes, 0)  # of unequal size
    weight, bias = logistic_regression(values, codes, 2, Penalty(3, balance))
    scores = torch.from_numpy(values).float() @ torch.from_numpy(weight).T + torch.from_numpy(bias)
    scale = np.square(values).sum(1).mean()
    oracle = LogisticRegression(C=3 / scale, tol=1e-3, class_weight=weights).fit(values, codes)
    np.testing.assert_allclose(oracle.predict_proba(values), scores.softmax(1).numpy(), atol=1e-3)


def test_the_penalty_is_that_which_names_held_out_cells_best():
    rng = np.random.default_rng(0)
    codes = (np.arange(400) % 40 == 0).astype(int)  # ten cells of a class that no value tells
    values = rng.normal(size=(400, 3))
    assert choose_penalty(values, codes, EITHER).balance == 0.5
    assert choose_penalty(values, codes, BALANCED) in BALANCED
    assert choose_penalty(values[:3], codes[:3], EITHER) == EITHER[0]


def test_a_class_without_cells_is_never_called():
    values, codes = blobs(3)
    weight, bias = logistic_regression(values, np.where(codes > 0, codes + 1, 0), 4, Penalty(30))
    assert bias[1] == NEVER
    assert not weight[1].any()


def test_a_layer_learns_from_labeled_cells_alone_and_stays_where_there_is_nothing_to_tell_apart():
    values, codes = blobs(3)
    layer = nn.Linear(8, 3)
    before = layer.weight.detach().clone()
    assert regress(layer, values, np.where(codes == 1, 1, -1)) is None
    torch.testing.assert_close(layer.weight.detach(), before)
    penalty = regress(layer, values, np.where(np.arange(len(codes)) < 60, codes, -1))
    found = layer(torch.from_numpy(values).float()).argmax(1).numpy()
    weight, bias = logistic_regression(values[:60], codes[:60], 3, penalty)
    assert (found == (values @ weight.T + bias).argmax(1)).all()
