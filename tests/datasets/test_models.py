"""The pretrained model that comes with the package."""

import anndata as ad
import numpy as np
import pytest
import torch

import scfm
from scfm.datasets.demo_cells import demo_file
from scfm.datasets.models import shipped_model
from scfm.published.folder import read_checkpoint


def texts(value):
    """All texts in nested dictionaries and lists."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in texts(each)]
    return [value] if isinstance(value, str) else []


@pytest.fixture(scope="module")
def model():
    return scfm.load("scfm://small")


def test_the_file_is_small_and_tells_no_path(model):
    path = shipped_model("scfm://small")
    assert path.stat().st_size < 8e6
    paths = [text for text in texts(model.checkpoint.config) if text.startswith(("/", "~", "."))]
    assert not paths, "the paths of the machine that made it"


def test_cells_of_one_type_lie_together_before_any_training(model):
    """On demo cells, which the corpus does not have: the 15 nearest neighbors name far more than chance."""
    cells = ad.read_h5ad(demo_file())[::4].copy()
    model.embed(cells)
    values, types = cells.obsm["X_scfm"], cells.obs["cell_type"].to_numpy()
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    similar = unit @ unit.T
    np.fill_diagonal(similar, -1)
    near = types[np.argsort(-similar, axis=1)[:, :5]]
    assert (near == types[:, None]).mean() > 0.6
    assert values.shape[1] == 128


def test_an_unknown_model_is_refused_with_those_that_are_there():
    with pytest.raises(
        FileNotFoundError, match=r"no model scfm://large comes with this package; there is: scfm://small"
    ):
        read_checkpoint("scfm://large")
    with pytest.raises(FileNotFoundError, match=r"no model"):
        read_checkpoint("scfm://../../x")


def test_saved_again_as_8_bit_numbers_it_is_the_same(model, tmp_path):
    again = scfm.load(model.save(tmp_path / "again.ckpt", int8=True))
    for name, value in model.backbone.state_dict().items():
        torch.testing.assert_close(again.backbone.state_dict()[name], value, rtol=1e-5, atol=1e-7)
