"""One score a gene, folds by gene: what is planted is found, shuffled labels are not, frequent genes weigh no more."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.metrics import average_precision_score, roc_auc_score

from scfm.analysis.cells import Cells
from scfm.analysis.gene_classes.features import draw_occurrences, expression_features, gene_means
from scfm.analysis.gene_classes.label_table import choose_positive, read_labels
from scfm.analysis.gene_classes.probe import fold_scores, gene_folds, score_table
from scfm.types import Ragged


@pytest.fixture
def made():
    """120 genes with one to nine rows each; one dimension tells the classes apart."""
    rng = np.random.default_rng(0)
    positive = np.arange(120) % 3 == 0
    gene = np.repeat(np.arange(120), rng.integers(1, 10, 120))
    values = rng.normal(size=(len(gene), 6))
    values[:, 2] += 2.0 * positive[gene]
    return values, gene, positive


def test_a_gene_is_in_one_fold_and_a_family_too(made):
    positive = made[2]
    folds = gene_folds(positive, np.arange(120), 5, 0)
    assert all(positive[folds == fold].sum() == 8 for fold in range(5))
    families = np.arange(120) // 4
    folds = gene_folds(positive, families, 5, 0)
    assert pd.Series(folds).groupby(families).nunique().max() == 1


def test_planted_classes_are_found_and_shuffled_ones_are_not(made):
    values, gene, positive = made
    found = fold_scores(values, gene, positive, gene_folds(positive, np.arange(120), 5, 0), 0)
    assert roc_auc_score(positive, found) > 0.95
    shuffled = np.random.default_rng(1).permutation(positive)
    null = fold_scores(values, gene, shuffled, gene_folds(shuffled, np.arange(120), 5, 0), 0)
    assert 0.3 < roc_auc_score(shuffled, null) < 0.7


def test_a_score_is_the_mean_over_a_genes_rows_however_many_it_has(made):
    """Repeated rows change no score; in the published evaluation frequent genes dominate."""
    values, gene, positive = made
    folds = gene_folds(positive, np.arange(120), 5, 0)
    often = np.repeat(np.arange(len(gene)), np.where(gene % 2, 7, 1))
    one, other = (fold_scores(values[i], gene[i], positive, folds, 0) for i in (np.arange(len(gene)), often))
    np.testing.assert_allclose(one, other, atol=1e-3)
    assert one.shape == (120,)


def test_scores_are_scikits_and_gains_are_paired(made):
    positive = made[2]
    rng = np.random.default_rng(0)
    base = rng.random(120)
    scores = pd.DataFrame({"a": base, "b": base + 0.4 * positive, "same": base})
    table = score_table(scores, positive, reference="a", draws=200, seed=0).set_index("method")
    assert table.loc["b", "auroc"] == pytest.approx(roc_auc_score(positive, scores["b"]))
    assert table.loc["b", "auprc"] == pytest.approx(average_precision_score(positive, scores["b"]))
    assert table.loc["b", "base_rate"] == pytest.approx(1 / 3)
    assert table.loc["same", ["gain", "gain_low", "gain_high"]].tolist() == [0, 0, 0]
    assert 0 < table.loc["b", "gain_low"] < table.loc["b", "gain"] < table.loc["b", "gain_high"]


def test_means_of_uneven_occurrences():
    values = np.array([[1.0], [3], [10], [2], [2], [5]])
    assert gene_means(values, [np.array([0, 1]), np.array([4]), np.array([1, 2, 3])]).ravel().tolist() == [2, 10, 3]


class TestLabelFiles:
    @pytest.mark.parametrize("ending", [".tsv", ".csv", ".json"])
    def test_all_kinds(self, tmp_path, ending):
        path = tmp_path / f"labels{ending}"
        if ending == ".json":
            path.write_text('{"a": ["G1", "G2"], "b": ["G3"]}')
        else:
            sep = "\t" if ending == ".tsv" else ","
            rows = [("gene", "class"), ("G1", "a"), ("G2", "a"), ("G3", "b")]
            path.write_text("".join(f"{sep.join(row)}\n" for row in rows))
        found = read_labels(path, column="class", cut=None, family=None)
        assert found.genes == ["G1", "G2", "G3"]
        assert found.classes.tolist() == ["a", "a", "b"]

    def test_a_cut_makes_two_classes(self, tmp_path):
        (tmp_path / "x.tsv").write_text("gene\tpHaplo\nG1\t.9\nG2\t.86\nG3\t.1\nG4\t\n")
        found = read_labels(tmp_path / "x.tsv", column="pHaplo", cut=0.86, family=None)
        assert dict(zip(found.genes, found.classes, strict=True)) == {"G1": "high", "G2": "high", "G3": "low"}

    @pytest.mark.parametrize(
        ("text", "options", "words"),
        [
            ("gene\tclass\nG1\ta\nG1\tb\n", {}, "gives G1 more than one class"),
            ("gene\tkind\nG1\ta\n", {}, "has no column 'class'"),
            ("gene\tclass\nG1\ta\n", {"cut": 0.5}, "a cut needs numbers"),
        ],
    )
    def test_refusals(self, tmp_path, text, options, words):
        (tmp_path / "x.tsv").write_text(text)
        with pytest.raises(ValueError, match=words):
            read_labels(tmp_path / "x.tsv", **{"column": "class", "cut": None, "family": None, **options})
        with pytest.raises(FileNotFoundError, match="does not exist"):
            read_labels(tmp_path / "y.tsv", column="class", cut=None, family=None)

    def test_which_class_is_scored(self):
        classes = np.array(["a"] * 9 + ["b"] * 6 + ["c"] * 5)
        assert choose_positive(classes[:15], None, "x") == "b"
        assert choose_positive(classes, "c", "x") == "c"
        for given, positive, words in (
            (classes, None, "a, b, c; name the one"), (classes, "d", "no class 'd'"),
            (classes[:12], None, "have a .9., b .3."),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=words):
                choose_positive(given, positive, "x")


def test_expression_features_by_hand():
    counts = csr_matrix(np.array([[0.0, 0, 3, 1], [0, 0, 0, 2]]))
    ranked = Ragged(np.array([2, 3, 3], dtype=np.uint16), np.array([0, 2, 3]))
    cells = Cells(np.arange(2), pd.DataFrame(index=["x", "y"]), counts, np.array([4.0, 2]), ranked, 9, is_counts=False)
    found = expression_features(cells, np.array([2, 3]))
    np.testing.assert_allclose(found[:, 0], np.log([1.5 + 1e-6, 1.5 + 1e-6]), rtol=1e-6)
    np.testing.assert_allclose(found[:, 1:], [[0.5, 0, 4.5 - 2.25], [0, 0.25, 2.5 - 2.25]])
    assert [one.tolist() for one in draw_occurrences(cells, np.array([2, 3]), 9, 0)] == [[0], [0, 1]]
