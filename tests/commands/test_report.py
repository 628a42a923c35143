"""A report reads no more cells than it judges by."""

import pandas as pd
import pytest

from scfm.evaluation.methods import store_probes
from support import SMALL, command


@pytest.mark.parametrize(("head", "probes"), [("integration/triplet", False), ("annotation/classifier", True)])
def test_only_probes_make_a_backbone_read_training_cells(head, probes, made_store, tmp_path, monkeypatch):
    command("train", f"store={made_store}", f"output={tmp_path / 'pre'}", *SMALL, "trainer.max_steps=2")
    read, embeddings = [], store_probes.embeddings

    def watched(backbone, data, rows, device):
        read.append(len(rows))
        return embeddings(backbone, data, rows, device)

    monkeypatch.setattr(store_probes, "embeddings", watched)
    chosen = {
        "integration/triplet": ("head.batch_key=donor", "head.gene_components=8", "head.neighbors=5"),
        "annotation/classifier": ("head.label=cell_type", "calibration=0"),
    }
    command(
        "finetune", f"head={head}", f"init_from={tmp_path / 'pre/checkpoints/last.ckpt'}", f"store={made_store}",
        f"output={tmp_path / 'run'}", "trainer.max_steps=2", "trainer.accelerator=cpu", "data.tokens_per_batch=256",
        "data.test=0.1", "callbacks.progress=null", "trainer.enable_progress_bar=false", *chosen[head],
    )  # fmt: skip
    page = (tmp_path / "run/report.html").read_text()
    assert ("On cells kept aside, the backbone adds " in page) == probes
    assert ("gene components, linear probe" in page) == probes
    assert "The pretrained backbone " in page
    assert all(row in page for row in ("with the backbone", "without it (components alone)", "with random weights"))
    assert "What the backbone adds is not compared for this head" not in page
    parts = pd.read_csv(tmp_path / "run/split.csv")["part"].value_counts()
    train = parts["train"] if probes else 0
    assert read == [parts["test"] + train] * (2 if probes else 1)  # pretrained and untrained, or the first alone
