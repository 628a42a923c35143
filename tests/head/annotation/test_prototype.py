import numpy as np
import pytest
import torch

from scfm.head.annotation.prototype import Prototype


def outputs_of(head, backbone, batch):
    return {name: value.numpy() for name, value in head.predict(backbone, batch).items()}


@pytest.fixture
def trained(make_spec, make_batch, backbone):
    """A head that knows the types 0 and 1 of three; type 2 was never labeled."""
    torch.manual_seed(0)
    head = Prototype(make_spec((30, 30, 0)), label="cell_type", width=8, dropout=0.0)
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], lr=0.02)
    codes = np.arange(60) % 2
    for step in range(60):
        loss = head(backbone, make_batch(codes, seed=step))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()


def test_loss_against_the_formula(make_spec, make_batch, backbone):
    head = Prototype(
        make_spec((2, 2)), label="cell_type", gene_components=0, width=0, dropout=0.0, class_weights=False, pull=0.5
    ).eval()
    batch = make_batch([0, 1, 1, 0], missing=[3])
    head.prototypes.means.copy_(torch.randn(2, 16))
    z = outputs_of(head, backbone, batch)["position"][:3]
    distance = np.linalg.norm(z[:, None] - head.prototypes.means.numpy()[None], axis=2)
    logits, own = -distance / (0.5 * 4), np.array([0, 1, 1])
    cross = -(logits[range(3), own] - np.log(np.exp(logits).sum(1))).mean()
    pull = distance[0, 0] / 1 + (distance[1, 1] + distance[2, 1]) / 2
    assert head(backbone, batch)["loss"].item() == pytest.approx(cross + 0.5 * pull, rel=1e-5)


def test_prototypes_are_running_means_and_consolidate_to_exact_ones(make_spec, make_batch, backbone):
    head = Prototype(make_spec((2, 2)), label="cell_type", gene_components=0, width=0, dropout=0.0, momentum=0.75)
    batches = [make_batch([0, 0, 1], seed=seed) for seed in (1, 2)]
    for batch in batches:
        head(backbone, batch)
    z = [outputs_of(head, backbone, batch)["position"] for batch in batches]
    np.testing.assert_allclose(head.prototypes.means[0], 0.75 * z[0][:2].mean(0) + 0.25 * z[1][:2].mean(0), atol=1e-6)
    head.update({"position": np.concatenate(z)}, {"cell_type": np.array([0, 0, 1, 0, 0, 1])})
    np.testing.assert_allclose(head.prototypes.means[0], np.concatenate([z[0][:2], z[1][:2]]).mean(0), atol=1e-6)


def test_evaluation_moves_no_prototype(trained, make_batch, backbone):
    before = trained.prototypes.means.clone()
    trained(backbone, make_batch([0, 1]))
    torch.testing.assert_close(trained.prototypes.means, before, equal_nan=True)


def test_a_type_never_met_is_novel_and_then_added_without_training(trained, make_batch, backbone):
    held_out = make_batch(np.arange(80) % 2, seed=500)
    trained.calibrate(outputs_of(trained, backbone, held_out), {"cell_type": held_out.obs["cell_type"].numpy()})
    codes = np.arange(90) % 3
    outputs = outputs_of(trained, backbone, make_batch(codes, seed=501))
    found = trained.write(outputs).obs
    novelty = found["scfm_cell_type_novelty"]
    assert np.median(novelty[codes == 2]) > 1 > np.median(novelty[codes < 2])
    assert "type 2" not in found["scfm_cell_type"]
    trained.add_class("new", outputs["position"][codes == 2][:10])
    again = trained.write(outputs_of(trained, backbone, make_batch(codes, seed=502))).obs["scfm_cell_type"]
    assert (again[codes == 2] == "new").mean() > 0.6
    assert (again[codes == 0] == "type 0").mean() > 0.6


def test_saves_and_loads_strictly(trained, make_spec, make_batch, backbone):
    again = Prototype(make_spec((30, 30, 0)), label="cell_type", width=8).eval()
    again.load_state_dict(trained.state_dict())
    batch = make_batch([0, 1, 0])
    for name, values in outputs_of(trained, backbone, batch).items():
        np.testing.assert_array_equal(outputs_of(again, backbone, batch)[name], values)


def test_learns(trained, make_batch, backbone):
    batch = make_batch(np.arange(60) % 2, seed=700)
    targets = {"cell_type": batch.obs["cell_type"].numpy()}
    assert trained.summarize(outputs_of(trained, backbone, batch), targets)["accuracy"] > 0.9


def test_without_labels_in_the_batch_the_loss_is_zero_with_gradients(make_spec, make_batch, backbone):
    head = Prototype(make_spec((2, 2)), label="cell_type")
    metrics = head(backbone, make_batch([0, 1], missing=[0, 1]))
    metrics["loss"].backward()
    assert metrics["loss"] == 0
    assert metrics["n_targets"] == 0


def test_refusals(make_spec):
    with pytest.raises(ValueError, match="is not a categorical obs column"):
        Prototype(make_spec(), label="tissue")
    with pytest.raises(ValueError, match="head.momentum=1"):
        Prototype(make_spec(), label="cell_type", momentum=1)
    with pytest.raises(ValueError, match="head.temperature=0"):
        Prototype(make_spec(), label="cell_type", temperature=0)
    head = Prototype(make_spec(), label="cell_type")
    with pytest.raises(ValueError, match="exists already"):
        head.add_class("type 0", np.zeros((1, 64)))
    with pytest.raises(ValueError, match="has no cell"):
        head.add_class("new", np.zeros((0, 64)))
