"""The contrast beside MLM: two halves of the counts, in micro-batches of one file."""

import numpy as np
import pytest
import torch

from scfm.data.loader import PackedCells
from scfm.data.module import CellData
from scfm.datasets.synthetic import synthetic_cells
from scfm.model.backbone import Backbone
from scfm.model.ranking import divide_counts
from scfm.objective.mlm import MLM
from scfm.objective.mlm_contrast import MLMContrast
from scfm.preparation.api import prepare
from scfm.store.token_store import TokenStore
from scfm.tokenizer import MedianTokenizer
from scfm.training.fit import gene_scale, make_spec

TOKENIZER = MedianTokenizer(
    name="small", max_length=200, specials={"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"}
)
SMALL = {"layers": 2, "width": 32, "heads": 2, "feedforward": 64, "positions": 256, "dropout": 0.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_files")
    for name, n_cells, seed in (("a", 120, 0), ("b", 30, 1)):
        cells = synthetic_cells(n_cells=n_cells, n_genes=80, n_types=3, n_batches=1, seed=seed)
        cells.obs_names = [f"{name}{i}" for i in range(n_cells)]
        cells.write_h5ad(folder / f"{name}.h5ad")
    files = [folder / "a.h5ad", folder / "b.h5ad"]
    return prepare(files, folder / "store", TOKENIZER, keep_counts=True, workers=1)


def matrix(batch, n_tokens):
    dense = torch.zeros(batch.n_cells, n_tokens)
    return dense.index_put((batch.token_cell, batch.ids), batch.counts, accumulate=True)


def test_halves_add_up_and_are_ranked_as_the_tokenizer_ranks(store):
    batch = PackedCells(store, (), None, counts=True)[(np.arange(20), 3)]
    scale = torch.from_numpy(gene_scale(store))
    generator = torch.Generator().manual_seed(0)
    one, two = divide_counts(batch, store.vocab, scale, 0.2, generator)
    whole, parts = matrix(batch, len(store.vocab)), [matrix(half, len(store.vocab)) for half in (one, two)]
    assert torch.equal(sum(parts), whole)
    assert 0.2 < float(parts[0].sum() / whole.sum()) < 0.8
    for half in (one, two):
        value = (half.counts.double() / scale[half.ids])[half.counts > 0]
        cell = half.token_cell[half.counts > 0]
        assert ((value.diff() <= 1e-12) | (cell.diff() > 0)).all()


def test_halves_are_independent_for_poisson_counts(store):
    """Their correlation over cells of one rate is 0 within three standard errors."""
    batch = PackedCells(store, (), None, counts=True)[(np.arange(100), 3)]
    counts = torch.poisson(torch.full_like(batch.counts, 8.0), generator=torch.Generator().manual_seed(0))
    one, two = divide_counts(
        batch.with_token_field("counts", counts), store.vocab, torch.ones(len(store.vocab)), 0.5, torch.Generator()
    )
    a, b = matrix(one, len(store.vocab)), matrix(two, len(store.vocab))
    seen = (a + b) > 0
    r = np.corrcoef(a[seen].numpy(), b[seen].numpy())[0, 1]
    assert abs(r) < 3 / np.sqrt(int(seen.sum())) + 0.02


def test_micro_batches_are_of_one_file_and_small_files_come_more_often(store):
    data = CellData(store, tokens_per_batch=600)
    objective = MLMContrast(make_spec(data, 32), balance=0.0)
    planned = data.planned(objective.requirements())
    files, share = store.obs("file"), []
    for batch in planned.loader(data.split.train, held_out=False, alone=True):
        assert len(np.unique(files[batch.index.numpy()])) == 1
        assert batch.counts is not None
        share.append(files[batch.index.numpy()][0])
    assert abs(np.mean(share) - 0.5) < 0.2, "with balance=0 both files are read equally often"


def test_validation_is_that_of_mlm_and_training_adds_the_contrast(store):
    data = CellData(store)
    spec = make_spec(data, 32)
    torch.manual_seed(0)
    backbone = Backbone(store.vocab, False, **SMALL, embedding_pool="weighted")
    objective, plain = MLMContrast(spec), MLM(spec)
    batch = PackedCells(store, (), None, counts=True)[(np.arange(16), 3)]
    for task in (objective, plain):
        task.eval()
    for name, value in plain(backbone, batch).items():
        assert torch.equal(objective(backbone, batch)[name], value)
    objective.train()
    found = objective(backbone, batch)
    torch.testing.assert_close(found["loss"], found["mlm"] + found["contrast"])
    assert 0 <= float(found["paired"]) <= 1
    without = MLMContrast(spec, contrast=0.0).train()(backbone, batch)
    torch.testing.assert_close(without["loss"], without["mlm"])
    assert torch.equal(objective(backbone, batch)["loss"], found["loss"]), "a pure function of the batch and its seed"


def test_learns_to_pair_halves(store):
    data = CellData(store)
    torch.manual_seed(0)
    backbone = Backbone(store.vocab, False, **SMALL, embedding_pool="weighted")
    objective = MLMContrast(make_spec(data, 32)).train()
    batch = PackedCells(store, (), None, counts=True)[(np.arange(24), 3)]
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        found = objective(backbone, batch)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        losses.append(float(found["contrast"]))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contrast": -1}, r"objective\.contrast=-1"),
        ({"temperature": 0}, r"objective\.temperature=0"),
        ({"smallest": 0.6}, r"objective\.smallest=0\.6; expected a share above 0, at most 0\.5"),
        ({"balance": 2}, r"objective\.balance=2; expected a power from 0 to 1"),
    ],
)
def test_refusals(store, options, message):
    with pytest.raises(ValueError, match=message):
        MLMContrast(make_spec(CellData(store), 32), **options)


def test_a_store_of_ranks_is_refused(made_store):
    data = CellData(TokenStore.open(made_store))
    with pytest.raises(ValueError, match="keep_counts=true"):
        data.planned(MLMContrast(make_spec(data, 32)).requirements())
