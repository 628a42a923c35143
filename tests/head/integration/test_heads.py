"""Every integration head trains, saves, loads, projects; and refuses what it cannot use."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from scfm.head.integration.adversarial import Adversarial, reverse_gradient
from scfm.head.integration.batch_token import BatchToken, add_vectors
from scfm.head.integration.batch_token_prototype import BatchTokenPrototype, class_spread
from scfm.head.integration.check import check_batches, warn_confounded
from scfm.head.integration.cond_decoder import CondDecoder
from scfm.head.integration.contrastive_sampler import ContrastiveSampler
from scfm.head.integration.distill import Distill, agreement_loss
from scfm.head.integration.triplet import Triplet
from scfm.types import Spec

SMALL = {"batch_key": "batch", "width": 8, "hidden": 16}
MAKERS = {
    "hcl": lambda spec: ContrastiveSampler(spec, **SMALL, gene_components=8),
    "knn": lambda spec: ContrastiveSampler(spec, **SMALL, gene_components=8, mode="knn", neighbors=5),
    "batch_token": lambda spec: BatchToken(spec, **SMALL, gene_components=8),
    "batch_token_prototype": lambda spec: BatchTokenPrototype(spec, **SMALL, gene_components=8, label="cell_type"),
    "triplet": lambda spec: Triplet(spec, **SMALL, neighbors=8, gene_components=8),
    "triplet_label": lambda spec: Triplet(
        spec, **SMALL, neighbors=8, gene_components=8, label="cell_type", neighbor_weight=0.0
    ),
    "distill": lambda spec: Distill(spec, **SMALL, cosine=0.5, gene_components=8),
    "distill_label": lambda spec: Distill(spec, **SMALL, label="cell_type", kl=0.5, gene_components=0),
    "adversarial": lambda spec: Adversarial(spec, **SMALL, label="cell_type", warmup=10, gene_components=8),
    "scvi": lambda spec: CondDecoder(spec, **SMALL, anneal=10, gene_components=8),
    "scalex": lambda spec: CondDecoder(spec, **SMALL, likelihood="bce", decoder="dsbn", beta=0.5),
}


@pytest.mark.parametrize("name", MAKERS)
def test_trains_saves_loads_projects(name, exercise, tiny, cells):
    steps = 200 if "triplet" in name else 30  # its negatives are chosen anew, hard ones first: the loss falls late
    head, before, after = exercise(MAKERS[name], tiny, steps=steps, counts=name in ("scvi", "scalex"))
    assert after < before
    outputs = {key: value.numpy() for key, value in head.predict(tiny, cells.batch([1, 2])).items()}
    projected = head.write(outputs).obsm
    assert projected["X_scfm_integrated"].shape == (2, 8)
    assert "genes" in head.write(outputs).uns["projection"]
    assert head.write(outputs).uns["batches"] == ["b0", "b1", "b2"]


@pytest.mark.parametrize("name", MAKERS)
def test_a_step_follows_from_the_seed(name, tiny, spec, cells):
    torch.manual_seed(3)
    head = MAKERS[name](spec)
    head.prepare(cells.survey(tiny))
    batch = cells.batch(range(24), seed=5, counts=True)
    head.eval()
    first = head(tiny, batch)["loss"]
    torch.manual_seed(99)
    torch.testing.assert_close(head(tiny, batch)["loss"], first)


@pytest.mark.parametrize("name", MAKERS)
def test_one_batch_only_is_refused(name, spec):
    one = replace(spec, class_counts={**spec.class_counts, "batch": np.array([0, 30, 0])})
    with pytest.raises(ValueError, match=r"at least two batches.*'batch'.*all of 'b1'"):
        MAKERS[name](one)


def test_an_unknown_batch_column_is_refused(spec):
    with pytest.raises(
        ValueError, match=r"head.batch_key='lane' is not a categorical.*batch, cell_type.*obs='\[lane\]'"
    ):
        check_batches(spec, "lane")


def test_a_restored_head_needs_no_counts_of_cells(spec):
    assert check_batches(Spec(spec.vocab, 32, spec.classes), "batch") == ("b0", "b1", "b2")


def test_confounded_batches_are_named_with_their_contingency(spec, cells, tiny, caplog):
    survey = cells.survey(tiny)
    survey.obs["cell_type"] = (survey.obs["batch"] == 2).astype(np.int64)
    head = ContrastiveSampler(spec, **SMALL, condition="cell_type")
    assert head.labels == ("batch", "cell_type")
    with caplog.at_level(logging.WARNING):
        head.prepare(survey)
    assert "Every batch has a single cell_type" in caplog.text
    assert "b2: early 0, late 40" in caplog.text


def test_crossed_batches_or_one_condition_do_not_warn(caplog):
    names, both = ("b0", "b1"), ("ctrl", "stim")
    assert not warn_confounded(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0]), names, both, "c")
    assert not warn_confounded(np.array([0, 0, 1, 1]), np.array([1, 1, 1, -1]), names, both, "c")
    assert warn_confounded(np.array([0, 0, 1, -1]), np.array([0, 0, 1, 0]), names, both, "c")


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("hcl", {"temperature": 0.0}, "head.temperature=0.0"),
        ("hcl", {"mode": "all"}, "head.mode='all'"),
        ("hcl", {"micro_batches": "all"}, "head.micro_batches='all'"),
        ("hcl", {"p_in": 0.0}, "head.p_in=0.0"),
        ("hcl", {"p_in": 1.2}, "head.p_in=1.2"),
        ("hcl", {"condition": "sex"}, "head.condition='sex'"),
        ("hcl", {"width": 1}, "head.width=1"),
        ("hcl", {"neighbor_weight": -1.0}, "head.neighbor_weight=-1.0"),
        ("hcl", {"max_tokens": 2}, "head.max_tokens=2"),
        ("triplet", {"neighbor_weight": -1.0}, "head.neighbor_weight=-1.0"),
        ("triplet", {"offset_weight": -1.0}, "head.offset_weight=-1.0"),
        ("batch_token", {"null_share": 0.0}, "head.null_share=0.0"),
        ("batch_token", {"queue": -1}, "head.queue=-1"),
        ("batch_token", {"momentum": 1.5}, "head.momentum=1.5"),
        ("distill", {"kl": -1.0}, "head.kl=-1.0"),
        ("distill", {"label": "sort"}, "head.label='sort'"),
        ("triplet", {"own_batch_share": 1.5}, "head.own_batch_share=1.5"),
        ("triplet", {"label": "sort"}, "head.label='sort'"),
        ("distill", {"cosine": -1.0}, "head.cosine=-1.0"),
        ("adversarial", {"label": "sort"}, "head.label='sort'"),
        ("scvi", {"beta": -1.0}, "head.beta=-1.0"),
        ("scvi", {"decoder": "rnn"}, "head.decoder='rnn'"),
    ],
)
def test_refuses_numbers_out_of_range(name, wrong, words, spec):
    makes = {"hcl": ContrastiveSampler, "scvi": CondDecoder, "batch_token": BatchToken}
    makes |= {"triplet": Triplet, "distill": Distill, "adversarial": Adversarial}
    with pytest.raises(ValueError, match=words):
        makes[name](spec, **{**SMALL, **wrong})


# the sampler's mode


def test_knn_mode_draws_neighbors_of_the_same_batch(spec, cells, tiny):
    head = MAKERS["knn"](spec)
    head.prepare(cells.survey(tiny))
    table, batches = head.sampling.neighbors, cells.obs["batch"]
    assert (batches[table] == batches[: len(table), None]).all()
    assert (table != np.arange(len(table))[:, None]).all()
    assert (head.sampling.by, head.sampling.share, head.sampling.companions) == ("batch", 0.3, 5)


def test_with_cells_of_other_batches_their_neighbors_are_sought_too(spec, cells, tiny):
    head = ContrastiveSampler(spec, **SMALL, mode="knn", neighbors=5, p_in=0.9, micro_batches="coverage")
    head.prepare(cells.survey(tiny))
    chosen, batches = head.sampling, cells.obs["batch"]
    own = batches[chosen.neighbors] == batches[: len(chosen.neighbors), None]
    assert own[:, :5].all()
    assert not own[:, 5:].any()
    assert (chosen.inside, chosen.micro_batches, chosen.coverage.shape) == (0.9, "coverage", (3,))
    assert ((chosen.coverage >= 1 / 3) & (chosen.coverage <= 1)).all()


@pytest.mark.parametrize(
    ("choice", "warned"),
    [({"p_in": 0.9}, True), ({"p_in": 0.95}, False), ({"p_in": 0.9, "hardness": 0.0}, False),
     ({"p_in": 0.9, "mode": "knn"}, False), ({}, False)],
)  # fmt: skip
def test_hard_negatives_with_cells_of_other_batches_are_warned_of(spec, caplog, choice, warned):
    with caplog.at_level(logging.WARNING):
        ContrastiveSampler(spec, **SMALL, **choice)
    assert ("hurts the correction" in caplog.text) == warned


# batch vectors


def test_the_null_row_is_trained(spec, cells, tiny):
    head = BatchToken(spec, **SMALL, gene_components=0)
    head(tiny, cells.batch(range(30), seed=1))["loss"].backward()
    assert head.rows.grad[-1].abs().max() > 0


def test_the_batch_vector_reaches_every_token_embedding(tiny, cells):
    batch, table = cells.batch([0, 1]), tiny.model.get_input_embeddings()
    vectors = torch.randn(batch.n_tokens, 32)
    with add_vectors(tiny, vectors):
        torch.testing.assert_close(table(batch.ids), table.weight[batch.ids] + vectors)
    torch.testing.assert_close(table(batch.ids), table.weight[batch.ids])


def test_projection_uses_the_null_row_whatever_the_batch(spec, cells, tiny):
    head = BatchToken(spec, **SMALL, gene_components=0).eval()
    batch = cells.batch([0, 1, 2])
    other = replace(batch, obs={"batch": torch.tensor([2, 2, -1])})
    torch.testing.assert_close(head.predict(tiny, batch), head.predict(tiny, other))
    own = head.encode_with(tiny, batch, head.rows[batch.obs["batch"]])
    assert not torch.allclose(own, head.encode(tiny, batch))


def test_surgery_trains_one_row_and_nothing_else(spec, cells, tiny):
    head = BatchToken(spec, **SMALL, gene_components=0)
    before = {name: value.clone() for name, value in (head.state_dict() | tiny.state_dict()).items()}
    batches = [cells.batch(range(0, 60, 3), seed=2)]
    row = head.adopt(tiny, batches, epochs=3)
    assert row.shape == (32,)
    assert not torch.equal(row, head.rows[-1])
    after = head.state_dict() | tiny.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert head.nearest_row(tiny, batches) in head.names


def test_sample_embeddings_are_the_vectors_of_the_batches_without_the_null_one(spec):
    head = BatchToken(spec, **SMALL)
    uns = head.write({"integrated": np.zeros((1, 4))}).uns
    assert uns["sample_embeddings"].shape == (len(uns["batches"]), 32)
    np.testing.assert_array_equal(uns["sample_embeddings"], head.rows.detach().numpy()[:-1])


# batch vectors and prototypes


def test_the_loss_is_that_of_both(spec, cells, tiny):
    head = BatchTokenPrototype(spec, **SMALL, gene_components=8, label="cell_type", weight=0.5)
    head.prepare(cells.survey(tiny))
    head.eval().prototypes.means.normal_()
    batch = cells.batch(range(24), seed=5)
    alone, space = head.compute_contrast(tiny, batch)
    expected = alone["loss"] + 0.5 * head.prototypes(space, batch.obs["cell_type"])["loss"]
    torch.testing.assert_close(head(tiny, batch)["loss"], expected)
    nobody = replace(batch, obs={**batch.obs, "cell_type": torch.full((24,), -1)})
    torch.testing.assert_close(head(tiny, nobody)["loss"], alone["loss"])


def test_types_are_named_in_the_integrated_space_whatever_the_batch(spec, cells, tiny):
    torch.manual_seed(0)
    head = BatchTokenPrototype(spec, **SMALL, gene_components=8, label="cell_type")
    survey = cells.survey(tiny)
    survey.obs["cell_type"] = np.where(np.arange(120) < 40, -1, survey.obs["cell_type"])
    head.prepare(survey)
    whole = cells.batch(range(120))

    def predict(batch):
        return {name: value.numpy() for name, value in head.eval().predict(tiny, batch).items()}

    head.update(predict(whole), survey.obs)
    new = replace(cells.batch(range(40)), obs={"batch": torch.full((40,), -1)})
    outputs, truth = predict(new), cells.obs["cell_type"][:40]
    assert head.summarize(outputs, {"cell_type": truth})["macro_f1"] > 0.8
    head.calibrate(predict(whole), survey.obs)
    named = head.write(outputs).obs["scfm_cell_type"]
    kept = named != "unknown"
    assert kept.mean() > 0.7
    assert (named[kept] == np.array(["early", "late"])[truth[kept]]).mean() > 0.8
    head.add_class("third", outputs["integrated"][:1] + 100)
    assert head.write({**outputs, "integrated": outputs["integrated"] + 100}).obs["scfm_cell_type"][0] == "third"


def test_spread_is_the_distance_to_the_mean_of_ones_class():
    space = np.array([[0.0, 0], [0, 2], [5, 5], [9, 9]])
    assert class_spread(space, np.array([0, 0, 1, -1])) == pytest.approx(np.sqrt((1 + 1 + 0) / 3))


# the discriminator


def test_reversed_gradient():
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    out = reverse_gradient(value, 0.3)
    torch.testing.assert_close(out, value)
    (out * torch.tensor([1.0, 5.0])).sum().backward()
    torch.testing.assert_close(value.grad, torch.tensor([-0.3, -1.5]))


def test_discriminator_weighs_batch_and_type_inversely(spec, cells, tiny):
    head = MAKERS["adversarial"](spec)
    survey = cells.survey(tiny)
    survey.obs["cell_type"] = np.where(np.arange(120) < 20, -1, survey.obs["cell_type"])
    head.prepare(survey)
    table = np.zeros((3, 3))
    np.add.at(table, (survey.obs["batch"], survey.obs["cell_type"]), 1)
    np.testing.assert_allclose((head.weights.numpy() * table), np.full((3, 3), 120 / 9), rtol=1e-5)
    codes, types = torch.tensor([0, 1, -1]), torch.tensor([0, -1, 0])
    logits = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [9.0, 0.0, 0.0]])
    loss, accuracy = head.naming_loss(logits, codes, types)
    weight = head.weights.numpy()[[0, 1], [0, 2]]
    each = -np.log([np.e / (np.e + 2), np.e**2 / (np.e**2 + 2)])
    assert loss.item() == pytest.approx((weight * each).sum() / weight.sum(), rel=1e-5)
    assert accuracy == 1


# the student


def test_the_student_needs_no_backbone(spec, cells):
    head = MAKERS["distill"](spec).eval()
    assert head.predict(None, cells.batch([0, 1]))["integrated"].shape == (2, 8)


def test_the_teacher_is_not_trained_unless_asked(spec, cells, tiny):
    for trained in (False, True):
        head = Distill(spec, **SMALL, gene_components=0, train_teacher=trained)
        tiny.zero_grad()
        head(tiny, cells.batch(range(12), seed=1))["loss"].backward()
        assert any(p.grad is not None and p.grad.any() for p in tiny.parameters()) == trained
        assert all(p.grad is not None for p in head.parameters())


def test_towers_are_contrasted_by_the_formula(spec):
    head = Distill(spec, **SMALL, temperature=0.5)
    one, two = torch.eye(8)[:3], torch.eye(8)[[0, 2, 1]]
    loss, accuracy = head.loss(one, two, torch.tensor([0, 0, 0]))
    e = np.exp(2.0)
    rows = [np.log((e + 2) / e), np.log(1 + 1 + e), np.log(1 + 1 + e)]
    assert loss.item() == pytest.approx(np.mean(rows), rel=1e-5)
    assert accuracy.item() == pytest.approx(1 / 3)


def test_the_student_agrees_by_the_formula():
    teacher = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]], requires_grad=True)
    student = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0]], requires_grad=True)
    loss = agreement_loss(teacher, student, torch.tensor([0, -1, 1]), 0.5)
    p, q = (logits.detach().softmax(1).double().numpy() for logits in (teacher, student))
    named = -(np.log(p[0, 0]) + np.log(p[2, 1])) / 2
    assert loss.item() == pytest.approx(named + 0.5 * (p * np.log(p / q)).sum() / 3, rel=1e-5)
    loss.backward()
    assert teacher.grad[1].abs().max() == 0  # the divergence does not train the teacher
    assert student.grad[1].abs().max() < 1e-6  # which it already agrees with
    assert student.grad[0].abs().max() > 0


def test_no_cell_with_a_label_is_no_fault():
    loss = agreement_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([-1, -1]), 1.0)
    assert loss.item() == 0
