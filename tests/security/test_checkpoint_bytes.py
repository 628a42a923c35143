"""Every byte of a checkpoint is as it was written, or the checkpoint is refused."""

import random
import zipfile
from collections import OrderedDict

import pytest
import torch

from scfm.checkpoint import read
from scfm.trust.archive import archive_fault


def test_a_sound_checkpoint_is_read(sound):
    assert archive_fault(sound) is None
    assert read(sound).step == 2


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path):
    """Every byte of a small file: heads, padding, data, list and end."""
    path = tmp_path / "small.ckpt"
    torch.save({"a": torch.arange(50.0), "empty": torch.zeros(0), "b": {"c": torch.zeros(3, dtype=torch.int8)}}, path)
    assert archive_fault(path) is None
    whole = path.read_bytes()
    rng = random.Random(0)
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        assert archive_fault(path) is not None, f"byte {place}"


def test_reading_refuses_a_flipped_bit_in_one_sentence(sound, tmp_path):
    whole = sound.read_bytes()
    rng, path = random.Random(1), tmp_path / "flipped.ckpt"
    for _ in range(40):
        changed = bytearray(whole)
        changed[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="use an earlier one of the same folder"):
            read(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99, 0.99999])
def test_a_cut_file_is_refused(sound, tmp_path, share):
    whole, path = sound.read_bytes(), tmp_path / "cut.ckpt"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        read(path)


def test_bytes_after_the_end_or_between_records_are_refused(sound, tmp_path):
    whole, path = sound.read_bytes(), tmp_path / "longer.ckpt"
    for changed in (whole + b"\0", b"\0" + whole, whole[:4000] + b"\0" + whole[4000:]):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            read(path)


def test_a_compressed_archive_is_no_checkpoint(sound, tmp_path):
    """A bomb would be: a few bytes that stand for many."""
    path = tmp_path / "packed.ckpt"
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        read(path)


class _Runs:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_pickle_that_calls_something_is_refused(forge, capsys):
    path = forge(lambda state: state.update(extra=_Runs()))
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        read(path)
    assert "this ran" not in capsys.readouterr().out


def _nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def _doubled(times: int) -> list:
    value: list = [0]
    for _ in range(times):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (_nested(300), "nested more than"),
        (_doubled(60), "more than"),
        (torch.zeros(1), "holds Tensor"),
        ({1: "x"}, "a key that is no text"),
        (1 << 1000, "a number of 1001 bits"),
        (b"bytes", "holds bytes"),
        ((1, 2), "holds tuple"),
    ],
    ids=["deep", "memo bomb", "tensor", "key", "number", "bytes", "tuple"],
)
def test_values_that_are_not_plain_are_refused(forge, value, said):
    path = forge(lambda state: state["scfm"]["config"].update(name=value))
    with pytest.raises(ValueError, match=said):
        read(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update(scfm=[1, 2]),
        lambda state: state["scfm"].update(format="1"),
        lambda state: state["scfm"].pop("config"),
        lambda state: state["scfm"].pop("tokenizer"),
        lambda state: state["scfm"].update(causal="yes"),
        lambda state: state["scfm"].update(classes={"cell_type": [1, 2]}),
        lambda state: state["scfm"]["config"].pop("data"),
        lambda state: state["scfm"]["config"]["data"].update(max_length=-5),
        lambda state: state.update(state_dict=[torch.zeros(3)]),
        lambda state: state.update(state_dict={"backbone.x": "text"}),
        lambda state: state.pop("state_dict"),
        lambda state: state.update(global_step="many"),
    ],
)
def test_a_checkpoint_that_lacks_a_part_is_refused_in_a_sentence(forge, change):
    with pytest.raises(ValueError, match="damaged|no whole checkpoint"):
        read(forge(change))


def test_a_tensor_larger_than_its_bytes_is_refused(forge):
    """A view that repeats one number: 4 bytes that stand for 4 TB."""
    path = forge(lambda state: state["state_dict"].update({"backbone.x": torch.zeros(1).expand(10**6, 10**6)}))
    with pytest.raises(ValueError, match="state_dict"):
        read(path)


def test_a_sparse_tensor_with_wrong_indices_is_refused(forge, apart):
    sparse = torch.sparse_coo_tensor(torch.tensor([[10**9]]), torch.ones(1), (4,), check_invariants=False)
    path = forge(lambda state: state["state_dict"].update({"backbone.x": sparse}))
    status, said = apart("import sys; from scfm.checkpoint import read; read(sys.argv[1])", path)
    assert status == 1, said
    assert "ValueError" in said


def test_weights_are_loaded_strictly_by_name(forge):
    from scfm.inference.load import restore_backbone

    path = forge(lambda state: state.update(state_dict=OrderedDict(list(state["state_dict"].items())[1:])))
    with pytest.raises(ValueError, match="does not fit the model it describes"):
        restore_backbone(read(path))


BOMB = """
import sys, resource
from scfm.checkpoint import read
from scfm.inference.load import restore_predictor
resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))
restore_predictor(read(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layers", 10**9),
        ("layers", 40),
        ("width", 1 << 20),
        ("feedforward", 1 << 40),
        ("positions", 10**10),
        ("options", {"type_vocab_size": 10**10}),
        ("heads", 0),
    ],
)
def test_a_model_larger_than_its_weights_takes_no_memory(forge, apart, key, value):
    path = forge(lambda state: state["scfm"]["config"]["model"].update({key: value}))
    status, said = apart(BOMB, path, seconds=60)
    assert status == 1
    assert "Error: " in said.splitlines()[-1] and "Killed" not in said and "MemoryError" not in said, said[-1500:]


def test_a_head_of_absurd_size_is_refused(forge):
    head = {"_target_": "scfm.head.annotation.classifier.Classifier", "label": "cell_type", "hidden": 10**9}
    path = forge(lambda state: state["scfm"]["config"].update(head=head))
    with pytest.raises(ValueError, match="head.hidden=1,000,000,000 is more than"):
        read(path)


def test_the_folder_of_a_run_is_no_folder_of_shards(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(
        ValueError, match="is the folder of a run; name a checkpoint of it, .*run/checkpoints/last.ckpt"
    ):
        read(tmp_path / "run")
