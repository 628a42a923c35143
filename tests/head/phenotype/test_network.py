"""Attention over cells: hand-made numbers, invariances, and many networks fitted as one."""

import numpy as np
import pytest
import torch

from scfm.head.phenotype.bags import Bags, make_bags
from scfm.head.phenotype.fit import Fit, fit_networks, run_networks
from scfm.head.phenotype.kinds import bag_loss, class_weights, cox_loss, prediction
from scfm.head.phenotype.network import BagNetwork, instance_loss


def random_network(**options):
    torch.manual_seed(0)
    network = BagNetwork(5, 3, hidden=4, **options)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    return network


def test_attention_by_hand():
    network = random_network()
    cells = torch.randn(1, 4, 5)
    logits, attention = network(cells, torch.ones(1, 4, dtype=torch.bool))
    V, U = network.tanh, network.gate
    e = [(network.score[0] @ (torch.tanh(V(h)) * torch.sigmoid(U(h)))).item() for h in cells[0]]
    a = np.exp(e) / np.exp(e).sum()
    z = (torch.tensor(a)[:, None] * cells[0]).sum(0).float()
    np.testing.assert_allclose(attention[0, :, 0].detach(), a, rtol=1e-5)
    torch.testing.assert_close(logits[0], network.weight @ z + network.bias)


@pytest.mark.parametrize("options", [{}, {"branches": True}, {"inducing": 3}, {"pool": "mean"}])
def test_the_order_of_cells_and_padding_do_not_matter(options):
    network = random_network(**options)
    cells, mask = torch.randn(2, 6, 5), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    logits, attention = network(cells, mask)
    assert (attention[1, 4:] == 0).all()
    torch.testing.assert_close(attention.sum(1), torch.ones(2, attention.shape[2]))
    order = torch.randperm(6)
    again, moved = network(cells[:, order], mask[:, order])
    torch.testing.assert_close(again, logits)
    torch.testing.assert_close(moved, attention[:, order])
    alone, _ = network(cells[1:, :4], mask[1:, :4])
    torch.testing.assert_close(alone[0], logits[1])


def test_a_new_network_is_the_mean_of_the_cells():
    cells, mask = torch.randn(2, 6, 5), torch.ones(2, 6, dtype=torch.bool)
    _, attention = BagNetwork(5, 2, branches=True)(cells, mask)
    torch.testing.assert_close(attention, torch.full((2, 6, 2), 1 / 6))


def test_cox_by_hand():
    risk, time = torch.tensor([1.0, 0.5, -0.2]), torch.tensor([2.0, 1.0, 3.0])
    event, every = torch.tensor([1.0, 1.0, 0.0]), torch.ones(3)
    first = 0.5 - np.log(np.exp([1.0, 0.5, -0.2]).sum())
    second = 1.0 - np.log(np.exp([1.0, -0.2]).sum())
    assert float(cox_loss(risk, time, event, every)) == pytest.approx(-(first + second) / 2, rel=1e-5)
    held_out = cox_loss(risk, time, event, torch.tensor([1.0, 0.0, 1.0]))  # the second leaves events and risk sets
    assert float(held_out) == pytest.approx(-second, rel=1e-5)
    assert float(cox_loss(risk, time, torch.zeros(3), every)) == 0


def test_losses_and_predictions_by_hand():
    weight = torch.tensor([1.0, 3.0])
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    each = -np.log([np.e / (1 + np.e), np.e**2 / (1 + np.e**2)])
    assert float(bag_loss("class", logits, torch.tensor([1, 0]), weight)) == pytest.approx(
        (each @ [1, 3]) / 4, rel=1e-5
    )
    above = torch.tensor([[1.0, -1.0]])  # P(y > 0), P(y > 1) as logits
    p = torch.sigmoid(above)[0].numpy()
    np.testing.assert_allclose(prediction("ordinal", above)[0], [1 - p[0], p[0] - p[1], p[1]], rtol=1e-6)
    loss = bag_loss("ordinal", above, torch.tensor([1]), torch.ones(1))
    assert float(loss) == pytest.approx(-np.log(p[0]) - np.log(1 - p[1]), rel=1e-5)
    assert float(bag_loss("value", torch.tensor([[2.0]]), torch.tensor([0.5]), torch.ones(1))) == 2.25


def test_ordered_classes_have_ordered_probabilities():
    network = random_network(ordinal=True)
    logits, _ = network(torch.randn(7, 3, 5), torch.ones(7, 3, dtype=torch.bool))
    assert (logits.diff(dim=1) < 0).all()
    assert (prediction("ordinal", logits) > 0).all()


def test_classes_weigh_alike():
    weight = class_weights(torch.tensor([[0, 0, 0, 1]]), torch.tensor([[True, True, False, True]]), 2)
    torch.testing.assert_close(weight, torch.tensor([[0.5, 0.5, 0.0, 1.0]]))


def test_the_instance_term_by_hand_and_off_in_small_bags():
    attention = torch.linspace(0, 1, 60)[None]
    scores = torch.linspace(-2, 2, 60)[None]
    found = instance_loss(scores, attention, torch.ones(1, 60, dtype=torch.bool), 2)
    high, low = scores[0, -2:].numpy(), scores[0, :2].numpy()
    expected = (np.log1p(np.exp(1 - high)).mean() + np.log1p(np.exp(1 + low)).mean()) / 2
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert float(instance_loss(scores[:, :49], attention[:, :49], torch.ones(1, 49, dtype=torch.bool), 2)) == 0


def planted(n=20, cells=40, seed=0):
    """Bags of which those of class 1 hold a tenth of cells of another kind."""
    rng = np.random.default_rng(seed)
    values, place = rng.normal(size=(n * cells, 6)).astype(np.float32), np.repeat(np.arange(n), cells)
    truth = np.arange(n) % 2
    special = (truth[place] == 1) & (np.tile(np.arange(cells), n) < cells // 10)
    values[special, 0] += 4
    bags = make_bags(torch.from_numpy(values), torch.from_numpy(place), n)
    return bags, torch.from_numpy(truth), special, place


def test_planted_cells_are_attended_to_and_many_networks_are_each_as_one_alone():
    bags, truth, special, _ = planted()
    network = BagNetwork(6, 2)
    labels = torch.stack([truth, truth.roll(1), torch.tensor(np.random.default_rng(1).permutation(truth.numpy()))])
    used = torch.ones_like(labels, dtype=torch.bool)
    used[0, -4:] = False  # held out
    how = Fit(steps=60)
    found = fit_networks(network, bags, labels, used, how)
    for i in range(3):
        alone = fit_networks(network, bags, labels[i : i + 1], used[i : i + 1], how)
        for name, value in alone.items():
            torch.testing.assert_close(found[name][i : i + 1], value, rtol=1e-3, atol=1e-4)
    logits, attention = run_networks(network, found, bags)
    assert (logits[0, -4:].argmax(-1) == truth[-4:]).all()
    mine = attention[0, ..., 0][torch.from_numpy(special.reshape(20, 40))]
    assert mine.mean() > 2 / 40  # twice the average cell


def test_with_an_instance_term_and_branches_too():
    bags, truth, _, _ = planted(cells=60)
    network = BagNetwork(6, 2, branches=True)
    found = fit_networks(network, bags, truth[None], torch.ones(1, 20, dtype=torch.bool), Fit(steps=60, instances=4))
    logits, _ = run_networks(network, found, bags)
    assert (logits[0].argmax(-1) == truth).float().mean() > 0.9


def test_the_mean_of_the_cells_says_all_to_a_linear_network():
    network = random_network(pool="mean")
    cells, mask = torch.randn(2, 6, 5), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    part = Bags(cells, mask).pooled()
    torch.testing.assert_close(network(part.values, part.mask)[0], network(cells, mask)[0])
    assert (
        network.is_linear and not random_network(pool="mean", inducing=2).is_linear and not random_network().is_linear
    )


def test_sub_bags_hold_cells_of_their_sample():
    values = torch.arange(12.0).view(2, 6, 1)
    mask = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    part = Bags(values, mask).draw(3, torch.Generator().manual_seed(0))
    assert part.values.shape == (2, 3, 1)
    assert part.mask.sum(1).tolist() == [3, 2]
    assert set(part.values[1][part.mask[1]].flatten().tolist()) == {6.0, 7.0}
    assert len(set(part.values[0].flatten().tolist())) == 3
    with pytest.raises(ValueError, match="head.pool='max'"):
        BagNetwork(5, 2, pool="max")
