"""The count decoder: its likelihood against scipy, its divergence by hand, its normalization, its counts."""

import numpy as np
import pytest
import torch
from scipy import stats

from scfm.head.integration.cond_decoder import CondDecoder, divergence
from scfm.head.integration.domain import DomainNorm
from scfm.head.negative_binomial import log_nb

SMALL = {"batch_key": "batch", "width": 4, "hidden": 16}


def test_negative_binomial_equals_scipy():
    x = torch.tensor([0.0, 1.0, 7.0, 300.0])
    mean, dispersion = torch.tensor([0.3, 2.0, 5.0, 250.0]), torch.tensor([0.5, 4.0, 1.0, 10.0])
    expected = stats.nbinom.logpmf(x, dispersion, dispersion / (dispersion + mean))
    np.testing.assert_allclose(log_nb(x, mean, dispersion), expected, rtol=1e-4)


def test_divergence_by_hand():
    mean, log_variance = torch.tensor([[1.0, -2.0]]), torch.log(torch.tensor([[4.0, 0.25]]))
    assert divergence(mean, log_variance).item() == pytest.approx(
        0.5 * ((1 + 4 - np.log(4) - 1) + (4 + 0.25 - np.log(0.25) - 1))
    )
    assert divergence(torch.zeros(1, 3), torch.zeros(1, 3)).item() == 0


def test_loss_is_reconstruction_plus_annealed_divergence(spec, cells, tiny):
    head = CondDecoder(spec, **SMALL, anneal=10, beta=2.0).train()
    batch = cells.batch(range(12), counts=True)
    first = head(tiny, batch)
    assert first["loss"].item() == pytest.approx(first["reconstruction"].item())
    for _ in range(4):
        head(tiny, batch)
    sixth = head(tiny, batch)
    assert sixth["loss"].item() == pytest.approx((sixth["reconstruction"] + 2.0 * 0.5 * sixth["kl"]).item(), rel=1e-5)


def test_reconstruction_by_hand(spec):
    head = CondDecoder(spec, **SMALL)
    latent, codes = torch.randn(2, 4), torch.tensor([0, 2])
    counts = torch.poisson(torch.full((2, 40), 3.0))
    with torch.no_grad():
        head.log_dispersion.normal_()
        share = head.decode(latent, codes).softmax(1).numpy()
        found = head.reconstruction(latent, codes, counts)
    x, theta = counts.numpy(), np.exp(head.log_dispersion.detach().numpy()[codes])
    mean = x.sum(1, keepdims=True) * share
    np.testing.assert_allclose(found, -stats.nbinom.logpmf(x, theta, theta / (theta + mean)).sum(1), rtol=1e-4)


def test_counts_of_tokens_become_a_table(spec, cells):
    table = CondDecoder(spec, **SMALL).gene_counts(cells.batch([3, 5], counts=True)).numpy()
    for row, cell in enumerate((3, 5)):
        for token, count in zip(cells.tokens[cell][1:-1], cells.counts[cell][1:-1], strict=True):
            assert table[row, token - 4] == count
    assert table.sum() == cells.counts[3].sum() + cells.counts[5].sum()


def test_cells_of_unknown_batch_do_not_count(spec, cells, tiny):
    head = CondDecoder(spec, **SMALL, variational=False).eval()
    batch = cells.batch([0, 1, 2], counts=True)
    batch.obs["batch"][2] = -1
    whole = head(tiny, batch)["reconstruction"]
    torch.testing.assert_close(head(tiny, cells.batch([0, 1], counts=True))["reconstruction"], whole)


def test_a_store_without_counts_is_refused(spec, cells, tiny):
    with pytest.raises(ValueError, match=r"cond_decoder reconstructs counts.*keep_counts=true"):
        CondDecoder(spec, **SMALL)(tiny, cells.batch([0, 1]))


def test_domains_are_normalized_each_by_itself_like_torch():
    values, domains = torch.randn(30, 5), torch.arange(30) % 2
    norm = DomainNorm(3, 5)
    out = norm(values, domains)
    for code in (0, 1):
        oracle = torch.nn.BatchNorm1d(5)
        torch.testing.assert_close(out[domains == code], oracle(values[domains == code]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(norm.mean[code], oracle.running_mean)
        torch.testing.assert_close(norm.variance[code], oracle.running_var)
    assert norm.mean[2].abs().max() == 0  # never seen


def test_a_lone_cell_takes_the_running_statistics():
    norm = DomainNorm(2, 3)
    value = torch.tensor([[5.0, -1.0, 2.0]])
    torch.testing.assert_close(norm(value, torch.tensor([1])), value, rtol=1e-4, atol=1e-4)
    assert norm.mean.abs().max() == 0


def test_in_evaluation_a_cell_does_not_depend_on_the_others():
    norm = DomainNorm(2, 3)
    norm(torch.randn(20, 3) * 4, torch.arange(20) % 2)
    norm.eval()
    values, domains = torch.randn(6, 3), torch.arange(6) % 2
    torch.testing.assert_close(norm(values, domains)[:1], norm(values[:1], domains[:1]))
