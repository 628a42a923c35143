"""Edges of a model from command and Python, judged by a reference; and what is refused."""

import numpy as np
import pandas as pd
import pytest

from scfm.analysis.edges.reference import KnownEdges, choose_genes
from scfm.analysis.edges.report import gain_sentences
from scfm.inference.model import load
from scfm.metrics.network.recovery import Gain
from support import command

FEW = {
    "n_genes": 20,
    "max_cells": 60,
    "min_cells": 3,
    "n_permutations": 5,
    "predicted_cells": 6,
    "n_targets": 3,
    "n_steps": 2,
}


@pytest.fixture(scope="module")
def reference(asked, tmp_path_factory):
    """Random regulators of the most detected genes."""
    detected = np.asarray((asked.cells.X > 0).sum(axis=0)).ravel()
    genes = asked.cells.var_names[np.argsort(-detected)[:14]]
    rng = np.random.default_rng(0)
    rows = [(tf, target) for tf in genes[:8] for target in rng.permutation(genes)[:5] if tf != target]
    path = tmp_path_factory.mktemp("reference") / "tf_target.csv"
    pd.DataFrame([*rows, ("NOSUCH", genes[0])], columns=["tf", "target"]).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["mlm", "ar"])
def test_edges_of_both_backbones_from_the_command(asked, reference, name, tmp_path):
    out = tmp_path / "out"
    options = [f"analysis.{key}={value}" for key, value in FEW.items()]
    scores = "analysis.scores=[attention,rollout,static,contextual,gradient,integrated_gradients,occlusion]"
    said = command(
        "analyse", "analysis=network", f"init_from={asked.folder / name}/checkpoints/last.ckpt", f"input={asked.file}",
        f"output={out}", f"analysis.reference={reference}", scores, "analysis.forest=true", *options,
    )  # fmt: skip
    assert "regulators" in said[0] and "AUPRC" in said[0]
    edges, recovery = pd.read_parquet(out / "edges.parquet"), pd.read_csv(out / "recovery.csv")
    assert len(edges) == 20 * 19 and set(recovery["of"]) == {"model", "expression", "random weights"}
    assert {"attention", "attention_partial", "occlusion", "pearson", "forest", "attention_fdr"} <= set(edges)
    assert edges["known"].sum() > 10 and edges["attention"].notna().any()
    assert (edges["integrated_gradients_cells"] <= 6).all()
    assert {"report.html", "network.png", "heat_map.png", "recovery.png"} <= {path.name for path in out.iterdir()}


def test_correlations_are_of_the_cells_that_are_named(asked):
    options = FEW | {"scores": ["static"], "n_permutations": 0, "max_cells": 1000}
    result = load(asked.mlm).analyse("network", asked.cells, label="cell_type", group="type 2", **options)
    own = asked.cells[asked.cells.obs["cell_type"] == "type 2"]
    assert result.coverage["cells"] == own.n_obs and not any("several types" in note for note in result.notes)
    row = result.tables["edges"].iloc[0]
    totals = np.asarray(own.X.sum(axis=1)).ravel()
    genes = [own.var_names.get_loc(row[name]) for name in ("source", "target")]
    values = np.log1p(own.X[:, genes].toarray() / totals[:, None] * 1e4)
    assert row["pearson"] == pytest.approx(abs(np.corrcoef(values.T)[0, 1]), abs=1e-5)


def test_genes_of_the_reference_come_first():
    detected = np.array([0, 0, 9, 9, 9, 5, 5, 5, 2])
    known = KnownEdges(np.array([[5, 6], [7, 8], [5, 8]]), 3)
    assert choose_genes(detected, known, 3, min_cells=1).tolist() == [5, 6, 8]
    assert choose_genes(detected, None, 3, min_cells=1).tolist() == [2, 3, 4]
    assert choose_genes(detected, known, 4, min_cells=3).tolist() == [2, 3, 5, 6]  # gene 8 is in too few cells
    assert known.matrix(np.array([5, 8])).tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize(
    ("low", "high", "first"),
    [
        (0.1, 0.4, "The model's edges"),
        (-0.4, -0.1, "Expression alone"),
        (-0.1, 0.1, "The model's edges (a) recover the reference no"),
    ],
)
def test_the_winner_is_said_first(low, high, first):
    gain = Gain((low + high) / 2, low, high, (("a", "b"), ("a", "b")), 9)
    table = pd.DataFrame({"of": ["model", "expression"], "auprc_ratio": [1.0, 2.0]})
    assert gain_sentences(gain, table)[0].startswith(first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": ["magic"]}, "expected some of attention"),
        ({"label": "cell_type"}, "go together"),
        ({"label": "cell_type", "group": "type 9"}, "no cell has obs.'cell_type'. = 'type 9'; its values are type 1"),
        ({"n_permutations": 2}, "at least 3"),
        ({"n_genes": 20_000}, "lower either"),
        ({"min_cells": 500}, "a network needs 3"),
        ({"max_cells": 0}, "analysis.max_cells=0"),
    ],
)
def test_refusals(asked, options, message):
    with pytest.raises(ValueError, match=message):
        load(asked.mlm).analyse("network", asked.cells, **options)


def test_references_that_are_none_are_refused(asked, tmp_path):
    model = load(asked.mlm)

    def ask(text, **options):
        (tmp_path / "table.csv").write_text(text)
        model.analyse(
            "network", asked.cells, reference=str(tmp_path / "table.csv"), **(FEW | {"scores": ["static"], **options})
        )

    with pytest.raises(FileNotFoundError, match="tf and target"):
        model.analyse("network", asked.cells, reference=str(tmp_path / "none.csv"))
    with pytest.raises(ValueError, match="needs the columns tf"):
        ask("a,b\n1,2\n")
    with pytest.raises(ValueError, match="between genes of the model's vocabulary"):
        ask("tf,target\nXX1,XX2\n")
    genes = asked.cells.var_names
    with pytest.raises(ValueError, match="1 regulators of the reference have a target among the genes of the network"):
        ask(f"tf,target\n{genes[3]},{genes[5]}\n", min_cells=1, n_genes=149)
