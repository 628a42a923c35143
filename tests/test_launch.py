"""Every command of docs/launch.md and docs/performance.md, at a small size and on the CPU, as a user types it."""

import shutil
import sys
from pathlib import Path

import pytest

from documented import commands, documented, smaller
from ranks import as_typed, ended, free_port
from scfm.training.devices import cluster
from support import SMALL, command

pytestmark = pytest.mark.timeout(200)

#: How each documented command begins, and the test that runs it.
RUN = {
    "scfm-train trainer=gpu": "test_one_device",
    "torchrun --nproc-per-node=8": "test_one_node",
    "torchrun --nnodes=4": "test_two_nodes",
    "deepspeed --num_gpus 8": "test_deepspeeds_launcher",
    "scfm-embed trainer=gpu": "tests/inference/test_parts.py",
    "scfm-consolidate": "test_deepspeeds_launcher",
    "sbatch docs/train.sbatch": "tests/test_slurm.py",
    "python train.py -m hydra/launcher=slurm": "tests/test_slurm.py",
    "finetune.py init_from=": "tests/strategy/test_two_ranks.py",
    "python benchmarks/": "test_a_benchmark",
}
#: What makes a documented benchmark small; of the others, the options alone are looked at, for each takes a minute.
BENCHMARKS = {
    "step.py": ["--repeats", "1", "--only", "128"],
    "kernel.py": ["--cells", "200", "--repeats", "1"],
}
CPU = ("trainer=gpu", "trainer=cpu")
STEP = ("data.tokens_per_step=", "data.tokens_per_step=512")


def test_no_command_escapes():
    unknown = [line for line in commands() if not line.startswith(tuple(RUN))]
    assert not unknown, f"documented, but run by no test: {unknown}"
    missing = [beginning for beginning in RUN if not any(line.startswith(beginning) for line in commands())]
    assert missing in ([], ["finetune.py init_from="]), f"run by a test, but no longer documented: {missing}"


def small_run(store: Path, output: Path) -> list[str]:
    return [*SMALL, f"store={store}", f"output={output}", "trainer.max_steps=2"]


def test_one_device(made_store, tmp_path):
    words = smaller(documented("scfm-train"), CPU, STEP)
    command("train", *words[1:], *small_run(made_store, tmp_path))
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.distributed
def test_one_node(made_store, tmp_path):
    words = smaller(
        documented("torchrun --nproc-per-node"), CPU, STEP, ("--nproc-per-node=", "--nproc-per-node=2"),
        ("trainer.devices=", "trainer.devices=2"),
    )  # fmt: skip
    (said,) = ended(as_typed([words[0], f"--master-port={free_port()}", *words[1:], *small_run(made_store, tmp_path)]))
    assert "Initializing distributed: GLOBAL_RANK: 1, MEMBER: 2/2" in said
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.distributed
def test_two_nodes(made_store, tmp_path):
    """On loopback."""
    port = free_port()
    nodes = [
        smaller(
            documented("torchrun --nnodes"), CPU, STEP, ("--nnodes=", "--nnodes=2"),
            ("--nproc-per-node=", "--nproc-per-node=1"), ("--node-rank=$NODE", f"--node-rank={node}"),
            ("--master-addr=$FIRST", "--master-addr=127.0.0.1"), ("--master-port=", f"--master-port={port}"),
            ("trainer.devices=", "trainer.devices=1"), ("trainer.num_nodes=", "trainer.num_nodes=2"),
        )
        for node in range(2)
    ]  # fmt: skip
    ended(*(as_typed([*words, *small_run(made_store, tmp_path)]) for words in nodes))
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    assert sorted(path.name for path in tmp_path.glob("*.log")) == ["train-rank0.log", "train-rank1.log"]


@pytest.mark.distributed
@pytest.mark.skipif(shutil.which("deepspeed", path=str(Path(sys.executable).parent)) is None, reason="no deepspeed")
def test_deepspeeds_launcher(made_store, tmp_path):
    """It tells ranks by variables of its own, and hands every process ``--local_rank=N``."""
    words = smaller(documented("deepspeed"), CPU, ("8", "2"), ("trainer.devices=", "trainer.devices=2"))
    options = [*small_run(made_store, tmp_path), "callbacks.checkpoint.every_n_train_steps=1"]
    (said,) = ended(as_typed([words[0], "--master_port", str(free_port()), *words[1:], *options]))
    assert "GLOBAL_RANK: 1, MEMBER: 2/2" in said
    assert sorted(path.name for path in tmp_path.glob("*.log")) == ["train-rank0.log", "train-rank1.log"]
    folder = tmp_path / "checkpoints" / "step-1.ckpt"
    (option,) = documented("scfm-consolidate")[1:]
    command("consolidate", option.partition("=")[0] + f"={folder}")
    assert (folder / "weights.ckpt").is_file()


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("python benchmarks/")])
def test_a_benchmark(line):
    """Its figures mean nothing at this size; that it ends well, and knows its options, does."""
    _, script, *options = line.split()
    if Path(script).name not in BENCHMARKS:
        (usage,) = ended(as_typed([sys.executable, script, "--help"]))
        assert all(option in usage for option in options if option.startswith("--"))
        return
    (said,) = ended(as_typed([sys.executable, script, *options, *BENCHMARKS[Path(script).name]]))
    assert "CPU" in said


RANK = {"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize("launcher", [{"CROSS_RANK": "1"}, {"TORCHELASTIC_RUN_ID": "none", "SLURM_NTASKS": "2"}])
def test_a_launcher_that_names_ranks_is_believed(monkeypatch, launcher):
    """DeepSpeed's on the second of two nodes; torchrun inside a Slurm job, whose own variables know nodes alone."""
    for name, value in {**RANK, **launcher}.items():
        monkeypatch.setenv(name, value)
    (found,) = cluster()
    assert (found.global_rank(), found.local_rank(), found.world_size()) == (9, 1, 16)
    assert found.main_address == "node1"
