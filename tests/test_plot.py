"""Pictures say what the numbers say; how they look was judged by eye."""

import numpy as np
import pandas as pd
import pytest

from scfm import plot
from scfm.plot.figure import style


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_confusion_rows_are_shares_sorted_by_size():
    true = np.array(["a"] * 2 + ["b"] * 4)
    axes = plot.confusion_matrix(true, np.array(["a", "unknown", "b", "b", "b", "a"]), title="t").axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["b (4)", "a (2)"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["b", "a", "unknown"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25, 0], [0, 0.5, 0.5]])
    assert sorted(texts(axes)) == ["25", "50", "50", "75"]


def test_confusion_of_seventy_classes_has_names_but_no_numbers():
    names = np.array([f"type {i}" for i in range(70)])
    axes = plot.confusion_matrix(names, names).axes[0]
    assert len(axes.get_yticklabels()) == 70
    assert not axes.texts


def test_categories_differ_in_color_or_marker():
    styles = {tuple(style(place, f"type {place}").values()) for place in range(70)}
    assert len(styles) == 70


def test_unknown_is_gray_and_last():
    legend = plot.umap(np.zeros((3, 2)), np.array(["unknown", "T", "B"]), "x").axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["B", "T", "unknown"]


def test_maps_have_a_panel_for_each_embedding_and_coloring():
    points = {"X": np.zeros((4, 2)), "PCA": np.ones((4, 2))}
    figure = plot.maps(points, {"type": np.array(["a", "b", "a", "b"]), "time": np.array([0.0, 1, 2, np.nan])})
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert titles == ["X, by type", "PCA, by type", "X, by time", "PCA, by time"]


def test_training_curves_show_train_and_validation_together(tmp_path):
    path = tmp_path / "metrics.csv"
    pd.DataFrame(
        {
            "step": [1, 2, 2],
            "train/loss": [3.0, 2.0, None],
            "val/loss": [None, None, 2.5],
            "val/macro_f1": [None, None, 0.5],
            "val/unigram_loss": [None, None, 2.8],
            "lr-AdamW/pg1": [0.1, 0.1, None],
        }
    ).to_csv(path)
    figure = plot.training_curves(path)
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["loss", "macro f1"]
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [2, 1, 2]
    assert figure.axes[0].lines[2].get_label() == "unigram table"
    assert len(figure.axes) == 2


@pytest.mark.parametrize(
    ("columns", "words"), [({"epoch": [1]}, "no column step"), ({"step": [1]}, "holds no numbers yet")]
)
def test_training_curves_refuse_other_files(tmp_path, columns, words):
    path = tmp_path / "metrics.csv"
    pd.DataFrame(columns).to_csv(path)
    with pytest.raises(ValueError, match=words):
        plot.training_curves(path)


def test_score_bars_are_sorted_and_missing_scores_said():
    table = pd.DataFrame({"f1": [0.2, 0.9], "ari": [np.nan, 0.5]}, index=["a", "b"])
    figure = plot.score_bars(table, highlight="b", errors={"b": (0.8, 1.0)})
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["a", "b"]
    assert texts(figure.axes[1]) == ["n/a", "0.500"]


def test_violins_keep_the_stages_order_and_skip_unreached_cells():
    time = np.array([0.1, 0.2, np.inf, 0.9, 0.8])
    axes = plot.stage_violins(time, np.array(["s", "s", "s", "e", "e"]), ["s", "e"]).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["s\n2", "e\n2"]


def test_other_pictures_draw():
    bins = np.array([[np.nan, np.nan, 0], [0.75, 0.5, 4]])
    assert len(plot.reliability_diagram(bins).axes) == 2
    assert plot.rejection_curve({"m": np.array([[0.5, 1.0], [1.0, 0.8]])}).axes[0].lines


def test_a_label_and_what_was_called_so_have_the_same_colors():
    called = np.array(["B", "T", "unknown"])
    figure = plot.maps(
        {"X": np.zeros((3, 2))},
        {"true": np.array(["B", "A", "T"]), "called": called, "lane": np.array(["l1", "l1", "l2"])},
    )
    legends = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in figure.axes]
    assert legends[0] == legends[1] == ["A", "B", "T", "unknown"]
    assert legends[2] == ["l1", "l2"]
