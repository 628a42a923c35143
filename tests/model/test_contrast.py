"""The contrastive loss against its formula, written out cell by cell."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from scfm.model.contrast import contrast, nt_xent


def by_hand(one, two, batches, temperature, hardness):
    """Σ_i −log[e^{s_ip/T} / (e^{s_ip/T} + Σ_k e^{ℓ_ik})] / 2B with plain loops."""
    both, codes = np.concatenate([one, two]).astype(np.float64), [*batches, *batches]
    n, total = len(one), 0.0
    for i in range(2 * n):
        p = (i + n) % (2 * n)
        others = [k for k in range(2 * n) if k not in (i, p) and codes[k] == codes[i] and codes[i] >= 0]
        scores = [both[i] @ both[k] / temperature for k in others]
        if hardness and scores:
            mean = np.mean([math.exp(hardness * s) for s in scores])
            scores = [(hardness + 1) * s - math.log(mean) for s in scores]
        same = math.exp(both[i] @ both[p] / temperature)
        total -= math.log(same / (same + sum(math.exp(s) for s in scores)))
    return total / (2 * n)


def unit(n, d=5, seed=0):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("hardness", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("batches", [[0] * 6, [0, 0, 1, 1, 2, 1], [0, 1, 2, 3, 4, 5], [0, 0, -1, -1, 1, 1]])
def test_nt_xent_is_the_formula(batches, hardness):
    one, two = unit(6, seed=1), unit(6, seed=2)
    loss, _ = nt_xent(one, two, torch.tensor(batches), temperature=0.4, hardness=hardness)
    assert loss.item() == pytest.approx(by_hand(one.numpy(), two.numpy(), batches, 0.4, hardness), rel=1e-5)


@pytest.mark.parametrize("hardness", [0.0, 1.0])
def test_cells_of_other_batches_are_masked(hardness):
    one, two, codes = unit(6, seed=1), unit(6, seed=2), torch.tensor([0, 0, 0, 1, 1, 1])
    one.requires_grad_()
    first = torch.cat([one[:3], one[3:].detach()])
    whole, _ = nt_xent(first, two, codes, temperature=0.4, hardness=hardness)
    moved = torch.cat([one[:3], unit(3, seed=9)])
    other, _ = nt_xent(moved, torch.cat([two[:3], unit(3, seed=8)]), codes, temperature=0.4, hardness=hardness)
    gradients = [torch.autograd.grad(loss, one)[0][:3] for loss in (whole, other)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("hardness", [0.0, 1.0])
def test_without_negatives_the_loss_and_its_gradient_are_zero(hardness):
    one = unit(3).requires_grad_()
    loss, accuracy = nt_xent(one, unit(3, seed=1), torch.tensor([-1, -1, -1]), temperature=0.1, hardness=hardness)
    assert loss.item() == 0
    assert accuracy == 1
    assert torch.autograd.grad(loss, one)[0].abs().max() < 1e-6


def test_accuracy_counts_positives_that_come_first():
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    others = torch.tensor([[0.9, 0.1], [0.6, 0.8]])
    allowed = torch.tensor([[True, False], [True, True]])
    positive = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert contrast(query, positive, others, allowed, temperature=0.5)[1] == 0.5
