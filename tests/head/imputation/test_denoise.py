"""head=imputation/denoise: its loss by hand, what it must not do to data, refusals."""

import numpy as np
import pytest
import torch
from scipy import stats

from scfm.head.imputation.denoise import Denoise
from scfm.metrics.denoising import explained_deviance


def made(spec, **options):
    return Denoise(spec, **{"genes_out": 40, "gene_components": 8, "hidden": 8, **options})


@pytest.fixture
def head(cells, tiny, spec):
    found = made(spec)
    found.prepare(cells.survey(tiny))
    return found.eval()


def test_loss_is_the_negative_binomial_of_the_hidden_molecules(head, tiny, cells):
    batch = cells.batch(range(12), seed=3, counts=True)
    part, hidden = head.thin(batch)
    with torch.no_grad():
        found = head(tiny, batch)
        shares = head.shares(head.state(tiny, part)).double().numpy()
        theta = head.log_dispersion.exp().double().numpy()
    x = hidden.double().numpy()
    mean = x.sum(axis=1, keepdims=True) * shares
    oracle = -stats.nbinom.logpmf(x, theta, theta / (theta + mean)).mean()
    assert found["loss"].item() == pytest.approx(oracle, rel=1e-3)
    assert found["d2"].item() == pytest.approx(explained_deviance(x, shares, head.means.double().numpy()), rel=1e-4)


def test_read_and_hidden_molecules_add_up_and_the_cell_decides_how_many(head, cells):
    batch = cells.batch(range(60), seed=3, counts=True)
    part, hidden = head.thin(batch)
    whole = head.gene_counts(batch)
    torch.testing.assert_close(head.gene_counts(part) + hidden, whole)
    assert (hidden >= 0).all()
    share = (hidden.sum(1) / whole.sum(1)).numpy()
    assert 0.02 < share.min() < share.max() < 0.62
    assert share.std() > 0.05
    again, other = head.thin(batch)[1], head.thin(cells.batch(range(60), seed=4, counts=True))[1]
    assert torch.equal(hidden, again)
    assert not torch.equal(hidden, other)


def test_shares_sum_to_1_and_expected_counts_to_the_total_of_the_cell(head, tiny, cells):
    batch = cells.batch(range(20), counts=True)
    denoised = head.predict(tiny, batch)["denoised"]
    torch.testing.assert_close(denoised.sum(1), head.gene_counts(batch).sum(1))
    assert (denoised >= 0).all()


def test_molecules_that_were_not_read_are_predicted_and_training_goes_on(tiny, cells, spec):
    head = made(spec)
    head.prepare(cells.survey(tiny))
    assert head.told.float().mean() > 0.3
    assert head.explained > 0.1
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    fixed = cells.batch(range(60), seed=1000, counts=True)
    before = head.eval()(tiny, fixed)
    head.train()
    for step in range(30):
        drawn = np.random.default_rng(step).permutation(len(cells))[:48]
        loss = head(tiny, cells.batch(drawn, seed=step, counts=True))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert head.eval()(tiny, fixed)["loss"] < before["loss"]


def test_what_is_predicted_of_a_cell_does_not_depend_on_others_and_survives_saving(head, tiny, cells, spec):
    fresh = made(spec)
    fresh.load_state_dict(head.state_dict(), strict=True)
    fresh.eval()
    with torch.inference_mode():
        many = head.predict(tiny, cells.batch(range(20), counts=True))["denoised"]
        alone = fresh.predict(tiny, cells.batch([7, 90], counts=True))["denoised"]
    torch.testing.assert_close(many[7], alone[0], atol=1e-4, rtol=1e-4)


def test_genes_that_are_not_told_keep_their_mean_share_in_every_cell_after_training(head, tiny, cells):
    with torch.no_grad():
        head.told[:5] = False
        head.told[5:] = True
        torch.nn.init.normal_(head.deep[-1].weight)
        batch = cells.batch(range(30), counts=True)
        denoised = head.predict(tiny, batch)["denoised"]
        shares = denoised / denoised.sum(1, keepdim=True)
    torch.testing.assert_close(shares[:, :5], head.means[:5].expand(30, 5), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"genes_out": 1}, "head.genes_out=1; expected at least 2"),
        ({"gene_components": 0}, "head.gene_components=0; expected a number above 0"),
        ({"thinning": [0.0, 0.5]}, "head.thinning"),
        ({"thinning": [0.5, 0.1]}, "head.thinning"),
        ({"thinning": [0.5]}, "head.thinning"),
        ({"thinning": [0.1, 1.0]}, "head.thinning"),
        ({"errors": -1.0}, "head.errors=-1.0; expected a weight, 0 or more"),
        ({"hidden": -1}, "head.hidden=-1"),
        ({"dropout": 1.0}, "head.dropout=1.0"),
        ({"max_tokens": 2}, "head.max_tokens=2"),
    ],
)
def test_numbers_out_of_their_range_are_refused(options, message, spec):
    with pytest.raises(ValueError, match=message):
        made(spec, **options)


def test_too_few_cells_decimals_and_cells_without_counts_are_refused(tiny, cells, spec):
    from dataclasses import replace

    few = np.arange(len(cells)) < 19
    with pytest.raises(ValueError, match="19 training cells.*at least 20"):
        made(spec).prepare(cells.survey(tiny, train=few))
    decimals = replace(cells.survey(tiny), counts=lambda rows: cells.token_counts(rows) * 1.1)
    with pytest.raises(ValueError, match="no whole numbers.*without counts=decimals_ok"):
        made(spec).prepare(decimals)
    with pytest.raises(ValueError, match="keeps ranks only: prepare it again with keep_counts=true"):
        made(spec).predict(tiny, cells.batch(range(3)))
