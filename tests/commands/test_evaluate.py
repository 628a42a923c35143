"""What a fine-tuned embedding is held against, by the commands a user types."""

import anndata as ad
import pytest

from scfm.datasets.synthetic import synthetic_cells
from scfm.evaluation.cells import embedding_records
from support import SMALL, command

FAST = tuple(part for part in SMALL if not part.startswith("model."))
QUICK = ("baselines=[pca]", "draws=10", "folds=2", "label=cell_type", "batch=batch")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Made-up cells embedded by a fine-tune of a backbone that was pretrained on them."""
    folder = tmp_path_factory.mktemp("evaluated")
    cells = synthetic_cells(n_cells=320, n_genes=150, n_types=3, n_batches=4, seed=1)
    cells[:200].copy().write_h5ad(folder / "cells.h5ad")
    cells[200:].copy().write_h5ad(folder / "new.h5ad")
    steps = ("trainer.max_steps=6", "data.max_length=62", "data.tokens_per_batch=1024")
    columns = ("obs=[cell_type,batch]", "group=batch")
    command("prepare", f"input={folder}/cells.h5ad", f"output={folder}/store", "workers=1", *columns)
    command("train", f"output={folder}/pre", f"store={folder}/store", *SMALL, *steps)
    start = (f"init_from={folder}/pre/checkpoints/last.ckpt", f"store={folder}/store")
    command("finetune", *start, f"output={folder}/fine", *FAST, *steps, "validate_every=3")
    files = (f"input={folder}/cells.h5ad", f"output={folder}/embedded.h5ad")
    command("embed", f"init_from={folder}/fine/checkpoints/best.ckpt", *files, "trainer.accelerator=cpu")
    return folder


def test_beside_its_backbone_before_fine_tuning_and_untrained(run, tmp_path, caplog):
    given = (f"input={run}/embedded.h5ad", f"split={run}/fine/split.csv", f"output={tmp_path}", "leiden=true")
    found = command("evaluate", *given, *QUICK)
    assert {"frozen backbone, linear probe", "random weights, linear probe", "fine-tuned head"} <= set(
        found["annotation"]
    )
    assert {"frozen backbone", "random weights"} <= set(found["integration"])
    scores = found["integration"]["random weights"]
    assert scores["seconds"] > 0
    assert scores["megabytes"] >= 0
    assert 0 <= scores["nmi_leiden"] <= 1
    assert any("A linear probe reaches" in sentence for sentence in found["summary"])
    assert any(f"100.0% of the scored cells are in {run}/store" in note for note in found["notes"])
    assert "give split=" not in caplog.text
    assert any(sentence.startswith("On cells kept aside, the backbone adds ") for sentence in found["summary"])
    assert {"X_scfm_state, linear probe", "gene components, linear probe"} <= set(found["annotation"])


def test_warns_where_training_cells_would_be_judged(run, tmp_path):
    found = command("evaluate", f"input={run}/embedded.h5ad", f"output={tmp_path}", "controls=false", *QUICK)
    (note,) = (note for note in found["notes"] if "give split=" in note)
    assert note.startswith("100.0% of the labeled cells are in the store that this embedding was fine-tuned on")
    assert not any("head" in name for name in found["annotation"])


def test_names_of_cells_that_the_head_never_saw_are_judged(run, tmp_path, monkeypatch):
    cells = ad.read_h5ad(run / "new.h5ad")
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).replace("type 1", "first type")
    cells.write_h5ad(tmp_path / "new.h5ad")
    files = (f"input={tmp_path}/new.h5ad", f"output={tmp_path}/embedded.h5ad")
    command("embed", f"init_from={run}/fine/checkpoints/best.ckpt", *files, "trainer.accelerator=cpu")
    monkeypatch.chdir(tmp_path)
    found = command("evaluate", "input=embedded.h5ad", "output=out", "controls=false", *QUICK)
    named = ad.read_h5ad(tmp_path / "embedded.h5ad").obs
    guess = found["annotation"]["fine-tuned head, best guess"]
    assert guess["accuracy"] == pytest.approx((named["cell_type"].astype(str) == named["scfm_cell_type_guess"]).mean())
    assert guess["n_cells"] == 120
    assert any("were not found in the store" in note for note in found["notes"])
    assert any("calls cells 'type 1', which is no class of 'cell_type' here" in note for note in found["notes"])


def test_each_embedding_of_a_file_has_its_own_checkpoint(run, tmp_path):
    files = (f"input={run}/embedded.h5ad", f"output={tmp_path}/two.h5ad")
    command("embed", f"init_from={run}/pre/checkpoints/last.ckpt", *files, "key=X_base", "trainer.accelerator=cpu")
    two = ad.read_h5ad(tmp_path / "two.h5ad")
    assert embedding_records(two)["X_scfm"]["checkpoint"] == str(run / "fine/checkpoints/best.ckpt")
    assert embedding_records(two)["X_base"]["checkpoint"] == str(run / "pre/checkpoints/last.ckpt")
    assert "X_pca" not in embedding_records(two)
    given = (f"input={tmp_path}/two.h5ad", f"output={tmp_path}/out", "checkpoint=null", "controls=false")
    found = command("evaluate", *given, "others=[X_scfm_state]", "beside=[X_base]", *QUICK)
    assert {"X_scfm", "X_scfm_state", "X_base", "PCA"} == set(found["integration"]), "beside is the old name of others"
    two.uns["scfm"] = "a note of someone else"
    assert embedding_records(two) == {}


def test_without_the_checkpoint_the_rest_is_scored(run, tmp_path):
    moved = ad.read_h5ad(run / "embedded.h5ad")
    moved.uns["scfm"]["X_scfm"]["checkpoint"] = "gone.ckpt"
    moved.write_h5ad(tmp_path / "moved.h5ad")
    found = command("evaluate", f"input={tmp_path}/moved.h5ad", f"output={tmp_path}/out", "controls=false", *QUICK)
    assert "random weights" not in found["integration"]
    assert "PCA" in found["integration"]


@pytest.mark.parametrize("renamed", [False, True])
def test_training_cells_are_known_where_genes_were_filtered(run, tmp_path, renamed):
    cells = ad.read_h5ad(run / "cells.h5ad")[:, 20:].copy()
    if renamed:
        cells.obs_names = [f"renamed {i}" for i in range(cells.n_obs)]
    cells.write_h5ad(tmp_path / "fewer_genes.h5ad")
    files = (f"input={tmp_path}/fewer_genes.h5ad", f"output={tmp_path}/embedded.h5ad")
    command("embed", f"init_from={run}/fine/checkpoints/best.ckpt", *files, "trainer.accelerator=cpu")
    found = command("evaluate", f"input={tmp_path}/embedded.h5ad", f"output={tmp_path}/out", "controls=false", *QUICK)
    (note,) = (note for note in found["notes"] if "give split=" in note)
    assert note.startswith("100.0% of the labeled cells are in the store that this embedding was fine-tuned on")
    assert not any("head" in name for name in found["annotation"])
