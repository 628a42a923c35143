"""Embedding in parts: the same whatever the parts, the ranks, a restart or the memory."""

import anndata
import numpy as np
import pytest
import torch

from documented import documented, smaller
from ranks import as_typed, ended
from scfm.datasets.demo_cells import demo_file
from scfm.inference.parts import PartWriter, parts_of
from scfm.module import CellModule
from support import SMALL, command


@pytest.fixture(scope="module")
def embed(tmp_path_factory):
    """``embed(overrides)``: the embedding of the demo cells."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("embed")
    tiny = [option for option in SMALL if not option.startswith(("model.positions", "data."))]
    command(
        "train", "data=demo", f"output={folder}/run/train", *tiny, "model.positions=2048", "trainer.max_steps=1",
        "data.max_length=64", "model.max_length=64", "data.tokens_per_batch=2048",
    )  # fmt: skip

    def run(*overrides: str, name: str = "out"):
        output = folder / f"{name}.h5ad"
        command(
            "embed", f"init_from={folder}/run/train/checkpoints/last.ckpt", f"input={demo_file()}", f"output={output}",
            "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "overwrite=true", *overrides,
        )  # fmt: skip
        return anndata.read_h5ad(output).obsm["X_scfm"]

    run.folder = folder
    run.expected = run()
    return run


def test_parts_and_blocks_do_not_matter(embed):
    found = embed("part_size=100", "block_size=64", name="small")
    np.testing.assert_allclose(found, embed.expected, atol=1e-5)
    assert not list(embed.folder.glob(".*.parts"))


def test_an_interrupted_run_goes_on(embed, monkeypatch):
    flush, written = PartWriter._flush, []

    def counted(self):
        if len(written) == 3:
            raise KeyboardInterrupt
        flush(self)
        written.append(self._part)

    monkeypatch.setattr(PartWriter, "_flush", counted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        embed("part_size=200", name="stopped")
    (folder,) = embed.folder.glob(".stopped*.parts")
    assert len(parts_of(folder)) == 2
    monkeypatch.setattr(PartWriter, "_flush", flush)
    predicted, predict = [], CellModule._predict
    monkeypatch.setattr(CellModule, "_predict", lambda self, batch: predicted.append(batch) or predict(self, batch))
    np.testing.assert_allclose(embed("part_size=200", name="stopped"), embed.expected, atol=1e-5)
    assert min(int(batch.index.min()) for batch in predicted) == 400


def test_memory_that_runs_out_halves_the_batch(embed, monkeypatch, caplog):
    predict = CellModule._predict

    def limited(self, batch):
        if batch.n_tokens > 1000:
            raise torch.OutOfMemoryError("fake: out of memory")
        return predict(self, batch)

    monkeypatch.setattr(CellModule, "_predict", limited)
    np.testing.assert_allclose(embed(name="halved"), embed.expected, atol=1e-5)
    assert "halving this batch" in caplog.text


@pytest.mark.distributed
def test_two_ranks_make_the_same_file(embed):
    """The documented command: the parts are divided over the ranks, and the rows keep the input's order."""
    output = embed.folder / "two.h5ad"
    words = smaller(
        documented("scfm-embed"), ("trainer=gpu", "trainer=cpu"), ("trainer.devices=", "trainer.devices=2"),
        ("init_from=", f"init_from={embed.folder}/run/train/checkpoints/last.ckpt"), ("input=", f"input={demo_file()}"),
        ("output=", f"output={output}"),
    )  # fmt: skip
    (said,) = ended(as_typed([*words, "part_size=100", "trainer.enable_progress_bar=false"]))
    assert "GLOBAL_RANK: 1, MEMBER: 2/2" in said
    one, two = anndata.read_h5ad(embed.folder / "out.h5ad"), anndata.read_h5ad(output)
    np.testing.assert_allclose(two.obsm["X_scfm"], embed.expected, atol=1e-5)
    assert two.obs_names.equals(one.obs_names)
    assert not list(embed.folder.glob(".two*"))


def test_a_strategy_that_divides_the_model(embed):
    with pytest.raises(ValueError, match="take strategy=ddp"):
        embed("strategy=fsdp2", name="divided")
