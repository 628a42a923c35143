"""A checkpoint folder from a stranger gives tensors, and runs nothing that is pickled in it."""

import json
import logging
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch.distributed import checkpoint as dcp

from scfm.checkpoint import WEIGHTS, read
from scfm.training.consolidate import consolidate
from scfm.training.shards import guard_resume, plain_loads, read_layout, trusted_loads


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def seal(folder: Path) -> None:
    sizes = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "files.json"
    }
    (folder / "files.json").write_text(json.dumps(sizes))


@pytest.fixture(autouse=True)
def _quiet():
    """Torch logs every call at level DEBUG."""
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)


@pytest.fixture
def sharded(sound: Path, tmp_path: Path) -> Path:
    """The sound checkpoint as a folder of torch's distributed checkpoint."""
    state = torch.load(sound, weights_only=True)
    folder = tmp_path / "step-2.ckpt"
    weights = {f"state_dict.{name}": value for name, value in state.pop("state_dict").items()}
    dcp.save({**weights, "optimizer_0.param_groups.0.lr": 0.1}, checkpoint_id=folder, no_dist=True)
    torch.save(state, folder / "meta.pt")
    seal(folder)
    return folder


@pytest.fixture
def zero(sound: Path, tmp_path: Path) -> Path:
    """What stands for a folder of DeepSpeed: whole, with plain shards."""
    folder = tmp_path / "zero.ckpt"
    (folder / "checkpoint").mkdir(parents=True)
    torch.save({"module": {}}, folder / "checkpoint" / "mp_rank_00_model_states.pt")
    seal(folder)
    return folder


def test_shards_are_gathered_as_they_were_written(sharded, sound):
    found, before = read(consolidate(sharded)), read(sound)
    assert found.weights.keys() == before.weights.keys()
    assert all(torch.equal(found.weights[name], before.weights[name]) for name in before.weights)
    assert found.config == before.config


def test_a_pickle_in_the_layout_is_not_run(sharded, tmp_path):
    layout = pickle.loads((sharded / ".metadata").read_bytes())
    layout.planner_data = Runs(tmp_path / "ran")
    (sharded / ".metadata").write_bytes(pickle.dumps(layout))
    seal(sharded)
    with pytest.raises(ValueError, match=r"not safe: it asks for pathlib"):
        consolidate(sharded)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "torch.load", "pathlib.os", "torch.Tensor"])
def test_the_layout_asks_for_descriptions_of_tensors_alone(sharded, name):
    module, _, attribute = name.rpartition(".")
    (sharded / ".metadata").write_bytes(b"\x80\x02c%s\n%s\n." % (module.encode(), attribute.encode()))
    with pytest.raises(ValueError, match="it asks for"):
        read_layout(sharded)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", 7])
def test_a_shard_outside_the_folder_is_not_read(sharded, name):
    layout = pickle.loads((sharded / ".metadata").read_bytes())
    for info in layout.storage_data.values():
        info.relative_path = name
    (sharded / ".metadata").write_bytes(pickle.dumps(layout))
    seal(sharded)
    with pytest.raises(ValueError, match="not safe"):
        consolidate(sharded)


def test_weights_that_claim_more_than_the_shards_hold_take_no_memory(sharded):
    layout = pickle.loads((sharded / ".metadata").read_bytes())
    name = next(name for name in layout.state_dict_metadata if name.startswith("state_dict."))
    layout.state_dict_metadata[name].size = torch.Size([10**6, 10**6])
    (sharded / ".metadata").write_bytes(pickle.dumps(layout))
    seal(sharded)
    with pytest.raises(ValueError, match="claim 4,000,"):
        consolidate(sharded)


def test_a_pickle_in_place_of_a_weight_is_not_run(sharded, tmp_path):
    """As an entry of bytes, which torch's own reader unpickles."""
    weights = {"state_dict.backbone.x": torch.zeros(2), "state_dict.backbone.y": Runs(tmp_path / "ran")}
    shutil.copy(sharded / "meta.pt", tmp_path / "meta.pt")
    shutil.rmtree(sharded)
    dcp.save(weights, checkpoint_id=sharded, no_dist=True)
    shutil.copy(tmp_path / "meta.pt", sharded / "meta.pt")
    seal(sharded)
    with pytest.raises(ValueError, match="damaged"):
        consolidate(sharded)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\x80", b"garbage", b"." * 10, b"\x80\x04r\xff\xff\xff\x7f"])
def test_a_broken_layout_is_refused(sharded, content):
    (sharded / ".metadata").write_bytes(content)
    seal(sharded)
    with pytest.raises(ValueError, match=r"\.metadata is damaged or not safe"):
        consolidate(sharded)


def test_a_flipped_bit_in_what_stands_beside_is_found(sharded):
    changed = bytearray((sharded / "meta.pt").read_bytes())
    changed[len(changed) // 2] ^= 4
    (sharded / "meta.pt").write_bytes(changed)
    with pytest.raises(ValueError, match=r"meta\.pt"):
        consolidate(sharded)


def test_a_shard_of_deepspeed_runs_nothing_unless_it_is_trusted(zero, tmp_path):
    pytest.importorskip("deepspeed")
    for name in ("zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"):
        torch.save({"optimizer_state_dict": Runs(tmp_path / "ran")}, zero / "checkpoint" / name)
    seal(zero)
    with pytest.raises(ValueError, match="trusted=true"):
        consolidate(zero)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match="cannot be gathered"):
        consolidate(zero, trusted=True)
    assert (tmp_path / "ran").exists(), "the test would not see it"
    assert not (zero / WEIGHTS).exists()


def test_a_resume_from_a_strangers_shards_runs_nothing(zero, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    torch.save({"x": Runs(tmp_path / "ran")}, zero / "checkpoint" / "mp_rank_00_model_states.pt")
    guard_resume(zero)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(zero / "checkpoint" / "mp_rank_00_model_states.pt", weights_only=False)
    assert not (tmp_path / "ran").exists()


def test_a_run_that_resumed_from_others_gathers_its_own_shards(zero, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    torch.save({"x": Runs(zero / "ran")}, zero / "x.pt")
    guard_resume(zero)
    with trusted_loads():
        torch.load(zero / "x.pt", weights_only=False)
    assert (zero / "ran").exists()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(zero / "x.pt", weights_only=False)


def test_loads_are_as_before_afterward(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    torch.save({"x": Runs(tmp_path / "ran")}, tmp_path / "x.pt")
    with plain_loads(), pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.pt", weights_only=False)
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert (tmp_path / "ran").exists()
