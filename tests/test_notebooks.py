"""Every tutorial runs, with fewer cells and steps, and what it promises in words is there."""

import re
import sys

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")
pytest.importorskip("scanpy")

from notebook_runner import NOTEBOOKS, read, run

NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


#: Genes that a tutorial names.
MARKERS = ["LYZ", "S100A8", "S100A9", "CST3", "TYROBP", "FCN1", "ACTB", "MALAT1"]


@pytest.fixture(scope="module")
def few_cells(tmp_path_factory):
    """Every sixth demo cell, and 1,200 of its genes."""
    import anndata as ad

    from scfm.datasets.demo_cells import demo_file

    cells = ad.read_h5ad(demo_file())[::6]
    often = np.argsort(-np.asarray((cells.X > 0).sum(axis=0)).ravel(), kind="stable")[:1200]
    kept = np.union1d(often, cells.var_names.get_indexer(MARKERS))
    path = tmp_path_factory.mktemp("demo") / "few.h5ad"
    cells[:, kept].copy().write_h5ad(path)
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, few_cells):
    """Tutorials read few cells and write to a temporary folder, and figures are closed."""
    import tempfile

    from scfm.datasets import demo_cells

    def demo_file():
        return few_cells

    demo_file.__module__ = demo_cells.__name__  # a config may name what is defined there alone
    monkeypatch.setattr(demo_cells, "demo_file", demo_file)

    _quick_umap(monkeypatch)
    from matplotlib import pyplot

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    pyplot.close("all")


def _quick_umap(monkeypatch):
    """UMAP compiles itself for 18 seconds, and is no code of ours: its map is two columns of what it would read."""
    import scanpy as sc

    neighbors = sc.pp.neighbors

    def quick_umap(adata):
        adata.obsm["X_umap"] = np.asarray(adata.obsm[adata.uns["neighbors"]["params"]["use_rep"]])[:, :2].copy()

    monkeypatch.setattr(sc.pp, "neighbors", lambda *given, **named: neighbors(*given, **{"method": "gauss", **named}))
    monkeypatch.setattr(sc.tl, "umap", quick_umap)


def test_quickstart():
    left = run("1_quickstart", steps=2)
    cells = left["cells"]
    assert cells.obsm["X_scfm"].shape == (cells.n_obs, 128)
    assert cells.obsm["X_scfm_state"].shape[1] > 128
    assert {"cell_type", "scfm_cell_type", "scfm_cell_type_confidence"} <= set(cells.obs)


def test_own_files():
    left = run("2_own_files")
    assert len(left["store"]) == left["cells"].n_obs


def test_annotation():
    left = run("3_annotation", steps=2)
    assert "scfm_label_novelty" in left["query"].obs
    assert left["query"].var_names[0].startswith("ENSG")
    assert "Plasma cells" not in set(left["query"].obs["scfm_label_guess"])


def test_integration():
    left = run("4_integration", steps=3)
    assert np.isfinite(left["cells"].obsm["X_scfm_integrated"]).all()
    assert not ((left["cells"].obs["study"] == "study 2") & (left["cells"].obs["cell_type"] == "pDC")).any()


def test_trajectory():
    left = run("5_trajectory", n_cells=240, steps=2)
    assert left["new"].obs["scfm_pseudotime"].notna().all()
    assert not set(left["new"].obs_names) & set(left["cells"].obs_names)


def test_published_model():
    left = run("6_published_model", steps=2)
    assert (left["folder"] / "exported/model.safetensors").is_file()


def test_perturbation():
    left = run("7_perturbation", steps=2, max_cells=8)
    assert {"shift", "residual", "shift_random", "logfc"} <= set(left["genes"])


def test_proteins_and_patients():
    left = run("8_proteins_and_patients", steps=1, n_patients=12, permutations=10)
    assert left["about"] == ["CD3", "CD19", "CD14", "CD56"], "the isotype control is no target"
    assert np.isfinite(left["test"].obsm["scfm_protein"]).all()
    assert "NK cells" in set(left["result"].tables["by_type"].astype(str).to_numpy().ravel()) | set(left["kind"])


def test_many_gpus():
    left = run("9_many_gpus", steps=4)
    both = left["both"]
    assert len(both) == 4
    assert (both["in one piece"] == both["stopped and resumed"]).all()


def test_write_a_head():
    left = run("10_write_a_head", n_cells=120, steps=3)
    assert np.isfinite(left["cells"].obs["scfm_pseudotime"]).all()
    assert np.abs(left["alone"] - left["cells"].obs["scfm_pseudotime"].to_numpy()[:5]).max() < 1e-4
    sys.modules.pop("my_parts", None)
    sys.modules.pop("my_parts.number", None)


def test_every_tutorial_has_a_test():
    named = re.findall(r'run\("(\w+)"', (NOTEBOOKS.parent / "tests/test_notebooks.py").read_text())
    assert sorted(named) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_tutorial_ends_with_what_it_does_not_show_and_its_outputs_hold_no_error_and_no_path(name):
    cells = read(name).cells
    assert cells[0].source.startswith(f"# {name.split('_')[0]}. ")
    assert cells[-1].source.startswith("## What this does not show")
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert "error" not in [output.output_type for cell in code for output in cell.outputs]
    written = "".join(str(cell.outputs) for cell in code)
    assert "/work/" not in written
    assert "/home/" not in written
