"""The Python API: the same numbers as the commands, on cells in memory, silently."""

import subprocess
import sys
import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csc_matrix, csr_matrix

import scfm
from scfm.datasets.synthetic import synthetic_cells
from support import SMALL, command

FAST = ("trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
STEPS = {"data.max_length": 64, "data.tokens_per_batch": 1024, "trainer.accelerator": "cpu"}
TINY = {f"model.{name}": value for name, value in (("layers", 2), ("width", 32), ("heads", 2), ("feedforward", 64))}


@pytest.fixture(scope="module")
def cells():
    return synthetic_cells(n_cells=200, n_genes=150, n_types=3, n_batches=2, seed=2)


@pytest.fixture(scope="module")
def made(cells, tmp_path_factory):
    """A store, a pretrained and two fine-tuned models, all by the API."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("api")
    store = scfm.prepare(cells, output=folder / "store", obs=["cell_type", "batch"], workers=1)
    assert len(store) == 200
    pre = scfm.train(store=folder / "store", output=folder / "pre", **TINY, **STEPS, **{"trainer.max_steps": 6})
    common = {"init_from": folder / "pre/checkpoints/last.ckpt", "store": folder / "store", **STEPS}
    common |= {"trainer.max_steps": 4, "validate_every": 4, "data.group": None}
    names = scfm.finetune(output=folder / "names", **common, **{"head.label": "cell_type"})
    space = scfm.finetune(output=folder / "space", head="integration/triplet", **common, **{"head.batch_key": "batch"})
    return folder, pre, names, space


def as_layer(cells):
    adata = cells.copy()
    adata.layers["counts"] = csc_matrix(adata.X)
    adata.X = np.log1p(np.asarray(adata.X.todense()))
    return adata


def as_raw(cells):
    adata = cells.copy()
    adata.raw = adata
    adata.X = csr_matrix(np.log1p(adata.X.toarray()))
    return adata[:, :60].copy()


def by_ensembl_id(cells):
    adata = cells.copy()
    adata.var_names = adata.var["gene_id"].astype(str)
    adata.var = adata.var[[]]
    return adata


def dense_view(cells):
    adata = cells.copy()
    adata.X = adata.X.toarray()
    return ad.concat([adata, adata])[:200]


@pytest.mark.parametrize("form", [lambda cells: cells.copy(), as_layer, as_raw, by_ensembl_id, dense_view])
def test_cells_in_memory_embed_as_the_file_does_by_the_command(form, cells, made, tmp_path):
    _, _, names, _ = made
    adata = form(cells)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    command(
        "embed", f"init_from={names.checkpoint.path}", f"input={tmp_path / 'cells.h5ad'}",
        f"output={tmp_path / 'out.h5ad'}", *FAST,
    )  # fmt: skip
    wanted = ad.read_h5ad(tmp_path / "out.h5ad")
    if adata.is_view:
        adata = adata.copy()
    assert names.embed(adata) is None
    for key in ("X_scfm", "X_scfm_state"):
        np.testing.assert_array_equal(adata.obsm[key], wanted.obsm[key])
    for column in set(wanted.obs) - set(cells.obs):
        pd.testing.assert_series_equal(adata.obs[column], wanted.obs[column], check_names=False, check_index=False)
    assert adata.uns["scfm"]["X_scfm"]["vocab_hash"] == wanted.uns["scfm"]["X_scfm"]["vocab_hash"]


def test_a_file_embeds_as_by_the_command(cells, made, tmp_path):
    _, _, _, space = made
    cells.write_h5ad(tmp_path / "cells.h5ad")
    before = (tmp_path / "cells.h5ad").read_bytes()
    found = ad.read_h5ad(space.embed(tmp_path / "cells.h5ad", output=tmp_path / "api.h5ad"))
    command(
        "embed", f"init_from={space.checkpoint.path}", f"input={tmp_path / 'cells.h5ad'}",
        f"output={tmp_path / 'command.h5ad'}", *FAST,
    )  # fmt: skip
    wanted = ad.read_h5ad(tmp_path / "command.h5ad")
    assert set(found.obsm) == set(wanted.obsm) >= {"X_scfm", "X_scfm_integrated"}
    for key in wanted.obsm:
        np.testing.assert_array_equal(found.obsm[key], wanted.obsm[key])
    assert (tmp_path / "cells.h5ad").read_bytes() == before


def test_annotate_and_project_write_what_the_head_says(cells, made):
    _, _, names, space = made
    adata = cells.copy()
    copy = names.annotate(adata, copy=True)
    assert "scfm_cell_type" in copy.obs
    assert list(adata.obs) == list(cells.obs)
    assert not adata.obsm
    space.project(adata)
    assert list(adata.obsm) == ["X_scfm_integrated"]
    assert names.annotate(adata) is None
    assert adata.obs["scfm_cell_type"].dtype == "category"


def test_a_head_is_left_out_where_cells_are_read_from_another_layer(cells, made, caplog):
    _, _, names, _ = made
    found = names.embed(cells, copy=True, embedding_layer=0)
    assert set(found.obsm) == {"X_scfm"}
    assert list(found.obs) == list(cells.obs)
    assert "The head was trained on another embedding" in caplog.text
    with pytest.raises(ValueError, match="leave embedding_layer and embedding_pool out"):
        names.annotate(cells.copy(), embedding_layer=0)
    assert "scfm_cell_type" in names.embed(cells, copy=True).obs


def test_the_input_in_memory_is_never_changed_by_a_copy(cells, made):
    _, pre, _, _ = made
    adata = cells.copy()
    copy = pre.embed(adata, copy=True, key="mine")
    assert not adata.obsm
    assert set(adata.uns) == set(cells.uns)
    assert set(copy.obsm) == {"mine"}
    assert (adata.X != cells.X).nnz == 0


def test_gene_embeddings_are_the_token_table_or_means_over_cells(cells, made):
    _, pre, _, _ = made
    table = pre.gene_embeddings()
    weight = pre.module.backbone.model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(table.to_numpy(), weight[pre.vocab.gene_ids])
    assert list(table.index) == [pre.vocab.tokens[i] for i in pre.vocab.gene_ids]
    means = pre.gene_embeddings(contextual=cells)
    assert means.shape == table.shape
    store = scfm.open_store(made[0] / "store")
    rows = np.arange(len(store))
    from scfm.data.packing import pack

    total, count = np.zeros(weight.shape), np.zeros(len(weight))
    for row in rows:
        batch = pack(store.gather(rows[row : row + 1], 64), rows[row : row + 1])
        with torch.inference_mode():
            hidden = pre.backbone.hidden(batch, pre.backbone.embedding_layer).double().numpy()
        np.add.at(total, batch.ids.numpy(), hidden)
        np.add.at(count, batch.ids.numpy(), 1)
    with np.errstate(invalid="ignore"):
        expected = (total / count[:, None])[pre.vocab.gene_ids]
    np.testing.assert_allclose(means.to_numpy(), expected, atol=1e-5)
    assert np.isnan(means.to_numpy()).any(axis=1).sum() == (count[pre.vocab.gene_ids] == 0).sum()


def test_a_saved_model_is_a_checkpoint_with_the_changed_weights(cells, made, tmp_path):
    _, _, names, _ = made
    again = scfm.load(names.checkpoint.path)
    with torch.no_grad():
        again.module.backbone.model.get_input_embeddings().weight.mul_(1.01)
    path = again.save(tmp_path / "changed.ckpt")
    loaded, one, two = scfm.load(path), cells.copy(), cells.copy()
    loaded.embed(one)
    again.embed(two)
    np.testing.assert_array_equal(one.obsm["X_scfm_state"], two.obsm["X_scfm_state"])
    pd.testing.assert_frame_equal(one.obs, two.obs)
    with pytest.raises(FileExistsError, match="choose another path"):
        again.save(path)


def test_training_by_the_api_is_training_by_the_command(made, tmp_path):
    folder, pre, _, _ = made
    words = [f"{key}={value}" for key, value in {**TINY, **STEPS}.items()]
    small = [option for option in SMALL if option.split("=")[0] not in {**TINY, **STEPS, "model.positions": 0}]
    command("train", f"store={folder / 'store'}", f"output={tmp_path / 'run'}", *words, *small, "trainer.max_steps=6")
    other = scfm.load(tmp_path / "run/checkpoints/last.ckpt")
    for name, value in pre.backbone.state_dict().items():
        assert torch.equal(value, other.backbone.state_dict()[name]), name


def test_evaluate_returns_a_result_and_writes_nothing(cells, made, tmp_path, monkeypatch):
    pytest.importorskip("scanpy")
    monkeypatch.chdir(tmp_path)
    _, pre, _, _ = made
    adata = pre.embed(cells, copy=True)
    result = scfm.evaluate(adata, label="cell_type", batch="batch", baselines=["pca"], draws=10)
    assert result.summary
    assert "X_scfm" in str(result.to_dict())
    assert list(tmp_path.iterdir()) == []


def test_scanpy_goes_on_from_the_embedding(cells, made):
    sc = pytest.importorskip("scanpy")
    _, pre, _, _ = made
    adata = cells.copy()
    pre.embed(adata)
    sc.pp.neighbors(adata, use_rep="X_scfm", n_neighbors=10)
    sc.tl.umap(adata, maxiter=20)
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2)
    assert adata.obsm["X_umap"].shape == (200, 2)
    assert adata.obs["leiden"].notna().all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda pre, names, adata: pre.annotate(adata), ValueError, "was pretrained only.*writes no obs columns"),
        (lambda pre, names, adata: names.project(adata), ValueError, "head Classifier of .* projects nothing"),
        (lambda pre, names, adata: pre.embed("no.h5ad", output="out.h5ad"), FileNotFoundError, "no.h5ad"),
        (lambda pre, names, adata: pre.embed("no.h5ad"), ValueError, "give output="),
        (lambda pre, names, adata: pre.embed(adata, output="out.h5ad"), ValueError, "output=... is for a file"),
        (lambda pre, names, adata: pre.embed(adata, key="a/b"), ValueError, "key='a/b'; expected a name without a"),
        (lambda pre, names, adata: pre.embed(adata, tokens=5), ValueError, "unknown option.* tokens; known are"),
        (lambda pre, names, adata: pre.embed(adata, block_size=0), ValueError, "block_size=0; expected a whole number"),
        (lambda pre, names, adata: pre.embed(adata, layer="no"), ValueError, "the AnnData: has no layer 'no'"),
        (lambda pre, names, adata: scfm.load("no.ckpt"), FileNotFoundError, "no checkpoint at no.ckpt"),
        (lambda pre, names, adata: scfm.train(stor="x"), ValueError, "stor is unknown; did you mean 'store'"),
    ],
)
def test_refusals(call, error, message, cells, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, pre, names, _ = made
    with pytest.raises(error, match=message):
        call(pre, names, cells.copy())


def test_cells_with_other_genes_are_refused_by_name(cells, made):
    _, pre, _, _ = made
    other = ad.AnnData(cells.X, obs=cells.obs, var=pd.DataFrame(index=[f"contig_{i}" for i in range(cells.n_vars)]))
    with pytest.raises(ValueError, match="the AnnData"):
        pre.embed(other)


def test_nothing_is_printed_unless_asked_for(cells, made, tmp_path, capsys):
    _, pre, _, _ = made
    pre.embed(cells.copy())
    scfm.prepare(cells, output=tmp_path / "store", workers=1)
    assert capsys.readouterr() == ("", "")
    pre.embed(cells.copy(), progress=True)
    assert "200/200" in capsys.readouterr().err


def test_importing_scfm_is_free_and_lists_the_api():
    code = "import time; t = time.process_time(); import scfm; print(time.process_time() - t, *dir(scfm))"
    seconds, *names = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert float(seconds) < 0.3
    assert {"load", "prepare", "open_store", "evaluate", "train", "finetune", "Model"} <= set(names)
    assert time  # measured in the child
