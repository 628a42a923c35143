"""The start of a linear classifier, and a classifier that starts there."""

import numpy as np
import pytest
import torch

from scfm.head.annotation.classifier import Classifier
from scfm.head.annotation.logistic import NEVER, logistic_regression
from scfm.head.pool import embed
from scfm.head.survey import Survey
from scfm.types import Ragged


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


def survey_of(backbone, vocab, batch, codes):
    offsets = batch.boundaries.numpy().astype(np.int64)

    def tokens(places):
        rows = [batch.ids[offsets[i] : offsets[i + 1]].numpy() for i in places]
        return Ragged(np.concatenate(rows), np.concatenate([[0], np.cumsum([len(row) for row in rows])]))

    with torch.inference_mode():
        embedding = embed(backbone, batch, vocab).numpy().copy()
    n = len(codes)
    return Survey(np.arange(n), np.ones(n, dtype=bool), embedding, {"cell_type": codes}, tokens=tokens)


@pytest.mark.parametrize("genes", [0, 5])
def test_a_classifier_begins_with_what_a_probe_knows(genes, make_spec, make_batch, backbone):
    spec = make_spec()
    codes = np.arange(60) % 3
    survey = survey_of(backbone, spec.vocab, make_batch(codes), np.where(np.arange(60) % 2, codes, -1))
    head = Classifier(spec, label="cell_type", genes=genes)
    head.prepare(survey)
    new = make_batch(codes, seed=9)
    found = head.eval().predict(backbone, new)["logits"].argmax(1).numpy()
    assert (found == codes).mean() > 0.8
    plain = Classifier(spec, label="cell_type", genes=genes, probe=False)
    weight = plain.columns[0].layers[-1].weight.clone()
    plain.prepare(survey)
    torch.testing.assert_close(plain.columns[0].layers[-1].weight, weight)
