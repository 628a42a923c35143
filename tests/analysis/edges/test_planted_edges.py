"""Pairs that are planted in a corpus are edges of a trained model, and none of one with random weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scfm.analysis.attribution.prediction import pack_rows
from scfm.analysis.edges.collection import PredictionOptions, Tokens, attention_sums, gene_vectors, prediction_sums
from scfm.metrics.network.edge_sums import compare_edges
from scfm.metrics.network.recovery import Reference, recovery
from scfm.model.backbone import Backbone
from scfm.objective.ar import AR
from scfm.objective.mlm import MLM
from scfm.types import Spec
from support import made_vocab

GENES = np.arange(4, 44)


def corpus(n_cells, rng):
    """Cells of four planted pairs, gene 2 k right before gene 2 k + 1, and four other genes, in random order."""
    rows = []
    for _ in range(n_cells):
        pairs = [[2 * int(i), 2 * int(i) + 1] for i in rng.permutation(10)[:4]]
        units = pairs + [[20 + int(gene)] for gene in rng.permutation(20)[:4]]
        rows.append(torch.tensor([2, *(4 + gene for i in rng.permutation(8) for gene in units[i]), 3]))
    return rows


@pytest.fixture(scope="module")
def planted():
    truth = np.zeros((40, 40), dtype=bool)
    truth[2 * np.arange(10), 2 * np.arange(10) + 1] = True
    return truth, Reference(truth, ~np.eye(40, dtype=bool) & ~truth.T)


@pytest.fixture(scope="module", params=[False, True], ids=["mlm", "ar"])
def trained(request):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng, vocab = np.random.default_rng(0), made_vocab(40)
    sizes = {"layers": 2, "width": 32, "heads": 2, "feedforward": 64, "positions": 32, "dropout": 0.0}
    backbone = Backbone(vocab, request.param, **sizes)
    untrained = Backbone(vocab, request.param, **sizes).eval()
    task = AR(Spec(vocab, 32)) if request.param else MLM(Spec(vocab, 32), mask_fraction=0.2)
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=5e-3)
    for step in range(400):
        batch = replace(pack_rows(corpus(32, rng), torch.device("cpu")), seed=step)
        optimizer.zero_grad()
        task(backbone, batch)["loss"].backward()
        optimizer.step()
    tokens = Tokens.from_batches([pack_rows(corpus(100, rng), torch.device("cpu"))], GENES, 20, seed=0)
    return backbone.eval(), untrained, tokens


def sums(backbone, tokens):
    options = PredictionOptions(("integrated_gradients",), 40, 8, 8, seed=0)
    more, error = prediction_sums(backbone, made_vocab(40), tokens, 40, options, lambda n: None)
    return attention_sums(backbone, tokens, 40, lambda n: None) | more, error


def test_planted_edges_are_recovered_by_training_alone(trained, planted):
    truth, reference = planted
    backbone, untrained, tokens = trained
    found, error = sums(backbone, tokens)
    other, _ = sums(untrained, tokens)
    assert np.isfinite(error)
    ours, none = (recovery(part["integrated_gradients"].means(3)[0], reference) for part in (found, other))
    # in a causal model the token before matters most whatever the weights, in a direction of chance: about half are hit
    assert ours["early_precision"] >= 0.9 and none["early_precision"] <= (0.5 if backbone.causal else 0.2)
    z, p = compare_edges(found["attention"].means(3))
    assert np.nanmedian(p[truth]) < 0.05 < 0.3 < np.nanmedian(p[reference.candidates & ~truth])
    if not backbone.causal:
        none = compare_edges(other["attention"].means(3))[0]
        assert recovery(z, reference)["auprc_ratio"] > 40 > 10 > recovery(none, reference)["auprc_ratio"]


def test_edges_of_cells_in_another_order_are_the_same(trained):
    backbone, _, tokens = trained
    batch = tokens.batches[0]
    halves = batch.split(2)
    plain = Tokens([batch], tokens.labels[:1])
    turned = Tokens(
        halves[::-1], np.concatenate(np.split(tokens.labels[:1], [halves[0].n_tokens], axis=1)[::-1], axis=1)
    )
    one, two = (attention_sums(backbone, part, 40, lambda n: None)["attention"].means()[0] for part in (plain, turned))
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_vectors_of_genes(trained):
    backbone, _, tokens = trained
    vectors = gene_vectors(backbone, tokens.batches, GENES)
    batch = tokens.batches[0]
    assert np.allclose(vectors["static"], backbone.input_vectors(torch.from_numpy(GENES)).detach().numpy())
    with torch.no_grad():
        hidden = backbone.hidden(batch, backbone.embedding_layer)[batch.ids == 10].mean(0)
    assert np.allclose(vectors["contextual"][6], hidden.numpy(), atol=1e-5)


def test_labels_are_places_among_the_genes():
    batch = pack_rows([torch.tensor([2, 30, 11, 3])], torch.device("cpu"))
    tokens = Tokens.from_batches([batch], np.array([11, 20]), 3, seed=0)
    assert tokens.labels.tolist() == [[-1, -1, 0, -1]] * 4
    assert len(tokens.cells(1)) == 1 and tokens.cells()[0][0].tolist() == [2, 30, 11, 3]
