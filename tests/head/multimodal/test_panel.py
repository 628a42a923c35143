"""The loss and the intervals of proteins, by hand."""

import numpy as np
import pytest
import torch

from scfm.head.multimodal.panel import (
    Panel,
    choose_proteins,
    order_quantiles,
    pinball_loss,
    protein_loss,
    require_quantiles,
    widen_intervals,
)
from scfm.types import Spec
from support import made_vocab

NAN = float("nan")


def test_pinball_loss_by_hand():
    loss = pinball_loss(torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 2.0], [3.0, -4.0]]), (0.1, 0.9))
    torch.testing.assert_close(loss, torch.tensor([0.1 * 1 + 0.1 * 1, 0.9 * 3 + 0.9 * 4]))


def test_the_loss_is_a_mean_over_observed_entries_alone():
    mean = torch.tensor([[1.0, 5.0], [0.0, 2.0]], requires_grad=True)
    quantiles = torch.zeros(2, 2, 2)
    truth = torch.tensor([[0.0, NAN], [NAN, 4.0]])
    loss, squared, n = protein_loss(mean, quantiles, truth, (0.1, 0.9))
    assert n == 2
    torch.testing.assert_close(squared, torch.tensor((1 + 4) / 2.0))
    torch.testing.assert_close(loss, torch.tensor((1 + 4) / 2 + (0 + 0.4 + 3.6) / 2))
    loss.backward()
    assert mean.grad[0, 1] == 0
    assert mean.grad[1, 0] == 0
    assert mean.grad[0, 0] == 1, "a sparse panel has the gradient of its own entries"
    nothing, _, n = protein_loss(mean, quantiles, torch.full((2, 2), NAN), (0.1, 0.9))
    assert (nothing, n) == (0, 0)


def test_quantiles_cannot_cross():
    raw = torch.randn(500, 3, 4) * 30
    assert (order_quantiles(raw).diff(dim=-1) >= 0).all()


def test_the_minimum_of_the_pinball_loss_is_the_quantile():
    y = torch.arange(101.0)
    losses = torch.stack([pinball_loss(y, torch.full((101, 1), float(value)), (0.25,)).mean() for value in range(101)])
    assert losses.argmin() == 25


def test_intervals_are_widened_by_hand_and_cover():
    low, high = np.zeros((4, 2)), np.ones((4, 2))
    truth = np.array([[0.5, NAN], [1.5, NAN], [-0.25, NAN], [0.9, NAN]])  # missed by -0.5, 0.5, 0.25, -0.1
    np.testing.assert_allclose(widen_intervals(low, high, truth, 0.6), [0.25, 0.0])  # the third of four
    np.testing.assert_allclose(widen_intervals(low, high, truth, 0.99), [0.5, 0.0])
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        truth = rng.normal(size=(200, 1))
        more = widen_intervals(np.full((100, 1), -0.1), np.full((100, 1), 0.4), truth[:100], 0.8)
        covered.append((np.abs(truth[100:] - 0.15) <= 0.25 + more).mean())
    assert 0.79 < np.mean(covered) < 0.82


def test_the_scale_is_that_of_the_cells_that_have_a_protein():
    rng = np.random.default_rng(0)
    values = rng.poisson(20, (40, 4)).astype(np.float32)
    values[:25, 1] = NAN
    values[5:, 2] = NAN
    values[:, 3] = 7
    panel = Panel(4, "log1p")
    panel.fit(values)
    logs = np.log1p(values.astype(np.float64))
    np.testing.assert_allclose(panel.mean[:2], np.nanmean(logs, axis=0)[:2], rtol=1e-5)
    np.testing.assert_allclose(panel.sd[:2], np.nanstd(logs, axis=0)[:2], rtol=1e-5)
    assert panel.learned.tolist() == [True, True, False, False], "five cells, and a constant, are not learned"
    scaled = panel.standardize(torch.from_numpy(values))
    assert scaled[:, 2:].isnan().all()
    torch.testing.assert_close(panel.restore(scaled)[25:, :2], torch.from_numpy(np.log1p(values[25:, :2])))


def test_clr_by_hand_and_inside_one_panel_only():
    panel = Panel(2, "clr")
    values = torch.tensor([[np.e - 1, np.e**3 - 1]], dtype=torch.float32)
    torch.testing.assert_close(panel.transformed(values), torch.tensor([[-1.0, 1.0]]))
    mixed = np.random.default_rng(0).poisson(5, (30, 2)).astype(np.float32)
    mixed[:10, 1] = NAN
    with pytest.raises(ValueError, match=r"clr subtracts the mean of a panel.*different panels.*head.panel"):
        panel.fit(mixed)


@pytest.mark.parametrize("value", [-0.3, 0.5])
def test_values_that_are_no_counts(value):
    values = np.random.default_rng(0).poisson(5, (30, 2)).astype(np.float32)
    values[3, 1] = value
    for transform in ("log1p", "clr"):
        with pytest.raises(ValueError, match=rf"transform={transform} takes counts.*hold {value}.*transform=none"):
            Panel(2, transform).fit(values)
    panel = Panel(2, "none")
    panel.fit(values)
    torch.testing.assert_close(panel.transformed(torch.from_numpy(values)), torch.from_numpy(values))
    with pytest.raises(ValueError, match=r"head.transform='log'; expected log1p, clr, none"):
        Panel(2, "log")


def test_which_proteins():
    spec = Spec(made_vocab(), 8, fields={"protein": ("CD3", "IgG1", "CD4")})
    assert choose_proteins(spec, None) == (("CD3", "CD4"), [0, 2])
    assert choose_proteins(spec, ["CD4", "IgG1"]) == (("CD4", "IgG1"), [2, 1])
    with pytest.raises(ValueError, match=r"head.panel names 'CD33'; .*did you mean 'CD3'"):
        choose_proteins(spec, ["CD33"])
    with pytest.raises(ValueError, match="head.panel names 'CD3' twice"):
        choose_proteins(spec, ["CD3", "CD3"])
    with pytest.raises(ValueError, match="head.panel is empty"):
        choose_proteins(spec, [])
    with pytest.raises(ValueError, match="store keeps none: prepare it again with side.protein=auto"):
        choose_proteins(Spec(made_vocab(), 8), None)
    with pytest.raises(ValueError, match=r"isotype controls alone \(IgG1\)"):
        choose_proteins(Spec(made_vocab(), 8, fields={"protein": ("IgG1",)}), None)
    for levels in ([0.5], [0.9, 0.1], [0.0, 0.5], [0.5, 1.0], [0.5, 0.5]):
        with pytest.raises(ValueError, match="head.quantiles="):
            require_quantiles(levels)
