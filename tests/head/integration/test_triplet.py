"""Triplets: the loss by hand, negatives from the anchor's batch at rate 1, neighbors of every pair of batches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm.head.integration.batch_neighbors import mutual_neighbors, nearest_cells
from scfm.head.integration.triplet import (
    Triplet,
    draw_triplets,
    fill_positives,
    keep_nearest_quarter,
    offset_loss,
    pair_mask,
    same_label_pairs,
    triplet_loss,
)


def test_loss_by_hand():
    space = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [0.0, 10.0]])
    a, p, n = torch.tensor([0, 0]), torch.tensor([1, 1]), torch.tensor([2, 3])
    # d(a,p)=5; first: min(1, sqrt(18)) = 1 -> 5; second: min(10, sqrt(45)=6.708) -> 0
    loss, accuracy = triplet_loss(space, a, p, n)
    assert loss.item() == pytest.approx(5 / 2, rel=1e-4)
    assert accuracy == 0.5


def test_loss_counts_the_nearer_of_anchor_and_positive():
    space = torch.tensor([[0.0], [2.0], [2.5]])
    loss, _ = triplet_loss(space, torch.tensor([0]), torch.tensor([1]), torch.tensor([2]))
    assert loss.item() == pytest.approx(2 - 0.5 + 1, rel=1e-4)


@given(st.integers(0, 10_000), st.integers(1, 5))
@settings(deadline=None, max_examples=40)
def test_negatives_are_of_the_anchors_batch_at_rate_one(seed, n_batches):
    generator = torch.Generator().manual_seed(seed)
    n = 40
    space = torch.randn(n, 3, generator=generator)
    batches = torch.randint(-1, n_batches, (n,), generator=generator)
    positive = torch.rand(n, n, generator=generator) < 0.1
    near = torch.rand(n, n, generator=generator) < 0.2
    anchors, positives, negatives = draw_triplets(space, batches, positive, near, generator)
    assert (batches[negatives] == batches[anchors]).all()
    assert (batches[anchors] >= 0).all()
    assert not near[anchors, negatives].any()
    assert not positive[anchors, negatives].any()
    assert positive[anchors, positives].all()
    assert (anchors != negatives).all()
    assert (anchors != positives).all()


def test_negatives_are_semi_hard_where_there_are_such():
    space = torch.tensor([[0.0], [1.0], [0.5], [1.5], [9.0]])
    batches = torch.tensor([0, 1, 0, 0, 0])
    positive = torch.zeros(5, 5, dtype=torch.bool)
    positive[0, 1] = True
    for seed in range(20):
        found = draw_triplets(space, batches, positive, torch.zeros_like(positive), torch.Generator().manual_seed(seed))
        assert [x.tolist() for x in found] == [[0], [1], [3]]


def test_offset_by_hand():
    space = torch.tensor([[0.0, 0.0], [2.0, 0.0], [3.0, 4.0], [5.0, 4.0], [9.0, 9.0]])
    partners, near = torch.zeros(2, 5, 5, dtype=torch.bool)
    partners[0, [2, 3]] = near[0, 1] = True  # means (4, 4) and (2, 0): 4 + 16
    partners[2, 0] = near[2, 3] = True  # (0, 0) and (5, 4): 25 + 16
    partners[4, 0] = True  # no neighbor: it does not count
    assert offset_loss(space, partners, near).item() == pytest.approx((20 + 41) / 2 / 2)


def test_offset_is_gone_where_one_shift_parts_the_batches():
    """Its gradient points along the shift, and it ends where the shift is taken back."""
    batches, home = torch.arange(60) % 2, torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([4.0, 0.0, 0.0])
    other = batches[:, None] != batches
    space = (home + batches[:, None] * shift).requires_grad_()
    before = offset_loss(space, other, ~other)
    before.backward()
    moved = -space.grad[batches == 1].mean(0)
    assert torch.nn.functional.cosine_similarity(moved, -shift, dim=0) > 0.95
    assert offset_loss(space.detach() - batches[:, None] * shift, other, ~other) < 0.05 * before


def test_no_partner_is_no_offset():
    space = torch.randn(3, 2, requires_grad=True)
    none = torch.zeros(3, 3, dtype=torch.bool)
    offset_loss(space, none, ~none).backward()
    assert (space.grad == 0).all()


def test_no_triplet_is_no_loss():
    space = torch.randn(3, 2, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    loss, _ = triplet_loss(space, none, none, none)
    loss.backward()
    assert loss.item() == 0


def test_mutual_neighbors_against_brute_force_for_every_pair_of_batches():
    rng = np.random.default_rng(0)
    embedding, batches, k = rng.normal(size=(60, 3)), np.arange(60) % 4, 5
    found = mutual_neighbors(embedding, batches, k)
    distance = np.linalg.norm(embedding[:, None] - embedding[None], axis=2)

    def nearest_of(i, code):
        members = np.flatnonzero(batches == code)
        return set(members[np.argsort(distance[i, members])[:k]])

    pairs = set()
    for i in range(60):
        partners = [
            j for code in range(4) if code != batches[i] for j in nearest_of(i, code) if i in nearest_of(j, batches[i])
        ]
        assert found[i][found[i] >= 0].tolist() == sorted(partners, key=lambda j: distance[i, j])[:k]
        pairs |= {(int(batches[i]), int(batches[j])) for j in found[i][found[i] >= 0]}
    assert len(pairs) == 12  # every ordered pair, not the last alone


def test_nearest_cells_of_a_batch_and_filling():
    embedding = np.array([[0.0], [1.0], [3.0], [0.1], [50.0]])
    own = nearest_cells(embedding, np.array([0, 0, 0, 1, 2]), 3, same_batch=True)
    assert own.tolist() == [[1, 2, -1], [0, 2, -1], [1, 0, -1], [-1, -1, -1], [-1, -1, -1]]
    mutual = np.array([[3, -1, -1], [3, 4, -1], [-1, -1, -1], [0, 1, -1], [-1, -1, -1]])
    assert fill_positives(mutual, own, 0.75).tolist()[2] == [1, -1, -1]  # 0.75 x mean count 5/3 = 1.25 -> 1
    assert fill_positives(mutual, own, 1.0).tolist()[:2] == mutual.tolist()[:2]


def test_membership_by_rows():
    table = torch.tensor([[7, -1], [5, 9], [-1, -1]])
    found = pair_mask(table, torch.tensor([9, 5, 7]))
    assert found.tolist() == [[False, False, True], [True, True, False], [False, False, False]]


def test_labels_pair_cells_across_batches_only():
    found = same_label_pairs(torch.tensor([0, 0, 0, -1, -1]), torch.tensor([0, 0, 1, 0, 1]))
    assert found.nonzero().tolist() == [[0, 2], [1, 2], [2, 0], [2, 1]]


def test_positives_are_asked_for_and_held_out_cells_stay_apart(spec, cells, tiny):
    train = np.arange(120) % 4 != 0
    head = Triplet(spec, batch_key="batch", width=8, hidden=16, neighbors=10)
    head.prepare(cells.survey(tiny, train))
    table = head.sampling.neighbors
    assert (head.sampling.by, head.sampling.companions) == (None, 1)
    for row in range(120):
        partners = table[row][table[row] >= 0]
        assert (train[partners] == train[row]).all()


def test_small_batches_keep_cells_that_can_be_negatives():
    """Held-out cells of a batch may be fewer than the neighbors that are sought."""
    batches = np.repeat([4, 7], [12, 3])
    own = nearest_cells(np.random.default_rng(0).normal(size=(15, 2)), batches, 30, same_batch=True)
    near = keep_nearest_quarter(own, batches)
    assert (near >= 0).sum(axis=1).tolist() == [3] * 12 + [1] * 3
    assert (near[:, :3][near[:, :3] >= 0] == own[:, :3][near[:, :3] >= 0]).all()
