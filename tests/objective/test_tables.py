"""The tables of clusters and of neighbors in the validation of both objectives."""

import numpy as np
import pytest
import torch

from scfm.objective.ar import AR, next_tokens
from scfm.objective.cluster_table import fit_clusters
from scfm.objective.mlm import MLM
from scfm.types import Spec
from scfm.vocab import Vocab
from tests.objective.planted import planted, presence

VOCAB = Vocab(tuple(f"g{i}" for i in range(30)), {"pad": 0, "mask": 1, "cls": 2, "eos": 3})


class Silent(torch.nn.Module):
    """A model that says nothing."""

    def forward(self, batch):
        return torch.zeros(batch.n_tokens, 4)

    def logits(self, hidden):
        return torch.zeros(len(hidden), 30)


@pytest.mark.parametrize("table", ["clusters_loss", "neighbors_loss"])
@pytest.mark.parametrize("kind", [MLM, AR])
def test_validation_shows_it_between_the_unigram_table_and_the_truth(kind, table):
    """With planted kinds of cells: below ln 26 of all genes, at the entropy of what is left of one kind."""
    batch = planted(200, 0)
    cells = presence(batch)
    token_counts = np.bincount(batch.ids.numpy(), minlength=30)
    clusters = fit_clusters(cells, 2, seed=0)
    spec = Spec(VOCAB, 32, token_counts=token_counts, cluster_counts=clusters, reference_cells=cells)
    found = kind(spec).eval()(Silent(), planted(40, 5))
    assert float(found[table]) < float(found["unigram_loss"]) - 0.3
    assert table not in kind(spec).train()(Silent(), planted(40, 5))
    assert len(next_tokens(batch)) == 1599


def test_a_table_that_no_one_has_cells_for_is_left_out():
    found = MLM(Spec(VOCAB, 32, token_counts=np.ones(30))).eval()(Silent(), planted(40, 5))
    assert not {"clusters_loss", "neighbors_loss"} & found.keys()
