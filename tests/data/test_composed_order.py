"""Composed micro-batches: one experimental batch each, every cell once, neighbors together."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranks import finish, start_ranks
from scfm.data.composed_order import ComposedOrder, merge_small_groups
from scfm.types import Sampling


@st.composite
def made(draw):
    n = draw(st.integers(8, 200))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    lengths = rng.integers(1, 50, n)
    groups = rng.integers(-1, draw(st.integers(1, 4)), n)
    rows = rng.permutation(3 * n)[:n]
    table = None
    if draw(st.booleans()):
        table = np.full((3 * n, 5), -1)
        table[rows] = rng.choice(rows, (n, 5))
    sampling = Sampling("batch", table, draw(st.sampled_from([0.0, 0.3, 0.5])), draw(st.sampled_from([1, 3])))
    return rows, lengths, groups, sampling, draw(st.integers(int(lengths.max()), 300)), draw(st.sampled_from([1, 2]))


@given(made(), st.integers(0, 2))
@settings(deadline=None, max_examples=60)
def test_every_cell_once_among_its_own_group_under_the_budget(made, epoch):
    rows, lengths, groups, sampling, tokens, multiple = made
    try:
        order = ComposedOrder(rows, lengths, groups, sampling, tokens=tokens, multiple=multiple)
    except ValueError as error:
        assert "too few" in str(error)
        return
    plan = order.epoch(epoch)
    assert len(plan) == len(order)
    assert len(order) % multiple == 0
    assert sorted(plan.rows) == sorted(rows)
    length, group = dict(zip(rows, lengths, strict=True)), dict(zip(rows, merge_small_groups(groups), strict=True))
    for step in range(len(plan)):
        assert len({group[row] for row in plan[step]}) == 1
        assert sum(length[row] for row in plan[step]) <= tokens


def test_a_pure_function_of_seed_and_epoch():
    rows, lengths, groups = np.arange(300), np.full(300, 10), np.arange(300) % 3
    one, two, other = (ComposedOrder(rows, lengths, groups, Sampling("b"), tokens=100, seed=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one.epoch(3).rows, two.epoch(3).rows)
    assert (one.epoch(3).rows != one.epoch(4).rows).any()
    assert (one.epoch(3).rows != other.epoch(3).rows).any()
    still = ComposedOrder(rows, lengths, groups, Sampling("b"), tokens=100, shuffle=False)
    np.testing.assert_array_equal(still.epoch(0).rows, still.epoch(5).rows)


@pytest.mark.parametrize(("share", "companions"), [(0.5, 1), (0.3, 10)])
def test_neighbors_come_together(share, companions):
    rows = np.arange(400)
    # cell i belongs with the 19 others of i // 20; by chance the largest clique of 40 cells has 5 or 6 of one kind
    table = np.array([[j for j in range(20 * (i // 20), 20 * (i // 20) + 20) if j != i] for i in rows])

    def alike(sampling):
        plan = ComposedOrder(rows, np.full(400, 10), np.zeros(400), sampling, tokens=410).epoch(0)
        kinds = [np.bincount(plan[step] // 20, minlength=20) for step in range(len(plan))]
        return np.mean([(kind * (kind - 1)).sum() / kind.sum() for kind in kinds])  # companions of a cell, on average

    chance, drawn = alike(Sampling()), alike(Sampling(None, table, share, companions))
    assert drawn > chance + min(0.7, 0.5 * share * companions)


def test_micro_batches_too_small_to_teach_are_named(caplog):
    with caplog.at_level(logging.WARNING):
        ComposedOrder(np.arange(20), np.full(20, 10), np.zeros(20), Sampling("b"), tokens=40)
    assert "hold fewer than 4 cells" in caplog.text


@pytest.mark.parametrize(
    ("groups", "together"),
    [
        ([0] * 9 + [1] * 3 + [2] * 2 + [3] * 5, {1, 2}),
        ([0] * 9 + [1] * 3 + [3] * 5, {1, 3}),  # three cells alone are too few: they join the smallest
        ([-1] * 2 + [0] * 5, {-1, 0}),
        ([0, 1, 2], {0, 1, 2}),
        ([0] * 4 + [1] * 4, set()),
    ],
)
def test_groups_of_fewer_than_four_cells_are_read_as_one(groups, together):
    groups = np.array(groups)
    codes = merge_small_groups(groups)
    assert sorted(set(codes)) == list(range(len(set(codes))))
    for one in set(groups):
        for two in set(groups):
            alike = one == two or {one, two} <= together
            assert (codes[groups == one][0] == codes[groups == two][0]) == alike


# how many micro-batches of each group

SIZES = (90, 30, 10)  # of cells of 10 tokens: 10, 4 and 2 micro-batches of a budget of 100
GROUPS = np.repeat(np.arange(3), SIZES)


def of_groups(sampling, *, multiple=1, epoch=0):
    order = ComposedOrder(np.arange(130), np.full(130, 10), GROUPS, sampling, tokens=100, multiple=multiple, seed=3)
    plan = order.epoch(epoch)
    assert len(plan) == len(order)
    for step in range(len(plan)):
        assert len(set(plan[step])) == len(plan[step]) <= 10
    return [plan[step] for step in range(len(plan))]


def counted(steps):
    return np.bincount([GROUPS[rows[0]] for rows in steps], minlength=3).tolist()


COVERAGE = np.array([0.5, 0.25, 0.25])


@pytest.mark.parametrize(
    ("how", "multiple", "expected"),
    [
        ("proportional", 1, [10, 4, 2]),
        ("equal", 1, [4, 4, 4]),
        ("equal", 8, [5, 5, 5]),
        ("coverage", 1, [8, 4, 4]),
        ("coverage", 3, [8, 4, 4]),
    ],
)
def test_so_many_micro_batches_of_each_group(how, multiple, expected):
    found = counted(of_groups(Sampling("b", micro_batches=how, coverage=COVERAGE), multiple=multiple))
    assert sum(found) % multiple == 0
    assert all(0 <= a - b <= (multiple > 1) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("how", ["equal", "coverage"])
def test_cells_are_repeated_only_when_all_of_the_group_were_read(how):
    steps = of_groups(Sampling("b", micro_batches=how, coverage=COVERAGE))
    read = np.bincount(np.concatenate(steps), minlength=130)
    for group in range(3):
        times = read[group == GROUPS]
        assert times.max() - times.min() <= 1
    assert read[GROUPS == 2].min() >= 2
    assert read[GROUPS == 0].max() == 1


def test_another_epoch_reads_other_cells_of_a_group_that_is_cut_short():
    one, two = (set(np.concatenate(of_groups(Sampling("b", micro_batches="equal"), epoch=e))) for e in (0, 1))
    assert one != two
    assert one == set(np.concatenate(of_groups(Sampling("b", micro_batches="equal"), epoch=0)))


def test_held_out_cells_are_read_once_whatever_the_numbers():
    sampling = Sampling("b", micro_batches="equal", inside=0.5)
    plan = ComposedOrder(np.arange(130), np.full(130, 10), GROUPS, sampling, tokens=100, shuffle=False).epoch(0)
    assert sorted(plan.rows) == list(range(130))


# cells of other groups


@pytest.mark.parametrize("inside", [0.5, 0.8])
def test_a_share_of_every_micro_batch_is_of_other_groups(inside):
    steps = of_groups(Sampling("b", inside=inside))
    inner = [rows[GROUPS[rows] == GROUPS[rows[0]]] for rows in steps]
    assert sorted(np.concatenate(inner)) == list(range(130))
    shares = [len(own) / len(rows) for own, rows in zip(inner, steps, strict=True)]
    assert np.mean(shares) == pytest.approx(inside, abs=0.05)
    assert max(shares) < 1


def test_neighbors_in_other_groups_come_first():
    table = np.array([[(row + 65) % 130] for row in range(130)])  # of another group, but for the cells of the first
    drawn = of_groups(Sampling("b", table, share=1.0, inside=0.5))
    near = [rows for rows in drawn if GROUPS[rows[0]] == 1]
    assert near
    for rows in near:
        own = rows[GROUPS[rows] == 1]
        assert set((own + 65) % 130) == set(rows) - set(own)


def test_no_room_is_no_company_but_every_cell_is_read():
    order = ComposedOrder(np.arange(8), np.full(8, 9), np.arange(8) % 2, Sampling("b", inside=0.5), tokens=9)
    assert sorted(order.epoch(0).rows) == list(range(8))


@given(made(), st.sampled_from(["proportional", "equal", "coverage"]), st.sampled_from([1.0, 0.7]))
@settings(deadline=None, max_examples=40)
def test_any_numbers_keep_budget_and_multiple(made, how, inside):
    rows, lengths, groups, sampling, tokens, multiple = made
    coverage = np.arange(1.0, 5.0)
    sampling = replace(sampling, micro_batches=how, coverage=coverage, inside=inside)
    try:
        order = ComposedOrder(rows, lengths, groups, sampling, tokens=tokens, multiple=multiple)
    except ValueError as error:
        assert "too few" in str(error)
        return
    plan, length = order.epoch(1), dict(zip(rows, lengths, strict=True))
    assert len(plan) == len(order)
    assert len(plan) % multiple == 0
    for step in range(len(plan)):
        assert 0 < len(set(plan[step])) == len(plan[step])
        assert sum(length[row] for row in plan[step]) <= tokens
    if how == "proportional":
        assert set(plan.rows) == set(rows)


def test_a_run_goes_on_only_with_the_same_numbers():
    def name(**choice):
        return ComposedOrder(np.arange(130), np.full(130, 10), GROUPS, Sampling("b", **choice), tokens=100).name

    assert len({name(), name(micro_batches="equal"), name(inside=0.5)}) == 3
    assert name() == name()


def test_refuses_too_few_cells_for_a_step():
    with pytest.raises(ValueError, match="3 cells, too few for micro-batches in multiples of 4"):
        ComposedOrder(np.arange(3), np.full(3, 5), np.zeros(3), Sampling("b"), tokens=100, multiple=4)


@pytest.mark.distributed
def test_ranks_that_found_other_neighbors_compose_the_same_micro_batches(made_store):
    said = finish(start_ranks(Path(__file__).with_name("two_samplings.py"), made_store), seconds=120)
    plans = [line for text in said for line in text.splitlines() if line.startswith("plan ")]
    assert len(plans) == 2
    assert plans[0] == plans[1]
