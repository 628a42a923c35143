"""A stored config never has anything imported, called or built that scfm or the user has not named."""

import pytest

from scfm.checkpoint import read
from scfm.trust.allowed import is_allowed, shipped_targets, stored_faults, trust_extensions
from support import command

#: Names that run code, read or write files, or reach another module through one that is allowed.
HOSTILE = [
    "torch.load",
    "pandas.read_pickle",
    "os.system",
    "builtins.eval",
    "my_module.Part",
    "subprocess.Popen",
    "scfm.training.consolidate.consolidate",
    "scfm.store.layout.write_json",
    "scfm.checkpoint.torch.load",
    "scfm.strategy.sharded.shutil.rmtree",
    "pytorch_lightning.utilities.cloud_io.torch.load",
    "pytorch_lightning.callbacks.os.system",
    "torch.nn.modules.module.torch.load",
    "torch.optim.optimizer.os.system",
    "transformers.utils.hub.os.remove",
    "transformers.AutoModel.from_pretrained",
    "scfm",
    "",
    "..os.system",
    ["os.system"],
    7,
    None,
]


def at(config: dict, path: str, value: object) -> None:
    *parents, last = path.split(".")
    for name in parents:
        config = config.setdefault(name, {})
    config[last] = value


@pytest.mark.parametrize("target", HOSTILE, ids=str)
@pytest.mark.parametrize("place", ["model.options", "optim", "callbacks.more", "data.deep.down.here"])
def test_a_target_outside_the_allow_list_is_refused_wherever_it_is(forge, place, target):
    path = forge(lambda state: at(state["scfm"]["config"], place, {"_target_": target, "f": "x.pkl"}))
    with pytest.raises(ValueError, match="nothing of it was run") as caught:
        read(path)
    assert str(target) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrapped", [[{"_target_": "os.system"}], [[{"a": {"_target_": "os.system"}}]]])
def test_lists_are_looked_through(forge, wrapped):
    path = forge(lambda state: at(state["scfm"]["config"], "callbacks.list", wrapped))
    with pytest.raises(ValueError, match=r"os\.system"):
        read(path)


@pytest.mark.parametrize("part", ["model", "adapt", "head"])
@pytest.mark.parametrize(
    "target",
    [
        "scfm.callback.metrics_table.MetricsTable",
        "torch.nn.Linear",
        "transformers.BertModel",
        "pytorch_lightning.Trainer",
    ],
)
def test_a_part_is_one_of_its_own_group(forge, part, target):
    path = forge(lambda state: at(state["scfm"]["config"], part, {"_target_": target}))
    with pytest.raises(ValueError, match=f"{part} names '{target}'; expected one of scfm\\."):
        read(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_args_", ["x"]),
        ("_recursive_", False),
        ("options", {"_attn_implementation": "someone/kernels"}),
        ("options", {"attn_implementation": "someone/kernels"}),
        ("activation", "${oc.env:HOME}"),
        ("options", {"inner": {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": "x"}}),
    ],
)
def test_what_means_more_than_a_value_is_refused_in_a_part(forge, key, value):
    path = forge(lambda state: at(state["scfm"]["config"], f"model.{key}", value))
    with pytest.raises(ValueError, match="nothing of it was run"):
        read(path)


def test_a_part_that_does_not_fit_its_signature_is_refused_when_it_is_read(forge):
    path = forge(lambda state: at(state["scfm"]["config"], "model.layers", "many"))
    with pytest.raises(ValueError, match="layers='many' is str; expected int"):
        read(path)


def test_no_module_of_the_working_folder_is_imported(forge, apart, tmp_path, make_adata):
    """A part and an extension that the checkpoint names lie beside where the user works."""

    def change(state):
        state["scfm"]["config"]["extensions"] = ["planted"]
        state["scfm"]["config"]["model"] |= {"options": {"x": {"_target_": "planted.Part"}}}

    make_adata().write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "planted.py").write_text("open('ran', 'w').close()\nclass Part: pass\n")
    code = "import sys; sys.argv[0] = 'scfm-embed'; from scfm.cli import embed; embed()"
    status, said = apart(code, f"init_from={forge(change)}", "input=cells.h5ad", "output=out.h5ad", cwd=tmp_path)
    assert status == 1
    assert "planted.Part" in said and "extensions=[planted]" in said
    assert "Traceback" not in said
    assert not (tmp_path / "ran").exists()


def test_stored_extensions_are_not_imported_even_where_nothing_names_them(forge, apart, tmp_path):
    path = forge(lambda state: state["scfm"]["config"].update(extensions=["planted"]))
    (tmp_path / "planted.py").write_text("open('ran', 'w').close()\n")
    status, said = apart(
        "import sys; sys.path.append('.'); from scfm.checkpoint import read; from scfm.inference.load import "
        "restore_predictor; restore_predictor(read(sys.argv[1]))",
        path,
        cwd=tmp_path,
    )
    assert status == 0, said
    assert not (tmp_path / "ran").exists()


def test_a_module_that_the_user_names_may_be_stored(forge):
    node = {"_target_": "named_by_the_user.Part"}
    path = forge(lambda state: at(state["scfm"]["config"], "callbacks.mine", node))
    with pytest.raises(ValueError, match=r"extensions=\[named_by_the_user\]"):
        read(path)
    trust_extensions(["named_by_the_user"])
    assert read(path).config["callbacks"]["mine"] == node


def test_every_shipped_part_may_be_stored():
    for part in ("model", "adapt", "head"):
        assert shipped_targets(part)
        for target in shipped_targets(part):
            assert not list(stored_faults({part: {"_target_": target}}))


def test_what_users_name_in_their_own_configs_still_passes():
    for target in (
        "torch.optim.SGD",
        "torch.optim.lr_scheduler.OneCycleLR",
        "pytorch_lightning.callbacks.EarlyStopping",
        "pytorch_lightning.loggers.MLFlowLogger",
        "transformers.get_cosine_schedule_with_warmup",
        "scfm.optim.schedule.linear",
    ):
        assert is_allowed(target)


def test_a_resume_refuses_callbacks_that_would_delete_outside(forge, made_store, tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    stored = {"best_k_models": {f"{tmp_path}/run/checkpoints/../../victim.txt": 1.0}}
    path = forge(lambda state: state["callbacks"].update(ModelCheckpoint=stored))
    model = ("model.layers=2", "model.width=32", "model.heads=2", "model.feedforward=64", "model.positions=64")
    with pytest.raises(ValueError, match="outside the folder of its run"):
        command("train", f"store={made_store}", f"output={tmp_path / 'run'}", f"ckpt_path={path}", *model,
                "trainer.accelerator=cpu", "data.tokens_per_batch=256", "callbacks.progress=null",
                "trainer.enable_progress_bar=false")  # fmt: skip
    assert victim.read_text() == "mine"


def test_a_part_of_the_users_own_is_loaded_where_it_is_named(forge, tmp_path, monkeypatch):
    import scfm

    (tmp_path / "own_model.py").write_text("from scfm.model.backbone import Backbone\nclass Mine(Backbone): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = forge(lambda state: state["scfm"]["config"]["model"].update(_target_="own_model.Mine"))
    with pytest.raises(ValueError, match="own_model"):
        scfm.load(path)
    assert type(scfm.load(path, extensions=["own_model"]).backbone).__name__ == "Mine"
