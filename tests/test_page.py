import numpy as np
import pandas as pd
from matplotlib.image import imread

from scfm import plot
from scfm.page import Section, bullets, paragraph, settings, table, versions, write_page
from scfm.report.figures import picture


def test_a_report_is_one_whole_file(tmp_path):
    figure = plot.umap(np.zeros((3, 2)), np.array(["a", "b", "a"]), "x")
    sections = [
        Section("", [paragraph("1 < 2 & <b>")], "summary"),
        Section("Map", [picture(figure, 'a "map"')]),
        Section("No", []),
    ]
    page = write_page(tmp_path / "deep" / "report.html", "A <report>", sections).read_text()
    assert "1 &lt; 2 &amp; &lt;b&gt;" in page
    assert "<title>A &lt;report&gt;</title>" in page
    assert 'alt="a &quot;map&quot;"' in page
    assert page.count("data:image/png;base64,") == 1
    assert "<h2>No</h2>" not in page
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["report.html"]


def test_the_best_of_each_column_is_marked_among_the_contenders():
    frame = pd.DataFrame(
        {"score": [0.5, 0.9, 1.0], "ece": [0.1, 0.2, 0.0], "n": [3, 3, 3]}, index=["a", "b", "control"]
    )
    page = table(frame, smaller_is_better=["ece"], unranked=["n"], contenders=["a", "b"])
    assert page.count('class="best"') == 2
    assert '<td class="best">0.900</td>' in page
    assert '<td class="best">0.100</td>' in page


def test_missing_and_text_values_are_shown():
    page = table(pd.DataFrame({"score": [np.nan, 0.25], "name": ["x", "<y>"]}, index=["a", "b"]))
    assert "<td>–</td>" in page
    assert "&lt;y&gt;" in page


def test_texts_of_lists_are_escaped():
    assert bullets(["a < b", "c"]) == "<ul><li>a &lt; b</li><li>c</li></ul>"


def test_nested_settings_are_flat():
    assert "<td>model.width</td><td>8</td>" in settings({"model": {"width": 8}})


def test_versions_are_of_installed_packages_only():
    found = versions()
    assert {"python", "torch", "numpy"} <= set(found)
    assert all(found.values())


def test_saved_pictures_are_whole(tmp_path):
    path = plot.save(plot.umap(np.zeros((3, 2)), np.array(["a", "b", "a"]), "x"), tmp_path / "a" / "map.png")
    assert imread(path).shape[2] == 4
    assert [entry.name for entry in path.parent.iterdir()] == ["map.png"]
