"""Trajectory heads: losses by hand, heads that learn, save, load and project, and refusals."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from scfm.head.logistic import BALANCED, choose_penalty, logistic_regression
from scfm.head.survey import Survey
from scfm.head.trajectory.base import pair_accuracy, pairwise_order, regression_metrics
from scfm.head.trajectory.ordinal import Ordinal
from scfm.head.trajectory.pseudotime import Pseudotime
from scfm.head.trajectory.time import Time

SMALL = {"dropout": 0.0, "gene_components": 8}
COLD = {"hidden": 16, "warm_up": 0, **SMALL}
STAGES = ["d0", "d1", "d2", "d3"]
MAKERS = {
    "time": lambda spec: Time(spec, label="time", fate="fate", **SMALL),
    "ordinal": lambda spec: Ordinal(spec, label="stage", stages=STAGES, fate="fate", **SMALL),
    "pseudotime": lambda spec: Pseudotime(spec, root_type="d0", root_label="stage", fate="fate", **COLD),
    "pseudotime_cell": lambda spec: Pseudotime(spec, root_cell="cell3", **COLD),
}


@pytest.mark.parametrize("name", MAKERS)
def test_trains_saves_loads_projects(name, exercise, tiny, cells):
    head, before, after = exercise(MAKERS[name], tiny, steps=40)
    assert after < before
    outputs = {key: value.float().numpy() for key, value in head.predict(tiny, cells.batch(range(120))).items()}
    found = head.write(outputs).obs
    assert -0.5 < found["scfm_pseudotime"].min() < found["scfm_pseudotime"].max() < 1.5
    if not name.endswith("cell"):
        wanted = 0.75 if name == "pseudotime" else 0.9  # diffusion on an untrained backbone itself gives 0.80
        assert spearmanr(found["scfm_pseudotime"], cells.obs["time"]).statistic > wanted
        fates = head.write(outputs).obsm["X_scfm_fates"]
        np.testing.assert_allclose(fates.sum(axis=1), 1, rtol=1e-5)
        assert head.write(outputs).uns["fates"] == ["left", "right"]
    assert head.summarize(outputs, cells.obs)["spearman"] > 0.85


# losses


def test_pairwise_order_by_hand():
    predicted, truth = torch.tensor([0.2, 0.5, 0.1]), torch.tensor([0.0, 1.0, 1.0])
    pairs = [-(0.2 - 0.5), -(0.2 - 0.1)]  # sign(t_i - t_j)(p_i - p_j) of the two pairs of different t
    expected = np.mean([np.log1p(np.exp(-gap)) for gap in pairs])
    assert pairwise_order(predicted, truth).item() == pytest.approx(expected)
    assert pair_accuracy(predicted, truth).item() == 0.5
    assert pairwise_order(predicted, torch.zeros(3)).item() == 0


def test_time_loss_is_huber_plus_order_over_the_cells_with_a_time():
    predicted, truth = torch.tensor([0.1, 7.0, 2.5]), torch.tensor([0.0, torch.nan, 1.0])
    huber = (0.5 * 0.1**2 + (1.5 - 0.5)) / 2
    order = np.log1p(np.exp(-(2.5 - 0.1) / 0.5))
    metrics = regression_metrics(predicted, truth, order=2.0, softness=0.5)
    assert metrics["loss"].item() == pytest.approx(huber + 2 * order, rel=1e-5)
    assert metrics["error"].item() == pytest.approx(0.8)
    assert (metrics["order_accuracy"].item(), metrics["n_targets"].item()) == (1, 2)
    none = regression_metrics(predicted, torch.full((3,), torch.nan), order=2.0, softness=0.5)
    assert {name: value.item() for name, value in none.items()} == dict.fromkeys(metrics, 0)


def test_ordinal_loss_by_hand(spec):
    head = Ordinal(spec, label="stage", stages=STAGES)
    logits, truth = torch.tensor([[2.0, 0.5, -1.0], [0.0, -1.0, -3.0]]), torch.tensor([2, 0])

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    first = -np.log([sigmoid(2.0), sigmoid(0.5), 1 - sigmoid(-1.0)]).sum()
    second = -np.log([1 - sigmoid(0.0), 1 - sigmoid(-1.0), 1 - sigmoid(-3.0)]).sum()
    assert head.loss(logits, truth).item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_ordinal_logits_are_those_of_the_summed_probabilities(spec):
    head = Ordinal(spec, label="stage", stages=STAGES).eval()
    state = torch.randn(5, head.state.width)
    p = head.line(state).softmax(1)
    above = torch.stack([p[:, k:].sum(1) for k in (1, 2, 3)], dim=1)
    torch.testing.assert_close(head.logits(state).sigmoid(), above)
    found = head.outputs(state)
    torch.testing.assert_close(found["pseudotime"], (p * torch.arange(4)).sum(1) / 3)
    median = (p.cumsum(1) < 0.5).sum(1)
    assert torch.equal(found["stage"], median)


def test_ordinal_begins_and_ends_at_a_logistic_regression(spec, cells, tiny):
    head = Ordinal(spec, label="stage", stages=STAGES[::-1], fate="fate", gene_components=8).eval()
    survey = cells.survey(tiny)
    head.prepare(survey)

    values, blocks = head.state.from_survey(survey), head.state.blocks
    penalty = choose_penalty(values, 3 - cells.obs["stage"], BALANCED, blocks)

    def regression(values, stages):
        return logistic_regression(values, 3 - stages, 4, penalty, blocks)

    weight, bias = regression(values, cells.obs["stage"])
    torch.testing.assert_close(head.line[-1].weight.detach(), torch.from_numpy(weight))
    torch.testing.assert_close(head.line[-1].bias.detach(), torch.from_numpy(bias))
    outputs = {name: value.numpy() for name, value in head.predict(tiny, cells.batch(range(120))).items()}
    named = cells.obs["fate"] >= 0
    assert (outputs["fates"].argmax(1) == cells.obs["fate"])[named].mean() > 0.6
    halved = {"stage": np.where(np.arange(120) % 2, cells.obs["stage"], -1), "fate": np.full(120, -1)}
    fates = head.branches[-1].weight.clone()
    head.refit(outputs, halved)
    torch.testing.assert_close(head.branches[-1].weight, fates)  # nothing to learn them from
    rows = np.arange(120) % 2 == 1
    weight, _ = regression(outputs["state"][rows], cells.obs["stage"][rows])
    torch.testing.assert_close(head.line[-1].weight.detach(), torch.from_numpy(weight))


def test_missing_labels_do_not_count(spec, cells, tiny):
    for head, name, missing in (
        (Time(spec, label="time", **SMALL), "time", np.nan),
        (Ordinal(spec, label="stage", stages=STAGES, gene_components=8), "stage", -1),
    ):
        head.eval()
        batch = cells.batch(range(10))
        batch.obs[name][6:] = missing
        whole, part = head(tiny, batch), head(tiny, cells.batch(range(6)))
        torch.testing.assert_close(whole["loss"], part["loss"])
        assert whole["n_targets"] == 6
        batch.obs[name][:] = missing
        none = head(tiny, batch)["loss"]
        none.backward()
        assert none.item() == 0


# labels


def test_times_in_categories_are_numbers(spec, cells, tiny):
    numbers = replace(spec, classes={**spec.classes, "day": ("10", "2.5", "0")})
    head = Time(numbers, label="day", **SMALL)
    survey = cells.survey(tiny)
    survey.obs["day"] = np.arange(120) % 4 - 1
    head.prepare(survey)
    assert (head.low.item(), head.span.item()) == (0.0, 10.0)
    torch.testing.assert_close(
        head.times(torch.tensor([1, -1, 0])), torch.tensor([2.5, torch.nan, 10.0]), equal_nan=True
    )
    state = torch.randn(4, head.state.width)
    torch.testing.assert_close(head.eval().outputs(state)["time"], head.place(state) * 10)
    assert set(head.write({"pseudotime": np.zeros(1), "time": np.zeros(1)}).obs) == {"scfm_pseudotime", "scfm_day"}


def test_ordinal_takes_the_order_of_numbers_or_the_one_given(spec):
    days = replace(spec, classes={"day": ("10", "2", "1")})
    assert Ordinal(days, label="day").stages == ("1", "2", "10")
    assert Ordinal(days, label="day").rank.tolist() == [2, 1, 0]
    assert Ordinal(days, label="day", stages=["2", "10", "1"]).rank.tolist() == [1, 0, 2]


def test_cells_without_genes_have_no_stage(spec):
    head = Ordinal(spec, label="stage", stages=STAGES)
    found = head.write({"pseudotime": np.array([0.5, np.nan]), "stage": np.array([2.0, np.nan])}).obs
    assert found["scfm_stage"].tolist() == ["d2", "unknown"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda s: Ordinal(s, label="stage"), r"stages of 'stage' are no numbers .d0, d1.*head.stages="),
        (lambda s: Ordinal(s, label="stage", stages=STAGES[:3]), "every category of 'stage' once.*d3"),
        (lambda s: Ordinal(s, label="stage", stages=[*STAGES, "d0"]), "every category of 'stage' once.*d0"),
        (lambda s: Ordinal(s, label="time"), "'time' is not a categorical"),
        (lambda s: Time(s, label="stage"), "'stage' is not a time: its categories are d0.*ordinal"),
        (lambda s: Time(s, label="time", fate="end"), "head.fate='end'"),
        (lambda s: Time(s, label="time", softness=0.0), "head.softness=0.0"),
        (lambda s: Time(s, label="time", order=-1.0), "head.order=-1.0"),
        (lambda s: Time(s, label="time", dropout=1.0), "head.dropout=1.0"),
        (lambda s: Ordinal(s, label="stage", stages=STAGES, fate_weight=-1.0), "head.fate_weight=-1.0"),
        (lambda s: Pseudotime(s, root_cell="a", softness=-1.0), "head.softness=-1.0"),
        (lambda s: Time(s, label="time", batch_key="lane"), "head.batch_key='lane'"),
        (lambda s: Pseudotime(s), "needs one root"),
        (lambda s: Pseudotime(s, root_cell="a", root_type="b"), "needs one root"),
        (lambda s: Pseudotime(s, root_type="d0", root_label="day"), "head.root_label='day'"),
        (lambda s: Pseudotime(s, root_type="d00", root_label="stage"), "'d00' is no category.*did you mean 'd0'"),
        (lambda s: Pseudotime(s, root_cell="a", neighbors=1), "head.neighbors=1"),
    ],
)
def test_refusals(spec, make, words):
    with pytest.raises(ValueError, match=words):
        make(spec)


def test_a_single_fate_is_refused(spec):
    one = replace(spec, classes={**spec.classes, "fate": ("left",)})
    with pytest.raises(ValueError, match="single terminal state"):
        Time(one, label="time", fate="fate")


def test_one_time_only_or_none_is_refused(spec, cells, tiny):
    head, survey = Time(spec, label="time", **SMALL), cells.survey(tiny)
    survey.obs["time"] = np.where(np.arange(120) % 2, 3.0, np.nan).astype(np.float32)
    with pytest.raises(ValueError, match="of 120 training cells all have the time 3"):
        head.prepare(survey)
    survey.obs["time"][:] = np.nan
    with pytest.raises(ValueError, match="none has a time"):
        head.prepare(survey)


def test_time_confounded_with_batch_is_said(spec, cells, tiny, caplog):
    head, survey = Time(spec, label="time", batch_key="batch", **SMALL), cells.survey(tiny)
    with caplog.at_level(logging.WARNING):
        head.prepare(survey)
        assert not caplog.text
        survey.obs["time"] = survey.obs["batch"].astype(np.float32)
        head.prepare(survey)
    assert "Every batch has a single time" in caplog.text


def test_a_root_cell_that_does_not_exist_is_refused(spec, cells, tiny):
    with pytest.raises(
        ValueError, match="root cell 'cell999' does not exist among the 120 cells.*did you mean 'cell99'"
    ):
        Pseudotime(spec, root_cell="cell999", **SMALL).prepare(cells.survey(tiny))


def test_an_embedding_with_nan_is_refused():
    embedding = np.zeros((3, 2), dtype=np.float32)
    embedding[1] = np.nan
    with pytest.raises(ValueError, match=r"1 of 3 cells have an embedding with NaN .first: row 5"):
        Survey(np.array([4, 5, 6]), np.ones(3, dtype=bool), embedding)


def test_held_out_cells_take_the_mean_of_their_training_neighbors(spec, cells, tiny):
    train = np.arange(120) % 5 != 0
    head = Pseudotime(spec, root_cell="cell0", **SMALL)  # held out itself: its nearest training cell is the root
    head.prepare(cells.survey(tiny, train))
    assert torch.isfinite(head.times).all()
    assert sorted(head.times.numpy()[train]) == pytest.approx(np.linspace(0, 1, train.sum()), abs=0.02)


@pytest.mark.parametrize("name", ["time", "ordinal", "pseudotime"])
def test_the_head_knows_before_the_backbone_moves(name, spec, cells, tiny):
    heads = {
        "time": lambda: Time(spec, label="time", **SMALL),
        "ordinal": lambda: Ordinal(spec, label="stage", stages=STAGES, **SMALL),
        "pseudotime": lambda: Pseudotime(spec, root_type="d0", root_label="stage", **COLD | {"warm_up": 100}),
    }
    head, train = heads[name](), np.arange(120) % 4 > 0
    before = {key: value.clone() for key, value in tiny.state_dict().items()}
    head.prepare(cells.survey(tiny, train))
    held = cells.batch(np.flatnonzero(~train))
    found = head.eval().predict(tiny, held)["pseudotime"].numpy()
    assert spearmanr(found, cells.obs["time"][~train]).statistic > 0.85
    assert all(torch.equal(before[key], value) for key, value in tiny.state_dict().items())


def test_fates_are_learned_in_the_warm_up_too(spec, cells, tiny):
    make = {"root_type": "d0", "root_label": "stage", "fate": "fate", **COLD, "warm_up": 150}
    head, survey = Pseudotime(spec, **make), cells.survey(tiny)
    time = cells.obs["time"]
    survey.obs["fate"] = np.where(time > 0.85, 1, np.where(time < 0.15, 0, -1))
    head.prepare(survey)
    fates = head.eval().predict(tiny, cells.batch(range(120)))["fates"]
    known = head.ends.isfinite().all(1)
    off = (fates - head.ends)[known].abs().mean()
    assert off < 0.5 * (head.ends[known] - head.ends[known].mean(0)).abs().mean()


def test_a_time_that_is_missing_takes_no_part_in_the_beginning(spec, cells, tiny):
    survey = cells.survey(tiny)
    survey.obs["time"] = np.where(np.arange(120) < 60, np.nan, survey.obs["time"]).astype(np.float32)
    head = Time(spec, label="time", **SMALL)
    head.prepare(survey)
    assert all(parameter.isfinite().all() for parameter in head.parameters())
    assert (head.codes(survey.obs) >= 0).tolist() == (np.arange(120) >= 60).tolist()


def test_a_time_is_the_mean_of_a_distribution_over_stretches_of_equally_many_cells(spec, cells, tiny):
    head = Time(spec, label="time", bins=6, **SMALL)
    head.prepare(cells.survey(tiny))
    codes, times = head.codes(cells.obs), cells.obs["time"]
    assert np.bincount(codes).tolist() == [20] * 6
    scaled = (times - times.min()) / np.ptp(times)
    centers = [scaled[codes == code].mean() for code in range(6)]
    np.testing.assert_allclose(head.centers, centers, rtol=1e-4)
    state = torch.randn(4, head.state.width)
    expected = head.line(state).softmax(1).detach().numpy() @ centers
    np.testing.assert_allclose(head.eval().place(state).detach(), expected, rtol=1e-4)


def test_few_times_are_classes_of_their_own(spec, cells, tiny):
    survey = cells.survey(tiny)
    survey.obs["time"] = (survey.obs["stage"] ** 2).astype(np.float32)
    head = Time(spec, label="time", **SMALL)
    head.prepare(survey)
    assert (head.codes(survey.obs) == survey.obs["stage"]).all()
    np.testing.assert_allclose(head.centers[:4], np.array([0, 1, 4, 9]) / 9, rtol=1e-6)


def test_refuses_a_negative_warm_up_and_components(spec):
    with pytest.raises(ValueError, match="head.warm_up=-1"):
        Pseudotime(spec, root_cell="cell3", warm_up=-1)
    with pytest.raises(ValueError, match="head.bins=1"):
        Time(spec, label="time", bins=1)
    with pytest.raises(ValueError, match="head.gene_components=-2"):
        Time(spec, label="time", gene_components=-2)
