"""docs/heads.md: every head is on the page, and its Python does what it says."""

import re
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch

from scfm.cli import CONFIGS
from scfm.datasets.synthetic import synthetic_cells
from support import SMALL, command

PAGE = (Path(__file__).parents[1] / "docs/heads.md").read_text()
ADD_CLASS, ADOPT = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TRAIN = tuple(part for part in SMALL if "positions" not in part)
WITHOUT_MODEL = tuple(part for part in TRAIN if not part.startswith("model."))


def test_every_head_is_on_the_page_and_every_one_on_it_exists():
    named = set(re.findall(r"^\| `(\w+/\w+)` \|", PAGE, re.MULTILINE))
    folder = CONFIGS / "head"
    assert named == {str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder as the page has it: a pretrained checkpoint, cells of two known batches, cells of a third."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    cells = synthetic_cells(n_cells=240, n_genes=150, n_types=3, n_batches=3, seed=1)
    cells.obs["cluster"] = np.where(cells.obs["cell_type"] == "type 3", "7", "1")
    third = cells.obs["batch"] == cells.obs["batch"].unique()[-1]
    cells[~third & (cells.obs["cluster"] != "7")].copy().write_h5ad("known.h5ad")
    cells[third].copy().write_h5ad("new.h5ad")
    columns = ("obs=[cell_type,batch]", "workers=1")
    command("prepare", "input=known.h5ad", "output=stores/known", *columns)
    command("train", "store=stores/known", "output=outputs/pre", *TRAIN, "trainer.max_steps=5")
    start = "init_from=outputs/pre/checkpoints/last.ckpt"
    command("prepare", "input=new.h5ad", "output=stores/new_batch", *columns, start)
    return (start, "store=stores/known", "data.group=null", "trainer.max_steps=4", "validate_every=2", *WITHOUT_MODEL)


def embed(checkpoint, output):
    files = ("input=new.h5ad", f"output={output}", "overwrite=true", "trainer.accelerator=cpu")
    command("embed", f"init_from={checkpoint}", *files, "trainer.enable_progress_bar=false")
    return ad.read_h5ad(output)


def test_a_new_type_without_training(folder):
    command("finetune", "head=annotation/prototype", "head.label=cell_type", "output=outputs/types", *folder)
    before = embed("outputs/types/checkpoints/best.ckpt", "embedded.h5ad")
    assert "ionocyte" not in set(before.obs["scfm_cell_type_guess"])
    exec(ADD_CLASS, {})
    after = embed("with_ionocytes.ckpt", "again.h5ad").obs
    assert (after["scfm_cell_type_guess"][after["cluster"] == "7"] == "ionocyte").mean() > 0.5
    assert (after["scfm_cell_type_guess"][after["cluster"] == "1"] == "ionocyte").mean() < 0.2
    again = embed("outputs/types/checkpoints/best.ckpt", "embedded.h5ad")
    assert "ionocyte" not in set(again.obs["scfm_cell_type_guess"]), "the first checkpoint stays as it was"


def test_a_vector_for_a_new_batch(folder):
    command("finetune", "head=integration/batch_token", "head.width=8", "output=outputs/batches", *folder)
    found = {}
    exec(ADOPT, found)
    assert found["integrated"].shape == (len(found["store"]), 8)
    assert found["integrated"].isfinite().all()
    about = embed("outputs/batches/checkpoints/best.ckpt", "embedded.h5ad").uns["scfm"]["X_scfm"]["head"]
    assert found["closest"] in about["batches"]
    assert about["sample_embeddings"].shape == (len(about["batches"]), len(found["vector"]))
