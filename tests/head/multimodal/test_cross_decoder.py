"""Cross decoders: the four terms by hand, and fits that predict cells left out."""

import numpy as np
import pytest
import torch
from scipy import stats

from scfm.head.multimodal.cross_decoder import CrossDecoders, Decoder, decoder_loss


def test_losses_by_hand():
    scores = torch.tensor([[0.0, np.log(3.0)]], dtype=torch.float64)
    counts = torch.tensor([[2.0, 4.0]], dtype=torch.float64)
    assert decoder_loss("counts", scores, counts).item() == pytest.approx(-(2 * np.log(1 / 4) + 4 * np.log(3 / 4)))
    opened = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert decoder_loss("open", scores, opened).item() == pytest.approx(-np.log(0.5) - np.log(1 / 4))
    values = torch.tensor([[2.0, torch.nan]], dtype=torch.float64)
    assert decoder_loss("values", scores, values).item() == pytest.approx(2.0)


def test_four_terms_by_hand():
    torch.manual_seed(0)
    cross = CrossDecoders(3, 2, 2, "open")
    torch.nn.init.normal_(cross.genes.line.weight)
    torch.nn.init.normal_(cross.other.line.weight)
    places = torch.randn(5, 3), torch.randn(5, 3)
    counts, opened = torch.randint(0, 9, (5, 2)).float(), torch.randint(0, 2, (5, 2)).float()
    terms = []
    with torch.no_grad():
        for place in places:
            mean = counts.sum(1, keepdim=True) * cross.genes.read(place)
            terms.append(-stats.nbinom.logpmf(counts, 1.0, (1 / (1 + mean)).numpy()).mean())  # θ begins at 1
            p = cross.other.read(place).numpy()
            terms.append(-3 * np.where(opened.numpy() > 0, np.log(p), np.log(1 - p)).mean())
        assert cross(places, counts, opened).item() == pytest.approx(sum(terms) / 2, rel=1e-4)


@pytest.mark.parametrize("kind", ["counts", "open", "values"])
def test_a_fit_predicts_cells_left_out_and_nothing_where_there_is_nothing(kind):
    rng = np.random.default_rng(0)
    places, weight = rng.normal(size=(400, 4)), rng.normal(size=(4, 6))

    def truth(signal):
        score = signal * places @ weight
        if kind == "counts":
            return rng.poisson(20 * np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)).astype(np.float32)
        if kind == "open":
            return (rng.random(score.shape) < 1 / (1 + np.exp(-score))).astype(np.float32)
        values = score + rng.normal(size=score.shape)
        values[::7, 2] = np.nan
        return values.astype(np.float32)

    for signal, better in ((1.0, True), (0.0, False)):
        found = truth(signal)
        one, mean = Decoder(kind, 4, 6), Decoder(kind, 4, 6)
        one.fit(places[:300], found[:300])
        with torch.no_grad():
            mean.line.bias.copy_(one.line.bias)
            held, target = torch.from_numpy(places[300:]).float(), torch.from_numpy(found[300:])
            gain = decoder_loss(kind, mean(held), target).sum() / decoder_loss(kind, one(held), target).sum() - 1
        assert (gain > 0.05) == better
        assert gain > -0.05


def test_reading_gives_shares_and_probabilities():
    decoder = Decoder("counts", 2, 3)
    torch.testing.assert_close(decoder.read(torch.randn(4, 2)), torch.full((4, 3), 1 / 3))
    assert (Decoder("open", 2, 3).read(torch.randn(4, 2)) == 0.5).all()
