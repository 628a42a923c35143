"""The command: each step, its curve, and that every other command reads what it writes."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

import scfm
from scfm.checkpoint import read
from scfm.datasets.synthetic import synthetic_cells
from support import SMALL, command


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("compress")
    cells = synthetic_cells(n_cells=120, n_genes=150, n_types=3, n_batches=2, n_donors=2, depth=300, seed=1)
    counts = cells.X.toarray()
    counts[:, :30] = 0
    cells.X = csr_matrix(counts)
    cells.write_h5ad(folder / "cells.h5ad")
    command("prepare", f"input={folder / 'cells.h5ad'}", f"output={folder / 'store'}", "workers=1", "obs=[cell_type]",
            "keep_counts=true")  # fmt: skip
    whole = synthetic_cells(n_cells=40, n_genes=150, n_types=3, n_batches=2, n_donors=2, depth=300, seed=1)
    whole.write_h5ad(folder / "other.h5ad")
    command("train", f"store={folder / 'store'}", f"output={folder / 'pre'}", *SMALL, "data.max_length=32",
            "model.embedding_pool=weighted", "trainer.max_steps=5")  # fmt: skip
    return folder


def compress(made, output, *options):
    return command("compress", f"init_from={made / 'pre/checkpoints/last.ckpt'}", f"store={made / 'store'}",
                   f"output={output}", "max_length=32", *options)  # fmt: skip


def test_all_steps_in_one_and_the_result_embeds_and_is_fine_tuned(made, tmp_path):
    rows = compress(made, tmp_path / "small.ckpt", "layers=1", "feedforward=32", "width=16", "distill.steps=4",
                    "min_cells=20", "int8=true")  # fmt: skip
    steps = [row["step"] for row in rows]
    assert len(rows) == 6 and steps[0] == "as it was" and steps[-1] == "int8"
    sizes = [row["parameters"] for row in rows]
    assert (np.diff(sizes) <= 0).all() and rows[-1]["megabytes"] < 0.6 * rows[-2]["megabytes"]  # small matrices stay
    assert rows[-1]["cosine"] != rows[-1]["cosine"] or rows[-1]["cosine"] > 0.9
    assert pd.read_csv(tmp_path / "small.csv")["step"].tolist() == steps
    cells = ad.read_h5ad(made / "cells.h5ad")
    model = scfm.load(tmp_path / "small.ckpt")
    model.embed(cells)
    assert cells.obsm["X_scfm"].shape == (120, 16) and np.isfinite(cells.obsm["X_scfm"]).all()
    assert len(model.vocab.gene_ids) < 150
    command("prepare", f"input={made / 'cells.h5ad'}", f"output={tmp_path / 'store'}", "workers=1", "obs=[cell_type]",
            f"init_from={tmp_path / 'small.ckpt'}", "keep_counts=true")  # fmt: skip
    command("finetune", f"init_from={tmp_path / 'small.ckpt'}", f"store={tmp_path / 'store'}",
            f"output={tmp_path / 'head'}", "head.gene_components=4", "report=false", "trainer.max_steps=2",
            "data.max_length=32", *SMALL[5:])  # fmt: skip


def test_int8_alone_keeps_the_embedding(made, tmp_path):
    compress(made, tmp_path / "int8.ckpt", "int8=true")
    cells = [ad.read_h5ad(made / "cells.h5ad") for _ in range(2)]
    for path, given in zip((made / "pre/checkpoints/last.ckpt", tmp_path / "int8.ckpt"), cells, strict=True):
        scfm.load(path).embed(given)
    one, two = (given.obsm["X_scfm"] for given in cells)
    cosine = (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
    assert cosine.min() > 0.999
    assert all(value.dtype != torch.int8 for value in read(tmp_path / "int8.ckpt").weights.values())


def test_genes_that_no_cell_has_go_without_a_trace_and_heads_keep_working(made, tmp_path):
    command("finetune", f"init_from={made / 'pre/checkpoints/last.ckpt'}", f"store={made / 'store'}",
            f"output={tmp_path / 'head'}", "head.gene_components=4", "report=false", "trainer.max_steps=2",
            "data.max_length=32", "data.group=null", *SMALL[5:])  # fmt: skip
    best = tmp_path / "head/checkpoints/best.ckpt"
    arguments = (f"init_from={best}", f"store={made / 'store'}", "max_length=32")
    command("compress", *arguments, f"output={tmp_path / 'small.ckpt'}", "min_cells=1")
    cells = [ad.read_h5ad(made / "cells.h5ad") for _ in range(2)]
    for path, given in zip((best, tmp_path / "small.ckpt"), cells, strict=True):
        scfm.load(path).embed(given)
    np.testing.assert_allclose(cells[0].obsm["X_scfm_state"], cells[1].obsm["X_scfm_state"], atol=1e-4)
    assert (cells[0].obs["scfm_cell_type_guess"] == cells[1].obs["scfm_cell_type_guess"]).all()
    with pytest.raises(ValueError, match="has a head that was fitted"):
        command("compress", *arguments, f"output={tmp_path / 'no.ckpt'}", "layers=1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "nothing to do"),
        (("layers=2",), "layers=2 of a model with 2"),
        (("feedforward=64",), "feedforward=64 of a model with 64"),
        (("width=16",), "give distill.steps"),
        (("min_cells=1000",), "no gene is in so many"),
        (("layers=0",), "expected numbers of 1 or more"),
        (("int8=true", "max_cells=5"), "at least 17 cells"),
        (("distill.steps=2", "distill.alpha=2"), "alpha=2"),
        (("width=64", "distill.steps=2"), "width=64 of a student, whose teacher has 32"),
    ],
)
def test_refusals(made, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        compress(made, tmp_path / "x.ckpt", *options)
    assert not (tmp_path / "x.ckpt").exists()


def test_another_vocabulary_and_an_output_that_is_there_are_refused(made, made_store, tmp_path):
    with pytest.raises(ValueError, match="vocabulary"):
        command("compress", f"init_from={made / 'pre/checkpoints/last.ckpt'}", f"store={made_store}",
                f"output={tmp_path / 'x.ckpt'}", "int8=true")  # fmt: skip
    (tmp_path / "y.ckpt").write_text("mine")
    with pytest.raises(FileExistsError):
        compress(made, tmp_path / "y.ckpt", "int8=true")
