"""A tiny published model; stores and checkpoints of ours to export."""

import pytest

from prepared import median_tokenizer, rank_tokenizer
from published_folders import make_model, write_dictionaries
from scfm.datasets.synthetic import synthetic_cells
from scfm.preparation.api import prepare
from scfm.tokenizer import GeneStatistics
from support import SMALL, command


@pytest.fixture
def geneformer(tmp_path):
    """(folder, model) of a tiny Geneformer V2 with its dictionaries in the folder beside it."""
    folder = tmp_path / "repository" / "model"
    made = make_model("BertForMaskedLM")
    made.save_pretrained(folder)
    write_dictionaries(tmp_path / "repository" / "geneformer")
    return folder, made


@pytest.fixture(scope="session")
def stores(tmp_path_factory):
    """The same cells by a tokenizer with medians and by one that ranks."""
    folder = tmp_path_factory.mktemp("stores")
    cells = synthetic_cells(n_cells=160, n_genes=80, seed=1)
    cells.write_h5ad(folder / "cells.h5ad")
    statistics = GeneStatistics()
    statistics.update(cells.X.tocsr(), list(cells.var["gene_id"]))
    kinds = {"median": median_tokenizer(), "rank": rank_tokenizer()}
    columns = {"obs": ["cell_type", "pseudotime"], "group": "donor"}
    return {
        kind: prepare(folder / "cells.h5ad", folder / kind, made.fit(statistics), **columns)
        for kind, made in kinds.items()
    }


@pytest.fixture(scope="session")
def trained(stores, tmp_path_factory):
    """Checkpoints by name, each trained once."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(name, *overrides, store="median", steps=2):
        if name not in made:
            output = folder / name
            options = (*SMALL, "model.positions=80", f"trainer.max_steps={steps}", *overrides)
            command("train", f"store={stores[store].path}", f"output={output}", f"name={name}", *options)
            made[name] = output / "checkpoints" / "last.ckpt"
        return made[name]

    return run
