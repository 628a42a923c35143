"""The whole evaluation, and everything it refuses."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scfm.evaluation.cells import read_cells
from scfm.evaluation.evaluate import evaluate
from scfm.evaluation.methods.expression import read_expression
from scfm.evaluation.options import Options
from scfm.evaluation.verdict import integration_verdict
from scfm.metrics.umap import curve, umap
from scfm.report.evaluation import write

QUICK = {"baselines": ("pca",), "draws": 20, "folds": 3}


def test_leaves_tables_pictures_and_a_report(make_adata, tmp_path):
    adata = make_adata()
    before = adata.copy()
    result = evaluate(adata, label="type", batch="donor", **QUICK)
    assert not list(tmp_path.iterdir())
    files = write(result, tmp_path)
    assert sorted(files) == sorted(tmp_path.iterdir())
    for name in ("report.html", "scores.csv", "scores.json", "umap.png", "confusion.png", "reliability.png"):
        assert (tmp_path / name).stat().st_size > 500, name
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert result.scores["annotation"].loc["X_scfm, linear probe", "macro_f1"] > 0.9
    assert json.loads((tmp_path / "scores.json").read_text())["metrics"]["version"].startswith(
        "definitions of scib-metrics"
    )
    assert set(pd.read_csv(tmp_path / "scores.csv").columns) == {"table", "method", "metric", "value"}
    page = (tmp_path / "report.html").read_text()
    assert all(sentence.split(";")[0] in page for sentence in result.summary)
    assert not re.findall(r'(?:src|href)="(?!data:)', page), "the report needs no other file"
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    np.testing.assert_array_equal(adata.obsm["X_scfm"], before.obsm["X_scfm"])


def test_conditions_subtypes_few_labels_and_other_embeddings(make_adata, tmp_path):
    adata = make_adata()
    adata.obs["treated"] = np.array(["no", "yes"])[np.arange(240) // 12 % 2]
    adata.obs["subtype"] = adata.obs["type"].astype(str) + adata.obs["treated"]
    adata.obsm["X_other"] = np.random.default_rng(0).normal(size=(240, 4))
    result = evaluate(
        adata, label="type", batch="donor", condition="treated", finer="subtype", others=["X_other"],
        shots=[0.25, 1.0], **QUICK,
    )  # fmt: skip
    write(result, tmp_path)
    result = result.to_dict()
    table = result["correction"]
    assert set(table) == {"X_scfm", "X_other", "PCA"}
    assert table["PCA"]["kept_neighbors"] == 1.0
    assert table["X_other"]["condition_auc"] < 0.65
    assert result["annotation"]["X_other, linear probe"]["macro_f1"] < 0.6
    assert 0.5 < result["scaled"]["X_scfm"]["bio"] <= 1.05
    assert (tmp_path / "few_shot.png").stat().st_size > 1000
    assert result["annotation"]["X_scfm, linear probe"]["seconds"] > 0


def test_says_so_when_the_embedding_knows_nothing(make_adata):
    adata = make_adata()
    adata.obsm["X_scfm"] = np.random.default_rng(0).normal(size=(240, 8))
    naming, embedding = evaluate(adata, label="type", batch="donor", controls=False, **QUICK).summary
    assert "below an alternative" in naming
    assert "use that instead" in naming
    assert embedding.endswith("no better than PCA.")


def test_a_split_judges_only_its_test_cells_and_the_head_too(make_adata, tmp_path):
    adata = make_adata()
    adata.obs["scfm_type"] = adata.obs["type"].astype(str)
    adata.obs.loc["cell0", "scfm_type"] = "unknown"
    adata.obs["scfm_type_confidence"] = 0.9
    part = np.where(adata.obs["donor"] == "donor 0", "test", "train")
    pd.DataFrame({"cell": adata.obs_names, "part": part}).to_csv(tmp_path / "split.csv", index=False)
    result = evaluate(adata, label="type", batch="donor", split=tmp_path / "split.csv", **QUICK).to_dict()
    head = result["annotation"]["fine-tuned head"]
    assert head["n_cells"] == 60
    assert head["coverage"] == pytest.approx(59 / 60)
    assert "bras" not in result["integration"]["PCA"], "the test cells are of one batch"
    assert any("60 test cells" in note for note in result["notes"])


def test_labels_or_batches_alone(make_adata):
    adata = make_adata(120)
    only_label = evaluate(adata, label="type", controls=False, **QUICK).to_dict()
    assert "total" not in only_label["integration"]["PCA"]
    only_batch = evaluate(adata, batch="donor", controls=False, **QUICK).to_dict()
    assert only_batch["annotation"] == {}
    assert "ilisi" in only_batch["integration"]["PCA"]


def test_cells_without_a_label_are_left_out_and_many_cells_thinned(make_adata, caplog):
    adata = make_adata()
    adata.obs["type"] = adata.obs["type"].where(np.arange(240) >= 30)
    result = evaluate(adata, label="type", batch="donor", max_cells=200, controls=False, **QUICK)
    assert "30 of 240 cells have no type" in caplog.text
    assert "200 of 240 cells were drawn at random" in result.notes[0]


def spoil_nan(adata):
    adata.obsm["X_scfm"][:, 0] = np.nan


def spoil_constant(adata):
    adata.obsm["X_scfm"][:] = 1


def spoil_class(adata):
    adata.obs["type"] = "T"


def spoil_labels(adata):
    adata.obs["type"] = np.nan


def spoil_batch(adata):
    adata.obs["donor"] = "one"


def spoil_all_batches(adata):
    adata.obs["donor"] = np.nan


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (spoil_nan, {}, r"all 240 cells have NaN or infinite numbers in obsm\['X_scfm'\]"),
        (spoil_constant, {}, "is the same in all 240 cells"),
        (spoil_class, {}, "label='type' is 'T' in all labeled cells"),
        (spoil_labels, {}, "label='type' is missing in all 240 cells"),
        (spoil_batch, {}, "batch='donor' is 'one' in all cells; mixing needs at least two batches"),
        (spoil_all_batches, {}, "all 240 cells have no donor"),
        (None, {"embedding": "X_pca"}, "obsm has no 'X_pca'; the embeddings of this file are: X_scfm"),
        (None, {"label": "cell_type"}, "label='cell_type' is not a column of obs; the columns are: type, donor"),
        (None, {"group": "patient"}, "group='patient' is not a column of obs"),
        (None, {"label": None, "batch": None}, "nothing to score by"),
        (None, {"baselines": ("pca", "saucie")}, "saucie is unknown; choose from pca, hvg"),
        (None, {"layer": "spliced"}, "layer='spliced' is not in the file"),
    ],
)
def test_refuses_bad_input(make_adata, spoil, options, words):
    adata = make_adata()
    if spoil:
        spoil(adata)
    with pytest.raises(ValueError, match=words):
        evaluate(adata, **{"label": "type", "batch": "donor", **QUICK, **options})


@pytest.mark.parametrize("others", [(), ("X_other",)])
def test_cells_without_an_embedding_or_a_batch_are_left_out_and_counted(make_adata, others):
    adata = make_adata()
    adata.obsm["X_other"] = np.random.default_rng(0).normal(size=(240, 4))
    whole = evaluate(adata[5:].copy(), label="type", batch="donor", controls=False, others=others, **QUICK)
    adata.obsm["X_scfm"][:3, 1] = np.nan
    adata.obsm["X_other"][3, 0] = np.inf
    adata.obs["donor"] = adata.obs["donor"].where(np.arange(240) != (3 if not others else 4))
    if not others:
        adata = adata[adata.obs_names != "cell4"].copy()
    result = evaluate(adata, label="type", batch="donor", controls=False, others=others, **QUICK)
    assert len(result.cells) == 235
    assert result.notes[0].startswith("3 of 2")
    assert "are left out; the first is 'cell0'" in result.notes[0]
    assert any("1 of 2" in note and "have no donor" in note for note in result.notes)
    assert any("X_other" in note for note in result.notes) == bool(others)
    for name in ("annotation", "integration"):
        table = whole.scores[name].drop(columns=["seconds", "megabytes"])
        pd.testing.assert_frame_equal(result.scores[name][table.columns].loc[table.index], table)


@pytest.mark.parametrize("place", ["X", "raw", "layers"])
def test_cells_with_damaged_counts_are_left_out(make_adata, place):
    adata = make_adata(120)
    adata.X = adata.X.toarray()
    adata.X[7, 3] = np.nan
    if place == "raw":
        adata.raw = adata.copy()
        adata.X = np.log1p(adata.X)
    if place == "layers":
        adata.layers["counts"] = csr_matrix(adata.X)
    with pytest.raises(ValueError, match="1 of 120 cells have NaN or infinite counts"):
        read_expression(adata)
    cells, notes = read_cells(adata, Options(label="type"))
    assert len(cells) == len(cells.codes) == cells.expression.counts.shape[0] == 119
    assert "cell7" not in cells.names
    assert notes == ["1 of 120 cells have NaN or infinite counts and are left out; the first is 'cell7'."]


def test_a_result_is_readable_plain_and_knows_its_methods(make_adata):
    adata = make_adata()
    adata.obsm["X_other"] = np.random.default_rng(0).normal(size=(240, 4))
    result = evaluate(adata, Options(label="type", batch="donor", others=["X_other"]), **QUICK)
    assert json.loads(json.dumps(result.to_dict()))["settings"]["label"] == "type"
    text = repr(result)
    assert all(sentence in text for sentence in result.summary)
    assert "240 cells" in text
    assert "scores['annotation']" in text
    roles = {method.name: method.role for method in (*result.methods, *result.annotation.methods)}
    assert roles["X_scfm"] == roles["X_scfm, linear probe"] == "ours"
    assert roles["PCA"] == roles["X_other"] == roles["15 nearest on PCA"] == "rival"
    assert roles["control: random"] == roles["majority class"] == "control"
    assert set(result.scores["annotation"].index) == {method.name for method in result.annotation.methods}
    assert set(result.scores["integration"].index) == {method.name for method in result.methods}


def test_names_of_embeddings_carry_no_meaning(make_adata):
    """An embedding whose key looks like a control's, or like ours, is neither."""
    adata = make_adata()
    adata.obsm["control: mine"] = adata.obsm["X_scfm"]
    adata.obsm["X_scfm"] = np.random.default_rng(0).normal(size=(240, 8))
    adata.obsm["also X_scfm"] = np.eye(3)[np.arange(240) % 3] + np.random.default_rng(1).normal(0, 0.1, (240, 3))
    options = Options(embedding="control: mine", label="type", batch="donor", others=["also X_scfm"])
    result = evaluate(adata, options, **QUICK)
    assert {"control: mine", "also X_scfm"} <= set(result.scores["correction"].index) & set(
        result.scores["scaled"].index
    )
    assert result.annotation.names("ours") == ["control: mine, linear probe", "control: mine, 15 nearest"]
    assert "also X_scfm, linear probe" in result.annotation.names("rival")


def test_integer_labels_have_the_names_that_a_head_learned(make_adata):
    """Clusters as floats, because one is missing, against names that a head took from a store of integers."""
    adata = make_adata(120)
    clusters = np.arange(120) % 3
    adata.obs["leiden"] = np.where(np.arange(120) == 0, np.nan, clusters)
    adata.obs["scfm_leiden"], adata.obs["scfm_leiden_confidence"] = clusters.astype(str), 0.9
    cells, _ = read_cells(adata, Options(label="leiden"))
    assert cells.classes == ("0", "1", "2")
    assert cells.codes[0] == -1
    np.testing.assert_array_equal(cells.labels[1:], cells.called[1:])


def test_an_unknown_option_is_refused(make_adata):
    with pytest.raises(TypeError, match="batches"):
        evaluate(make_adata(), batches="donor")


READ = Options(label="type", batch="donor")


def test_warns_when_batch_and_type_cannot_be_told_apart(make_adata, caplog):
    adata = make_adata()
    adata.obs["chip"] = adata.obs["type"].astype(str) + " chip"
    read_cells(adata, replace(READ, batch="chip", group="donor"))
    assert "every label occurs in one chip only" in caplog.text
    assert re.search(r"B chip +80 +0 +0", caplog.text), "the contingency is shown"


def test_warns_of_a_class_of_one_cell(make_adata, caplog):
    adata = make_adata()
    adata.obs["type"] = adata.obs["type"].astype(str)
    adata.obs.loc["cell5", "type"] = "rare"
    read_cells(adata, READ)
    assert "1 class(es) of type have one cell and cannot be scored well: rare" in caplog.text


def test_verdict_names_the_winner_whoever_it_is():
    scores = pd.DataFrame({"total": {"X": 0.6, "PCA": 0.7, "Harmony": 0.65}})
    assert integration_verdict(scores, "X", ["PCA", "Harmony"], "total").startswith("Embedding: PCA has the best total")
    assert integration_verdict(scores, "PCA", ["X", "Harmony"], "total").startswith("Embedding: PCA has the best total")


def test_umap_keeps_neighbors_and_repeats_itself(blobs):
    from sklearn.manifold import trustworthiness

    embedding, labels, _ = blobs
    first = umap(embedding, seed=1)
    np.testing.assert_array_equal(first, umap(embedding, seed=1))
    assert trustworthiness(embedding, first, n_neighbors=15) > 0.85
    centers = np.stack([first[labels == label].mean(0) for label in range(4)])
    nearest = np.linalg.norm(first[:, None] - centers, axis=2).argmin(1)
    assert (nearest == labels).mean() > 0.98


@pytest.mark.parametrize(("min_dist", "a", "b"), [(0.1, 1.577, 0.895), (0.5, 0.583, 1.334)])
def test_umap_curve_has_the_published_constants(min_dist, a, b):
    assert curve(min_dist) == pytest.approx((a, b), abs=2e-3)


def test_umap_of_few_or_equal_cells_is_finite():
    assert np.isfinite(umap(np.zeros((4, 1)))).all()
    assert np.isfinite(umap(np.eye(3))).all()
