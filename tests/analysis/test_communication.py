"""Ligand-receptor pairs of a file: the planted one is found, and what cannot be scored is refused."""

import json

import numpy as np
import pandas as pd
import pytest

from scfm.inference.model import load
from support import command


@pytest.fixture(scope="module")
def model(asked):
    return load(asked.head)


@pytest.fixture(scope="module")
def pairs(asked, tmp_path_factory):
    genes = list(asked.cells.var_names)
    table = pd.DataFrame({"ligand": [genes[3], genes[10], genes[20], "NOSUCH"],
                          "receptor": [genes[5], f"{genes[11]}_{genes[12]}", genes[21], genes[5]]})  # fmt: skip
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    table.to_csv(path, sep="\t", index=False)
    return path


def test_the_planted_pair_is_first_from_the_command(asked, pairs, tmp_path):
    out = tmp_path / "out"
    said = command(
        "analyse", "analysis=communication", f"init_from={asked.mlm}", f"input={asked.file}", f"output={out}",
        f"analysis.pairs={pairs}", "analysis.label=cell_type", "analysis.donor=donor", "analysis.n_permutations=200",
    )  # fmt: skip
    table = pd.read_csv(out / "pairs.csv")
    first = table.iloc[0]
    assert (first["sender"], first["receiver"]) == ("type 1", "type 3")
    assert (first["ligand"], first["receptor"]) == (asked.cells.var_names[3], asked.cells.var_names[5])
    assert first["p"] == pytest.approx(1 / 201) and first["ligand"] in said[1]
    assert {"report.html", "interactions.png", "groups.png", "manifest.json"} <= {p.name for p in out.iterdir()}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["coverage"]["pairs given"] == 4 and manifest["coverage"]["pairs with all genes in the file"] == 3


def test_names_of_the_head_stand_for_a_column_and_are_compared_with_the_truth(asked, model, pairs):
    result = model.analyse("communication", asked.cells, pairs=str(pairs), truth="cell_type", n_permutations=50)
    assert any("are in both; by nearest neighbors" in sentence for sentence in result.summary)
    assert str(asked.head) in result.coverage["groups from"]


def test_genes_are_matched_by_ensembl_id_too(asked, model, pairs, tmp_path):
    table = pd.read_csv(pairs, sep="\t").iloc[[0]]
    ids = asked.cells.var["gene_id"]
    path = tmp_path / "ids.csv"
    pd.DataFrame({name: ids[table[name]].to_numpy() for name in table}).to_csv(path, index=False)
    options = {"label": "cell_type", "n_permutations": 20}
    one = model.analyse("communication", asked.cells, pairs=str(pairs), **options).tables["pairs"]
    two = model.analyse("communication", asked.cells, pairs=str(path), **options).tables["pairs"]
    own = one[one["ligand"] == table["ligand"].iloc[0]]
    assert np.allclose(sorted(own["product"]), sorted(two["product"]))


def test_a_resource_of_a_table_is_chosen(asked, model, pairs, tmp_path):
    table = pd.read_csv(pairs, sep="\t").assign(resource=["a", "b", "b", "b"])
    path = tmp_path / "both.parquet"
    table.to_parquet(path)
    result = model.analyse(
        "communication", asked.cells, pairs=str(path), resource="a", label="cell_type", n_permutations=9
    )
    assert result.coverage["pairs given"] == 1
    for resource, message in ((None, "several resources"), ("c", "no resource 'c'; it has a, b")):
        with pytest.raises(ValueError, match=message):
            model.analyse("communication", asked.cells, pairs=str(path), resource=resource, label="cell_type")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": None}, "no ligand-receptor table is shipped"),
        ({"label": "kind"}, "obs has no column 'kind'"),
        ({"donor": "cell_type"}, "labels cannot be shuffled inside donors"),
        ({"min_cells": 1000}, "0 group.s. of at least 1000 cells"),
        ({"min_share": 1.5}, "analysis.min_share=1.5"),
        ({"n_permutations": 0}, "analysis.n_permutations=0"),
        ({"colour": 1}, "colour"),
    ],
)
def test_refusals(asked, model, pairs, options, message):
    given = {"pairs": str(pairs), "label": "cell_type", **options}
    with pytest.raises(ValueError, match=message):
        model.analyse("communication", asked.cells, **given)


def test_tables_that_are_none_are_refused(asked, model, tmp_path):
    def ask(name, text):
        (tmp_path / name).write_text(text)
        model.analyse("communication", asked.cells, pairs=str(tmp_path / name), label="cell_type")

    with pytest.raises(FileNotFoundError, match="columns ligand and receptor"):
        model.analyse("communication", asked.cells, pairs=str(tmp_path / "none.tsv"), label="cell_type")
    with pytest.raises(ValueError, match="needs ligand and receptor"):
        ask("columns.csv", "a,b\n1,2\n")
    with pytest.raises(ValueError, match="holds no pair"):
        ask("empty.csv", "ligand,receptor\n")
    with pytest.raises(ValueError, match="has all its genes in"):
        ask("foreign.csv", "ligand,receptor\nXX1,XX2\n")


def test_a_pretrained_model_names_no_groups(asked, pairs):
    with pytest.raises(ValueError, match="no annotation head"):
        load(asked.mlm).analyse("communication", asked.cells, pairs=str(pairs))


def test_pairs_below_the_share_are_refused(asked, model, tmp_path):
    silent = asked.cells.copy()
    silent.X[:, :2] = 0
    path = tmp_path / "pairs.csv"
    path.write_text(f"ligand,receptor\n{silent.var_names[0]},{silent.var_names[1]}\n")
    with pytest.raises(ValueError, match="lower analysis.min_share"):
        model.analyse("communication", silent, pairs=str(path), label="cell_type", min_share=0.1)


def test_nearest_neighbors_name_cells_without_a_model(asked, model):
    from scfm.analysis.labels import column_values, neighbor_values
    from scfm.inference.cell_input import Reading, open_input

    with open_input(asked.cells, model.checkpoint, Reading(), keep_counts=True) as given:
        true = column_values(given, "cell_type")
        true[:5] = ""
        named = neighbor_values(given, true, seed=0)
    assert (named[:5] == "").all() and (named[5:] == true[5:]).mean() > 0.6
