"""Whatever a checkpoint holds, it is read or refused with a ValueError."""

import copy
import io
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import bounded, values
from scfm.checkpoint import read
from support import SMALL, command


class State(dict):
    """A checkpoint that an example shows in one word."""

    def __repr__(self) -> str:
        return "state"


@pytest.fixture(scope="module")
def state(made_store: Path, tmp_path_factory: pytest.TempPathFactory) -> State:
    folder = tmp_path_factory.mktemp("fuzzed")
    command("train", f"store={made_store}", f"output={folder}", *SMALL, "trainer.max_steps=1")
    return State(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed") / "forged.ckpt"


def read_or_refuse(path: Path) -> None:
    try:
        found = read(path)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert found.config["model"]["_target_"] == "scfm.model.backbone.Backbone"


@bounded(60)
@given(data=st.data())
def test_any_value_anywhere_in_what_it_says_of_itself(state, path, data):
    forged = copy.deepcopy({key: state[key] for key in ("scfm", "global_step")})
    forged["state_dict"] = dict(list(state["state_dict"].items())[:2])
    node, keys = forged, ["scfm"]
    for _ in range(data.draw(st.integers(1, 5))):
        if not isinstance(node[keys[-1]], dict) or not node[keys[-1]]:
            break
        node = node[keys[-1]]
        keys.append(data.draw(st.sampled_from(sorted(node))))
    node[keys[-1]] = data.draw(values)
    torch.save(forged, path)
    read_or_refuse(path)


@bounded(150)
@given(data=st.data())
def test_any_bytes_in_its_pickle(state, path, data):
    """With the right checksum, as someone writes it who means it."""
    whole = io.BytesIO()
    torch.save({"scfm": state["scfm"], "state_dict": {}, "global_step": 1}, whole)
    whole.seek(0)
    reader = torch._C.PyTorchFileReader(whole)
    changed = bytearray(reader.get_record("data.pkl"))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    writer = torch._C.PyTorchFileWriter(str(path))
    for name in reader.get_all_records():
        if name not in ("version", ".data/serialization_id"):
            record = bytes(changed) if name == "data.pkl" else reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    read_or_refuse(path)
