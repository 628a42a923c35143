"""Stores and checkpoints of earlier versions: they open, hold the same tokens, and embed the same cells alike.

``golden/v1`` was made by the first version's own code; its README says how.
"""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch

from scfm.store.token_store import TokenStore
from support import SMALL, command

FOLDER = Path(__file__).parent / "golden" / "v1"
ABOUT = json.loads((FOLDER / "expected.json").read_text())
FAST = ("trainer.accelerator=cpu", "trainer.enable_progress_bar=false")


@pytest.fixture(scope="module")
def expected():
    with np.load(FOLDER / "expected.npz") as arrays:
        return dict(arrays)


def assert_same_numbers(found, old, name):
    """To 1e-6, of the largest where that is above 1: another processor rounds an age of 57 by 8e-6."""
    np.testing.assert_allclose(found, old, rtol=0, atol=1e-6 * max(1.0, np.abs(old).max()), err_msg=name)


def without_null_vector(checkpoint: Path, path: Path) -> Path:
    """The first version left out the null vector of these heads when it embedded a file, which training never did."""
    state = torch.load(checkpoint, weights_only=True)
    state["state_dict"]["task.rows"][-1] = 0
    torch.save(state, path)
    return path


def test_nothing_is_left_out():
    assert set(ABOUT["stores"]) == {path.name for path in (FOLDER / "stores").iterdir()}
    assert set(ABOUT["checkpoints"]) == {path.stem for path in (FOLDER / "checkpoints").iterdir()}


@pytest.mark.parametrize("name", ABOUT["checkpoints"])
def test_an_old_checkpoint_embeds_as_it_did(name, expected, tmp_path):
    about, output = ABOUT["checkpoints"][name], tmp_path / "out.h5ad"
    checkpoint = FOLDER / "checkpoints" / f"{name}.ckpt"
    if "batch_token" in name:
        checkpoint = without_null_vector(checkpoint, tmp_path / "null.ckpt")
    command("embed", f"init_from={checkpoint}", f"input={FOLDER / 'cells.h5ad'}", f"output={output}", *FAST)
    before, found = ad.read_h5ad(FOLDER / "cells.h5ad"), ad.read_h5ad(output)
    assert {key for key in found.obsm if key.startswith("X_")} - {"X_scfm_state"} == set(about["obsm"])
    for key in about["obsm"]:
        # what a head reads stood in X_scfm at first
        today = "X_scfm_state" if about["state_in_x_scfm"] and key == "X_scfm" and "X_scfm_state" in found.obsm else key
        assert_same_numbers(found.obsm[today], expected[f"{name}/obsm/{key}"], key)
    assert set(found.obs) - set(before.obs) == set(about["obs"])
    for key in about["obs"]:
        values, old = found.obs[key].to_numpy(), expected[f"{name}/obs/{key}"]
        if old.dtype.kind == "f":
            assert_same_numbers(values, old, key)
        else:
            np.testing.assert_array_equal(values.astype(old.dtype), old, err_msg=key)


@pytest.mark.parametrize("name", ABOUT["stores"])
def test_an_old_store_holds_the_same_tokens_and_trains(name, expected, tmp_path):
    path = FOLDER / "stores" / name
    store = TokenStore.open(path)
    rows = store.gather(np.arange(len(store)))
    np.testing.assert_array_equal(rows.values, expected[f"{name}/values"])
    np.testing.assert_array_equal(rows.offsets, expected[f"{name}/offsets"])
    assert store.has_counts == ABOUT["stores"][name]["counts"]
    np.testing.assert_array_equal(store.obs("age"), ad.read_h5ad(FOLDER / "cells.h5ad").obs["age"])
    objective = "ar" if name == "tgpt" else "mlm"
    loss = command(
        "train", f"output={tmp_path / 'run'}", f"store={path}", f"objective={objective}", "data.max_length=64",
        "trainer.max_steps=1", "validate_every=1", *SMALL,
    )  # fmt: skip
    assert np.isfinite(loss)
