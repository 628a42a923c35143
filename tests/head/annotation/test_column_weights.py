"""Weights of label columns in the loss: fixed ones, and those learned by uncertainty."""

import pytest
import torch

from scfm.head.annotation.classifier import Classifier
from scfm.head.annotation.column_weights import ColumnWeights

LOSSES = [torch.tensor(0.5), torch.tensor(2.0), torch.tensor(0.0)]
COUNTS = [torch.tensor(3), torch.tensor(1), torch.tensor(0)]


def test_fixed_weights_multiply_and_are_no_parameters():
    weights = ColumnWeights("abc", [1.0, 0.25, 7.0])
    assert weights(LOSSES, COUNTS).item() == pytest.approx(1.0)
    assert ColumnWeights("abc", None)(LOSSES, COUNTS).item() == 2.5
    assert not weights.state_dict()
    assert weights.metrics("abc") == {}


def test_learned_weights_begin_at_one_and_end_at_one_over_the_loss():
    weights = ColumnWeights("abc", "learned")
    assert weights(LOSSES, COUNTS).item() == 2.5
    optimizer = torch.optim.SGD(weights.parameters(), lr=0.2)
    for _ in range(300):
        optimizer.zero_grad()
        weights(LOSSES, COUNTS).backward()
        assert weights.log_variance.grad[2] == 0, "a column without labeled cells in the batch has no say"
        optimizer.step()
    found = weights.metrics("abc")
    assert found["weight/a"].item() == pytest.approx(1 / 0.5, rel=1e-4)
    assert found["weight/b"].item() == pytest.approx(1 / 2.0, rel=1e-4)
    assert found["weight/c"].item() == 1


def test_the_gradient_of_a_column_is_scaled_by_its_weight():
    weights = ColumnWeights("ab", "learned")
    with torch.no_grad():
        weights.log_variance.copy_(torch.tensor([0.0, 1.0]))
    losses = [torch.tensor(1.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)]
    weights(losses, COUNTS[:2]).backward()
    assert losses[0].grad.item() == pytest.approx(1.0)
    assert losses[1].grad.item() == pytest.approx(torch.exp(torch.tensor(-1.0)).item())


@pytest.mark.parametrize(
    ("labels", "weights", "message"),
    [
        (["a"], "learned", "weighs several columns"),
        (["a", "b"], [1.0], "expected a number, 0 or more, for each of"),
        (["a", "b"], [1.0, -1.0], "expected a number, 0 or more"),
        (["a", "b"], [1.0, float("inf")], "or learned"),
    ],
)
def test_refusals(labels, weights, message):
    with pytest.raises(ValueError, match=message):
        ColumnWeights(labels, weights)


def test_a_classifier_without_learned_weights_has_the_tensors_it_always_had(make_spec):
    fixed, learned = (
        Classifier(
            make_spec(classes={"tissue": ("gut", "lung")}, class_counts={"tissue": [5, 5]}),
            label=["cell_type", "tissue"], gene_components=0, weights=weights,
        )
        for weights in (None, "learned")
    )  # fmt: skip
    assert set(learned.state_dict()) - set(fixed.state_dict()) == {"weights.log_variance"}
