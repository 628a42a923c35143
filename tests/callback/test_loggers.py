"""W&B's offline run read back; TensorBoard and the CSV file know the same."""

import json
import struct

import pandas as pd
import pytest

from support import command


def records(path):
    """The records of a ``.wandb`` file: LevelDB's log format after a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # full, or the last of several
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def values(items) -> dict:
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


@pytest.fixture
def offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))


def read(folder):
    (path,) = folder.rglob("*.wandb")
    found = list(records(path))
    keys = {key for record in found for key in values(record.history.item)}
    config = {key: value for record in found for key, value in values(record.run.config.update).items()}
    config |= {key: value for record in found for key, value in values(record.config.update).items()}
    artifacts = [record.request.log_artifact.artifact for record in found if record.request.HasField("log_artifact")]
    artifacts += [record.artifact for record in found if record.HasField("artifact")]
    (table,) = folder.rglob("*predictions*.table.json")
    table = json.loads(table.read_text())
    return keys, config, artifacts, pd.DataFrame(table["data"], columns=table["columns"])


def scalars(folder) -> set[str]:
    return set(pd.read_csv(folder / "metrics.csv").columns) - {"step", "epoch"}


def test_wandb_has_curves_config_predictions_and_the_report(train, offline):
    folder = train("trainer.max_steps=3", "logger=wandb", "validate_every=2")
    keys, config, artifacts, table = read(folder)
    assert scalars(folder) <= keys
    assert config["model"]["width"] == 32
    assert {"git", "store", "torch"} <= config["run"].keys()
    (report,) = [artifact for artifact in artifacts if artifact.type == "report"]
    files = {entry.path for entry in report.manifest.contents}
    assert {"config.yaml", "metrics.json", "metrics.csv", "curves.png"} <= files
    assert table["gene"].str.startswith("G").all()
    assert table["guesses"].str.count(",").eq(4).all()
    assert len(table) > 5


def test_the_heads_predictions(train, offline, tmp_path, made_store):
    begun = train("trainer.max_steps=1")
    command(
        "finetune", f"store={made_store}", f"init_from={begun}/checkpoints/last.ckpt", "head.label=cell_type",
        f"output={tmp_path}/fine", "trainer.max_steps=2", "trainer.accelerator=cpu", "callbacks.progress=null",
        "trainer.enable_progress_bar=false", "data.tokens_per_batch=256", "validate_every=2", "logger=wandb",
    )  # fmt: skip
    _, _, _, table = read(tmp_path / "fine")
    assert set(table["cell_type"]) <= {"B", "NK", "T"}
    assert "scfm_cell_type" in table


def test_tensorboard_has_the_same_keys(train):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train("trainer.max_steps=3", "logger=tensorboard", "validate_every=2")
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert scalars(folder) <= set(events.Tags()["scalars"])


def test_the_next_trial_has_a_run_of_its_own(train, offline):
    import wandb

    train("trainer.max_steps=1", "logger=wandb")
    assert wandb.run is None
    with pytest.raises(ValueError, match="3 optimizer steps in a row"):
        train("trainer.max_steps=9", "optim.lr=1e30", "logger=wandb", "callbacks.health.stop_after=3", output="ends")
    assert wandb.run is None
