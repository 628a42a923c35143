"""Models that weigh genes by their counts: a perturbed cell is that of an AnnData whose counts were changed by hand."""

import anndata
import numpy as np
import pytest

from scfm.datasets.demo_cells import demo_file
from scfm.inference.model import load
from scfm.metrics.perturbation import cosine
from scfm.tokenizer import from_dict
from support import SMALL, command

QUICK = {"permutations": 0, "random_weights": False, "controls": 0}


@pytest.fixture(scope="module")
def cells():
    whole = anndata.read_h5ad(demo_file())
    return whole[whole.obs["cell_type"].isin(["B cells", "Monocytes"])][::40].copy()


@pytest.fixture(scope="module")
def weighted(cells, tmp_path_factory):
    """A masked model of embedding_pool=weighted with counts."""
    folder = tmp_path_factory.mktemp("weighted")
    cells.write_h5ad(folder / "cells.h5ad")
    command("prepare", f"input={folder / 'cells.h5ad'}", f"output={folder / 'store'}", "keep_counts=true", "workers=1")
    command("train", f"store={folder / 'store'}", f"output={folder / 'run'}", "objective=mlm", *SMALL,
            "model.positions=512", "data.tokens_per_batch=1024",
            "trainer.max_steps=2", "data.max_length=512", "model.embedding_pool=weighted")  # fmt: skip
    return load(folder / "run/checkpoints/last.ckpt")


@pytest.fixture(scope="module")
def small():
    """The model that comes with the package: embedding_pool=denoised, layers that read 128 tokens."""
    return load("scfm://small")


def by_hand(cells, gene, change):
    """The cells with the counts (n,) of one gene replaced by ``change(counts)``."""
    other, column = cells.copy(), cells.var_names.get_loc(gene)
    counts = other.X.astype(np.float64).tolil()
    counts[:, column] = change(np.asarray(cells.X[:, [column]].todense()).ravel())[:, None]
    other.X = counts.tocsr()
    other.X.eliminate_zeros()
    return other


def names(cells):
    """Five genes, some at the top of the cells and some far below."""
    order = np.argsort(-np.asarray(cells.X.sum(axis=0), dtype=float).ravel())
    return [cells.var_names[order[place]] for place in (0, 2, 10, 40, 300)]


def embeddings(model, cells):
    return model.embed(cells, copy=True, counts="decimals_ok").obsm["X_scfm"].astype(float)


@pytest.mark.parametrize("name", ["weighted", "small"])
@pytest.mark.parametrize(("op", "factor"), [("delete", 1.0), ("scale", 0.5), ("scale", 3.0)])
def test_it_is_the_embedding_of_counts_changed_by_hand(request, cells, name, op, factor):
    model, wanted = request.getfixturevalue(name), 0.0 if op == "delete" else factor
    table = model.analyse("perturb", cells, op=op, factor=factor, genes=names(cells), min_cells=1, **QUICK).tables[
        "cells"
    ]
    before = embeddings(model, cells)
    assert table["symbol"].nunique() > 2
    for gene, own in table.groupby("symbol"):
        after = embeddings(model, by_hand(cells, gene, lambda counts: counts * wanted))
        rows = own["row"].to_numpy()
        np.testing.assert_allclose(own["cosine"], cosine(after[rows], before[rows]), atol=1e-6)
        assert (own["cosine"] < 1 - 1e-7).any(), gene


def test_shifts_between_states_are_those_of_changed_counts(small, cells):
    states = {"state": "cell_type", "start": "B cells", "goal": "Monocytes", "center": False}
    table = small.analyse("perturb", cells, genes=["CD74"], min_cells=1, **states, **QUICK).tables["cells"]
    before, after = embeddings(small, cells), embeddings(small, by_hand(cells, "CD74", np.zeros_like))
    goal = before[(cells.obs["cell_type"] == "Monocytes").to_numpy()].mean(axis=0)
    rows = table["row"].to_numpy()
    expected = cosine(after[rows], goal[None]) - cosine(before[rows], goal[None])
    np.testing.assert_allclose(table["shift"], expected, atol=1e-6)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("name", ["weighted", "small"])
def test_an_overexpressed_gene_has_the_count_that_puts_it_first(request, cells, name):
    """By hand: the count that it needs to have the largest count over median of the cell."""
    model = request.getfixturevalue(name)
    gene = names(cells)[3]
    table = model.analyse("perturb", cells, op="overexpress", genes=[gene], **QUICK).tables["cells"]
    table = table[table["dropped"] == 0]  # elsewhere the original is shortened as well
    medians = np.array(model.checkpoint.tokenizer["medians"])
    columns = from_dict(model.checkpoint.tokenizer).harmonize(list(cells.var_names)).columns
    own = cells[table["row"].to_numpy()]
    known = columns >= 0
    values = own.X[:, known].toarray() / medians[columns[known]]
    count = values.max(axis=1) * medians[columns[cells.var_names.get_loc(gene)]] * (1 + 1e-6)
    before, after = embeddings(model, own), embeddings(model, by_hand(own, gene, lambda old: count))
    assert len(table) > 2 and (table["cosine"] < 1 - 1e-5).any()
    np.testing.assert_allclose(table["cosine"], cosine(after, before), atol=2e-4)  # equal values change places


def test_genes_below_those_that_the_layers_read_take_no_pass_of_the_layers(small, cells, monkeypatch):
    """Their deletion changes counts alone (but for ties): states are read once, and the embedding still moves."""
    read = []
    hidden = type(small.backbone).hidden
    monkeypatch.setattr(type(small.backbone), "hidden", lambda self, batch, layer: (
        read.append(batch.n_cells), hidden(self, batch, layer))[1])  # fmt: skip
    table = small.analyse("perturb", cells[:1], genes="all", min_cells=1, **QUICK).tables["cells"]
    low = table["rank"] >= 127
    assert low.mean() > 0.5 and (table.loc[low, "cosine"] < 1).all()
    assert sum(read) <= 1.1 * (~low).sum() + 2


def test_effects_are_of_the_genes_that_the_layers_read(small, cells):
    found = small.analyse("perturb", cells[:3], genes=["CD74"], effects=True, min_cells=1, **QUICK).tables["affected"]
    assert found["n_cells"].max() <= 3 and 20 < len(found) <= 3 * 127


def test_logarithms_are_refused_in_one_sentence(small, cells):
    logs = cells.copy()
    logs.X = logs.X.log1p()
    with pytest.raises(ValueError, match="counts") as error:
        small.analyse("perturb", logs, genes=names(cells), **QUICK)
    assert "\n" not in str(error.value)
