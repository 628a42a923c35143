import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from scfm.head.annotation.classifier import Classifier
from scfm.head.annotation.label_layer import class_weight
from scfm.head.annotation.pseudo import drop_tokens
from scfm.head.logistic import logistic_regression


def outputs_of(head, backbone, batch):
    return {name: value.numpy() for name, value in head.predict(backbone, batch).items()}


def train(head, backbone, make_batch, steps=60, missing=()):
    codes = np.arange(60) % 3
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], lr=0.02)
    for step in range(steps):
        loss = head(backbone, make_batch(codes, seed=step, missing=missing))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()


def test_loss_is_weighted_cross_entropy_of_labeled_cells(make_spec):
    head = Classifier(make_spec((6, 2, 4)), label="cell_type", dropout=0.0)
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.5, 1.5, -1.0], [0.0, 0.0, 0.0], [3.0, 1.0, 1.0]])
    truth = torch.tensor([0, 1, -1, 2])
    weight = 12 / (3 * np.array([6, 2, 4]))
    negative_log = -np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[[0, 1, 3], [0, 1, 2]].numpy()
    loss, n_labeled = head.columns[0].loss(logits, truth)
    assert loss.item() == pytest.approx((weight * negative_log).sum() / weight.sum(), rel=1e-6)
    assert n_labeled == 3


def test_weights_are_bounded_and_ignore_empty_classes():
    np.testing.assert_allclose(class_weight(np.array([1.0, 9999.0, 0.0])), [10.0, 0.5, 1.0], rtol=1e-3)


def test_a_batch_without_labels_has_zero_loss_and_gradients(make_spec, make_batch, backbone):
    head = Classifier(make_spec(), label="cell_type")
    metrics = head(backbone, make_batch([0, 1], missing=[0, 1]))
    metrics["loss"].backward()
    assert metrics["loss"] == 0
    assert metrics["n_targets"] == 0
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_learns_saves_loads_and_names_new_cells(make_spec, make_batch, backbone):
    spec = make_spec()
    head = train(Classifier(spec, label="cell_type", hidden=8), backbone, make_batch)
    batch = make_batch([0, 1, 2, 2, 1, 0] * 10, seed=999)
    outputs = outputs_of(head, backbone, batch)
    targets = {"cell_type": batch.obs["cell_type"].numpy()}
    assert head.summarize(outputs, targets)["macro_f1"] > 0.9
    head.calibrate(outputs, targets)
    again = Classifier(spec, label="cell_type", hidden=8).eval()
    again.load_state_dict(head.state_dict())
    first, second = head.write(outputs).obs, again.write(outputs_of(again, backbone, batch)).obs
    for name in ("scfm_cell_type", "scfm_cell_type_confidence"):
        np.testing.assert_array_equal(first[name], second[name])
    named = first["scfm_cell_type"] != "unknown"
    assert 0.8 < named.mean() < 1
    assert (
        first["scfm_cell_type"][named] == np.array(spec.classes["cell_type"])[targets["cell_type"]][named]
    ).mean() > 0.9


def test_before_calibration_nothing_is_unknown(make_spec, make_batch, backbone):
    head = Classifier(make_spec(), label="cell_type").eval()
    assert "unknown" not in head.write(outputs_of(head, backbone, make_batch([0, 1, 2]))).obs["scfm_cell_type"]


def test_predictions_of_a_cell_do_not_depend_on_its_neighbors(make_spec, make_batch, backbone):
    head = Classifier(make_spec(), label="cell_type").eval()
    together = outputs_of(head, backbone, make_batch([0, 1, 2], seed=5))["logits"]
    alone = outputs_of(head, backbone, make_batch([0], seed=5))["logits"]
    np.testing.assert_allclose(together[:1], alone, atol=1e-6)


def test_several_columns_at_once(make_spec, make_batch, backbone):
    spec = make_spec(classes={"tissue": ("gut", "lung")}, class_counts={"tissue": np.array([5, 5])})
    head = Classifier(spec, label=["cell_type", "tissue"], dropout=0.0, class_weights=False).eval()
    batch = make_batch([0, 1, 2])
    batch.obs["tissue"] = torch.tensor([0, 1, -1])
    metrics = head(backbone, batch)
    outputs = outputs_of(head, backbone, batch)
    parts = [
        torch.nn.functional.cross_entropy(torch.from_numpy(outputs[name]), batch.obs[label], ignore_index=-1)
        for name, label in (("logits", "cell_type"), ("logits/tissue", "tissue"))
    ]
    assert metrics["loss"].item() == pytest.approx(sum(parts).item(), rel=1e-6)
    assert "accuracy/tissue" in metrics
    ends = ("", "_guess", "_confidence", "_novelty")
    assert set(head.write(outputs).obs) == {f"scfm_{label}{end}" for label in head.labels for end in ends}
    assert "macro_f1/tissue" in head.summarize(outputs, {name: codes.numpy() for name, codes in batch.obs.items()})


def test_pseudo_labels_use_only_sure_unlabeled_cells(make_spec, make_batch, backbone):
    head = Classifier(
        make_spec(), label="cell_type", pseudo_weight=1.0, pseudo_confidence=0.0, token_drop=0.0, dropout=0.0
    )
    batch = make_batch([0, 1, 2, 0], missing=[1, 3])
    logits = torch.from_numpy(outputs_of(head, backbone, batch)["logits"])[[1, 3]]
    metrics = head(backbone, batch)
    assert metrics["n_pseudo"] == 2
    expected = torch.nn.functional.cross_entropy(logits, logits.argmax(1))  # no token dropped: the view is the cell
    assert metrics["pseudo_loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    head.pseudo_confidence = 0.9999
    assert head(backbone, batch)["n_pseudo"] == 0
    assert "pseudo_loss" not in head.eval()(backbone, batch)


def test_thinner_cells_keep_their_first_token_and_order(make_batch):
    batch = make_batch([0, 1, 2, 1], seed=3)
    batch = batch.with_token_field("counts", batch.ids.float())
    view = drop_tokens(batch, torch.tensor([True, False, True, True]), 0.5)
    assert view.n_cells == 3
    assert view.boundaries[-1] == view.n_tokens == len(view.positions)
    assert view.longest == view.lengths.max()
    assert torch.equal(view.counts, view.ids.float())
    for new, old in enumerate((0, 2, 3)):
        whole = batch.ids[batch.boundaries[old] : batch.boundaries[old + 1]].tolist()
        part = view.ids[view.boundaries[new] : view.boundaries[new + 1]].tolist()
        assert part[0] == whole[0]
        assert part == [token for token in whole if token in part]
        own = slice(int(view.boundaries[new]), int(view.boundaries[new + 1]))
        assert view.positions[own].tolist() == list(range(len(part)))


@pytest.mark.parametrize(
    ("counts", "label", "words"),
    [
        (
            (5, 5),
            "celltype",
            "head.label='celltype' is not a categorical obs column.*did you mean 'cell_type'",
        ),
        ((5,), "cell_type", "only 'type 0' as class"),
        ((0, 0), "cell_type", "missing in all"),
        ((5, 0), "cell_type", "all labeled training cells have cell_type='type 0'"),
    ],
)
def test_refuses_what_cannot_be_learned(make_spec, counts, label, words):
    with pytest.raises(ValueError, match=words):
        Classifier(make_spec(counts), label=label)


def test_warns_of_a_class_with_one_cell(make_spec, caplog):
    with caplog.at_level(logging.WARNING):
        Classifier(make_spec((5, 1, 0)), label="cell_type")
    assert "one training cell: rarely learned (type 1)" in caplog.text
    assert "no training cell: never predicted (type 2)" in caplog.text


@pytest.mark.parametrize("wrong", [{"dropout": 1.5}, {"reject": -0.1}, {"label": []}, {"label": ["cell_type"] * 2}])
def test_refuses_numbers_out_of_range(make_spec, wrong):
    with pytest.raises(ValueError, match=f"head.{next(iter(wrong))}="):
        Classifier(make_spec(), **{"label": "cell_type", **wrong})


def test_ends_at_the_logistic_regression_of_the_cells_it_is_given(make_spec, make_batch, backbone):
    head, batch = (
        Classifier(make_spec(), label="cell_type", gene_components=0).eval(),
        make_batch(np.arange(60) % 3, missing=[1]),
    )
    outputs = outputs_of(head, backbone, batch)
    truth = batch.obs["cell_type"].numpy()
    head.refit(outputs, {"cell_type": truth})
    penalty = head.columns[0].penalty
    weight, bias = logistic_regression(outputs["state"][truth >= 0], truth[truth >= 0], 3, penalty)
    np.testing.assert_allclose(
        outputs_of(head, backbone, batch)["logits"], outputs["state"] @ weight.T + bias, atol=1e-4
    )
    head.refit({"state": outputs["state"][:30]}, {"cell_type": truth[:30]})
    assert head.columns[0].penalty == penalty, "scores are no longer on the scale of the calibration"


@pytest.mark.parametrize("options", [{"probe": False}, {"hidden": 8}, {"pseudo_weight": 0.5}])
def test_what_no_logistic_regression_can_replace_stays_as_trained(options, make_spec, make_batch, backbone):
    head, batch = Classifier(make_spec(), label="cell_type", **options).eval(), make_batch([0, 1, 2] * 5)
    before = outputs_of(head, backbone, batch)
    head.refit(before, {"cell_type": batch.obs["cell_type"].numpy()})
    np.testing.assert_array_equal(outputs_of(head, backbone, batch)["logits"], before["logits"])


def test_a_class_that_is_called_unknown_is_warned_of(make_spec, caplog):
    spec = replace(make_spec(), classes={"cell_type": ("T", "unknown", "B")})
    Classifier(spec, label="cell_type")
    assert "cell_type has a class 'unknown'" in caplog.text
    assert "rename the class" in caplog.text
