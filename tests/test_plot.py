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


def test_twenty_four_classes_have_colors_of_their_own():
    """Distances in CIELAB, computed here from sRGB; 2.3 is a just noticeable difference."""
    from matplotlib.colors import to_rgb

    def lab(color):
        rgb = np.array(to_rgb(color))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
        xyz = to_xyz @ linear / (0.9505, 1, 1.089)
        f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    points = np.array([lab(style(place, "type")["color"]) for place in range(24)])
    distances = np.linalg.norm(points[:, None] - points, axis=2) + 1000 * np.eye(24)
    assert distances.min() > 20
    assert ((points[:, 0] > 25) & (points[:, 0] < 85)).all(), "seen on white and on black"


def test_the_legend_has_what_occurs_and_wraps_long_names():
    names = ["B", "T", "a type whose name has more letters than one line of the legend takes"]
    values = np.array(["B", names[2], "B"])
    points = np.array([[0.0, 0], [1, 1], [2, 0]])
    figure = plot.make_figure(4, 4)
    axes = figure.subplots()
    plot.draw_cells(axes, points, values, "x", names=names)
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    assert shown[0] == "B"
    assert "T" not in shown
    assert len(shown) == 2
    assert shown[1].count("\n") == 1
    assert max(map(len, shown[1].splitlines())) <= 30


def test_names_stand_on_the_map_where_they_cover_no_other():
    rng = np.random.default_rng(0)
    long = "a name that is too long for a map"
    centers = {"left": (0, 0), "right": (10, 0), "also right": (10.01, 0.01), long: (5, 9)}
    sizes = (90, 80, 60, 50)
    middles = np.repeat(list(centers.values()), sizes, axis=0)
    points = middles + rng.normal(0, 0.3, middles.shape)
    values = np.repeat(list(centers), sizes)
    figure = plot.make_figure(5, 5)
    axes = figure.subplots()
    plot.draw_cells(axes, points, values, "x")
    assert sorted(texts(axes)) == ["left", "right"]
    assert all(np.linalg.norm(np.array(text.get_position()) - centers[text.get_text()]) < 0.3 for text in axes.texts)


@pytest.mark.parametrize("n_types", [3, 24, 60])
def test_a_legend_does_not_press_the_maps_flat(n_types):
    values = np.array([f"type {i % n_types} with a name that takes a second line" for i in range(240)])
    points = np.random.default_rng(0).normal(size=(240, 2))
    figure = plot.maps({"X": points, "PCA": points}, {"label": values, "called": values})
    figure.canvas.draw()
    for axes in figure.axes:
        box = axes.get_window_extent()
        assert min(box.width, box.height) > 2.2 * figure.dpi
    legends = [axes.get_legend().get_window_extent() for axes in figure.axes if axes.get_legend()]
    assert not legends[0].overlaps(legends[1])


def test_the_numbers_of_a_picture_are_those_that_were_drawn(tmp_path):
    points = {"X": np.array([[0.0, 1], [2, 3], [4, 5]])}
    figure = plot.maps(points, {"type": np.array(["a", "b", "a"]), "time": np.array([0.5, 1.5, np.nan])})
    table = plot.figure_numbers(figure)
    types = table[(table.panel == "X, by type") & (table.series == "a")]
    assert sorted(zip(types.x, types.y, strict=True)) == [(0, 1), (4, 5)]
    times = table[(table.panel == "X, by time") & table.value.notna()]
    assert dict(zip(times.x, times.value, strict=True)) == {0: 0.5, 2: 1.5}
    scores = pd.DataFrame({"f1": [0.2, 0.9]}, index=["a", "b"])
    bars = plot.figure_numbers(plot.score_bars(scores))
    assert {(row.y, round(row.x, 6)) for row in bars[bars.kind == "bars"].itertuples()} == {("a", 0.2), ("b", 0.9)}
    matrix = plot.figure_numbers(plot.confusion_matrix(np.array(["a", "b", "b"]), np.array(["a", "b", "a"])))
    found = {(row.y.split(" ")[0], row.x): row.value for row in matrix[matrix.kind == "matrix"].itertuples()}
    assert found == {("a", "a"): 1, ("a", "b"): 0, ("b", "a"): 0.5, ("b", "b"): 0.5}
    path = plot.save_numbers(figure, tmp_path / "a.csv")
    assert len(pd.read_csv(path)) == len(table)


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
    assert legends[:2] == [["A", "B", "T"], ["B", "T", "unknown"]]
    looks = [
        {handle.get_label(): (handle.get_color(), handle.get_marker()) for handle in axes.get_legend().legend_handles}
        for axes in figure.axes[:2]
    ]
    assert all(looks[0][name] == looks[1][name] for name in ("B", "T"))
    assert legends[2] == ["l1", "l2"]
