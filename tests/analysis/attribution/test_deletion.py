"""Deletion tests and labels on models whose answer is known."""

import numpy as np
import pytest
import torch

from scfm.analysis.attribution.deletion import alike, deletion_drops
from scfm.analysis.attribution.gradients import Presence, integrated_gradients
from scfm.analysis.attribution.label_score import Labeler
from scfm.analysis.attribution.prediction import pack_rows
from scfm.head.annotation.classifier import Classifier
from scfm.head.annotation.prototype import Prototype
from scfm.model.backbone import Backbone
from scfm.types import Spec
from support import made_vocab

SMALL = {"layers": 2, "width": 32, "heads": 2, "feedforward": 64, "positions": 64, "dropout": 0.0}
CELLS = [torch.tensor([2, *range(10, 30), 3]), torch.tensor([2, *range(12, 32), 3])]


def planted(batch):
    """A score that counts the genes 15 and 20, worth 3 and 1."""
    worth = torch.zeros(44)
    worth[15], worth[20] = 3.0, 1.0
    return torch.zeros(batch.n_cells).index_add(0, batch.token_cell, worth[batch.ids])


def test_falls_are_those_planted():
    batch = pack_rows(CELLS, torch.device("cpu"))
    weights = (batch.ids == 15).float() * 2 + (batch.ids == 20).float()
    falls, control = deletion_drops(planted, batch, batch.ids > 3, weights, [1, 2], np.random.default_rng(0), 3)
    assert falls.tolist() == [[3, 4], [3, 4]]
    assert (control[:, 0] == 0).all() and (control <= 1).all()


def test_random_genes_have_the_ranks_of_the_chosen_and_are_others():
    places, rng = np.arange(5, 45), np.random.default_rng(1)
    top = np.array([5, 6, 44])
    for _ in range(20):
        drawn = alike(places, top, rng)
        assert len(drawn) == 3 and not np.isin(drawn, top).any()
        assert sorted((drawn - 5) * 10 // 40) == [0, 0, 9]
    assert sorted(alike(places[:3], places[:2], rng)) != []  # too few others: the chosen themselves, no error


def test_a_cell_that_would_keep_no_gene_is_left_out():
    batch = pack_rows([torch.tensor([2, 15, 20, 3]), CELLS[0]], torch.device("cpu"))
    falls, _ = deletion_drops(planted, batch, batch.ids > 3, batch.ids.float(), [2], np.random.default_rng(0), 1)
    assert np.isnan(falls[0, 0]) and np.isfinite(falls[1, 0])


@pytest.mark.parametrize("head", [Classifier, Prototype])
@pytest.mark.parametrize("options", [{}, {"counts": True, "variable_components": 3}], ids=["ranks", "counts"])
def test_log_odds_of_a_head_and_their_attribution_is_complete(head, options):
    torch.manual_seed(0)
    vocab = made_vocab()
    backbone = Backbone(vocab, False, **SMALL).eval()
    task = head(Spec(vocab, 32, {"type": ("a", "b", "c")}), label="type", gene_components=4, **options).eval()
    task.state.components.loadings.normal_()
    if options:
        task.state.variable.loadings.normal_()
        task.state.variable.precision.fill_(1.0)
    labeler = Labeler("type", ("a", "b", "c"), lambda batch: task.logits(backbone, batch)[0])
    batch = pack_rows(CELLS, torch.device("cpu"))
    batch = batch.with_token_field("counts", (batch.ids > 3) * torch.arange(batch.n_tokens).float())
    score = labeler.log_odds(torch.tensor([0, 2]))
    with torch.no_grad():
        p = task.predict(backbone, batch)["logits"].softmax(1)
        own = p[[0, 1], [0, 2]]
        assert torch.allclose(score(batch), (own / (1 - own)).log(), atol=1e-4)
    found = integrated_gradients(Presence(backbone, vocab), score, batch, 64)
    assert found.relative_error < 0.02
    assert (found.tokens[batch.ids <= 3] == 0).all()
