"""What a fine-tuned embedding is held against, by the commands a user types."""

import anndata as ad
import pytest

from scfm.data.synthetic import synthetic_cells
from support import SMALL, command

FAST = tuple(part for part in SMALL if not part.startswith("model."))
QUICK = ("baselines=[pca]", "draws=10", "folds=2", "label=cell_type", "batch=batch")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Made-up cells embedded by a fine-tune of a backbone that was pretrained on them."""
    folder = tmp_path_factory.mktemp("evaluated")
    cells = synthetic_cells(n_cells=200, n_genes=150, n_types=3, n_batches=4, seed=1)
    cells.write_h5ad(folder / "cells.h5ad")
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
    assert any(f"100.0% of the judged cells are in {run}/store" in note for note in found["notes"])
    assert "give split=" not in caplog.text


def test_warns_where_training_cells_would_be_judged(run, tmp_path, caplog):
    command("evaluate", f"input={run}/embedded.h5ad", f"output={tmp_path}", "controls=false", *QUICK)
    assert "was fine-tuned by" in caplog.text
    assert "give split=" in caplog.text


def test_without_the_checkpoint_the_rest_is_scored(run, tmp_path):
    moved = ad.read_h5ad(run / "embedded.h5ad")
    moved.uns["scfm"]["checkpoint"] = "gone.ckpt"
    moved.write_h5ad(tmp_path / "moved.h5ad")
    found = command("evaluate", f"input={tmp_path}/moved.h5ad", f"output={tmp_path}/out", "controls=false", *QUICK)
    assert "random weights" not in found["integration"]
    assert "PCA" in found["integration"]
