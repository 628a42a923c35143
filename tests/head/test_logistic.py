"""The logistic regression that linear layers begin and end at."""

import numpy as np
import pytest
import torch
from torch import nn

from scfm.head.logistic import NEVER, logistic_regression, regress


def blobs(n_classes, n=120, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % n_classes
    return 4 * np.eye(n_classes, 8)[codes] + rng.normal(size=(n, 8)), codes


@pytest.mark.parametrize("n_classes", [2, 4])
def test_weights_and_biases_name_the_classes(n_classes):
    values, codes = blobs(n_classes)
    weight, bias = logistic_regression(values, codes, n_classes)
    new, truth = blobs(n_classes, seed=1)
    assert ((new @ weight.T + bias).argmax(1) == truth).mean() > 0.95


def test_two_classes_have_the_probabilities_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    values, codes = blobs(2)
    weight, bias = logistic_regression(values, codes, 2)
    scores = torch.from_numpy(values).float() @ torch.from_numpy(weight).T + torch.from_numpy(bias)
    scale = np.square(values).sum(1).mean()
    oracle = [
        LogisticRegression(C=c / scale, tol=1e-3, class_weight="balanced").fit(values, codes) for c in (3, 30, 300)
    ]
    errors = [np.abs(model.predict_proba(values) - scores.softmax(1).numpy()).max() for model in oracle]
    assert min(errors) < 1e-3


def test_a_class_without_cells_is_never_called():
    values, codes = blobs(3)
    weight, bias = logistic_regression(values, np.where(codes > 0, codes + 1, 0), 4)
    assert bias[1] == NEVER
    assert not weight[1].any()


def test_a_layer_learns_from_labelled_cells_alone_and_stays_where_there_is_nothing_to_tell_apart():
    values, codes = blobs(3)
    layer = nn.Linear(8, 3)
    before = layer.weight.detach().clone()
    regress(layer, values, np.where(codes == 1, 1, -1))
    torch.testing.assert_close(layer.weight.detach(), before)
    regress(layer, values, np.where(np.arange(len(codes)) < 60, codes, -1))
    found = layer(torch.from_numpy(values).float()).argmax(1).numpy()
    weight, bias = logistic_regression(values[:60], codes[:60], 3)
    assert (found == (values @ weight.T + bias).argmax(1)).all()
