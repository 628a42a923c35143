"""Where integration begins, and what it costs to move cells of a batch apart."""

import numpy as np
import pytest
import torch

from scfm.head.integration.adversarial import Adversarial
from scfm.head.integration.base import neighbor_loss
from scfm.head.integration.batch_token import BatchToken
from scfm.head.integration.cond_decoder import CondDecoder
from scfm.head.integration.contrastive_sampler import ContrastiveSampler
from scfm.head.integration.distill import Distill
from scfm.head.integration.triplet import Triplet
from scfm.metrics.structure import neighbor_overlap

HEADS = (Triplet, ContrastiveSampler, Adversarial, BatchToken, CondDecoder, Distill)


@pytest.mark.parametrize("make", HEADS)
@pytest.mark.parametrize("size", [4, 8, 12])
def test_the_space_begins_at_the_gene_components(make, size, spec, cells, tiny):
    head = make(spec, batch_key="batch", width=size, hidden=16, gene_components=8).eval()
    head.prepare(cells.survey(tiny))
    batch = cells.batch(range(20))
    wanted = torch.zeros(20, size)
    wanted[:, : min(size, 8)] = head.state.components(batch)[:, :size]
    torch.testing.assert_close(head.predict(tiny, batch)["integrated"], wanted)


@pytest.mark.parametrize("make", HEADS)
def test_the_first_step_reaches_the_projector(make, spec, cells, tiny):
    head = make(spec, batch_key="batch", width=8, hidden=16, gene_components=8)
    head.prepare(cells.survey(tiny))
    head(tiny, cells.batch(range(60), seed=1, counts=True))["loss"].backward()
    assert head.projector[-1].weight.grad.abs().max() > 0


def test_without_components_the_contrast_is_on_the_sphere(spec, cells, tiny):
    head = ContrastiveSampler(spec, batch_key="batch", width=8, hidden=16, gene_components=0).eval()
    head.prepare(cells.survey(tiny))
    found = head.predict(tiny, cells.batch(range(20)))["integrated"]
    torch.testing.assert_close(found.norm(dim=1), torch.ones(20))


def test_unrest_by_hand():
    start = torch.tensor([[0.0], [1.0], [9.0], [0.5]])
    shift = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0], [9.0, 9.0]])
    # two cells of batch 3, each the other's neighbor: 4 and 4, halved; one alone, one of no batch
    assert neighbor_loss(start, shift, torch.tensor([3, 3, 1, -1])).item() == pytest.approx(2)
    assert neighbor_loss(start, shift, torch.full((4,), -1)).item() == 0


def test_types_of_a_batch_may_move_apart_but_not_neighbors():
    start = torch.tensor([0.0, 100.0]).repeat_interleave(6)[:, None] + torch.rand(12, 1)
    codes, kind = torch.zeros(12, dtype=torch.int64), torch.arange(2).repeat_interleave(6)
    assert neighbor_loss(start, torch.randn(2, 3)[kind], codes).item() == pytest.approx(0, abs=1e-10)
    assert neighbor_loss(start, torch.randn(2, 3)[kind.roll(3)], codes).item() > 0.01


def test_staying_keeps_neighbors_of_random_pseudo_batches(spec, cells, tiny):
    survey = cells.survey(tiny)
    survey.obs["batch"] = np.random.default_rng(0).permutation(120) % 3
    whole, kept = cells.batch(range(120)), {}
    whole.obs["batch"] = torch.from_numpy(survey.obs["batch"])
    for stay in (0.0, 3.0):
        torch.manual_seed(0)
        head = Triplet(
            spec, batch_key="batch", width=8, hidden=16, gene_components=8, neighbors=8, neighbor_weight=stay
        )
        head.prepare(survey)
        optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
        for _ in range(30):
            optimizer.zero_grad()
            head(tiny, whole)["loss"].backward()
            optimizer.step()
        after = head.eval().predict(tiny, whole)["integrated"].numpy()
        kept[stay] = neighbor_overlap(head.state.components(whole).numpy(), after, k=10)
    assert kept[3.0] > kept[0.0]
    assert kept[3.0] > 0.9


def test_the_space_begins_at_components_of_counts_where_there_are_such(spec, cells, tiny):
    def make(spec):
        return Triplet(spec, batch_key="batch", width=4, variable_components=6, hidden=16, neighbors=10)

    head = make(spec)
    assert head.counts and head.requirements().counts
    assert head.state.blocks == (32, 6)
    survey = cells.survey(tiny)
    head.prepare(survey)
    with torch.inference_mode():
        space = head.predict(tiny, cells.batch(range(30), counts=True))["integrated"]
    components = head.state.variable.transform(survey.tokens(np.arange(30)), survey.counts(np.arange(30)))
    np.testing.assert_allclose(space.numpy(), components[:, :4], atol=1e-4)
    np.testing.assert_allclose(head.state.search_space(survey)[:30], components, atol=1e-5)


def test_a_head_of_before_has_no_components_of_counts(spec, cells, tiny):
    head = Triplet(spec, batch_key="batch", width=8, hidden=16, neighbors=10)
    assert not head.counts
    assert head.state.blocks == (32, 10)
