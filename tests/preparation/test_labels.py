"""Labels of files as people have them: equal to what is in obs, or missing."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scfm.preparation.api import prepare


def labels(store, name):
    names = store.categories(name)
    return [None if code < 0 else names[code] for code in store.obs(name)]


@pytest.fixture
def write(cells, tmp_path):
    def write(name, **obs):
        part = cells[:60].copy()
        part.obs = pd.DataFrame({key: list(values) for key, values in obs.items()}, index=part.obs_names)
        for key, values in obs.items():
            if isinstance(values, pd.Series):
                part.obs[key] = values.to_numpy() if not isinstance(values.dtype, pd.CategoricalDtype) else values.array
        part.obs_names = [f"{name}-{cell}" for cell in part.obs_names]
        part.write_h5ad(tmp_path / f"{name}.h5ad")
        return tmp_path / f"{name}.h5ad"

    return write


def test_a_category_of_floats(write, fitted, tmp_path):
    path = write("one", cluster=pd.Series(np.resize([1.0, 2.0, 3.0, np.nan], 60)).astype("category"))
    assert labels(prepare(path, tmp_path / "s", fitted, obs=["cluster"]), "cluster")[:4] == ["1", "2", "3", None]


@pytest.mark.parametrize("group", [None, "donor"])
def test_large_donor_numbers_stay_apart(write, fitted, tmp_path, group):
    donors = 1014900000 + np.arange(60) % 7
    store = prepare(write("one", donor=donors), tmp_path / "s", fitted, obs=["donor"], group=group)
    assert labels(store, "donor") == [*map(str, donors)]


def test_a_file_without_labels_beside_one_with_labels(write, fitted, tmp_path):
    kinds = np.resize(["T", "B"], 60)
    paths = [write("one", cell_type=kinds), write("two", cell_type=pd.Series([np.nan] * 60))]
    store = prepare(paths, tmp_path / "s", fitted, obs=["cell_type"])
    assert list(store.categories("cell_type")) == ["B", "T"]
    assert labels(store, "cell_type") == [*kinds, *[None] * 60]


def test_the_reference_case_of_a_category_of_floats(shared, tmp_path, fitted_on):
    path = shared / "cases" / "files" / "o01_float_category.h5ad"
    store = prepare(path, tmp_path / "s", fitted_on(path), obs=["cluster"])
    expected = ad.read_h5ad(path).obs["cluster"]
    assert labels(store, "cluster") == [None if np.isnan(value) else f"{value:.0f}" for value in expected]


def test_the_reference_case_of_missing_labels(shared, tmp_path, fitted_on):
    paths = [shared / "cases" / "files" / f"o09_{kind}.h5ad" for kind in ("labelled", "unlabelled")]
    store = prepare(paths, tmp_path / "s", fitted_on(paths[0]), obs=["cell_type"])
    expected = list(ad.read_h5ad(paths[0]).obs["cell_type"])
    assert labels(store, "cell_type") == [*expected, *[None] * len(expected)]
