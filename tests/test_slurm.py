"""A real Slurm of two nodes on loopback: sbatch and srun, USR1 -> save -> requeue -> resume, an array by submitit."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from documented import documented, smaller
from ranks import environment, free_port
from scfm.datasets.synthetic import synthetic_cells
from support import SMALL, checksums, command

pytestmark = [pytest.mark.slurm, pytest.mark.distributed, pytest.mark.timeout(240)]
REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def slurm(shared, tmp_path_factory):
    """Started with the scripts beside the reference files; stopped at the end."""
    if shutil.which("slurmctld") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(
            ["apt-get", "install", "-y", "-q", "--no-install-recommends", "slurm-wlm", "munge"],
            capture_output=True, check=False, timeout=120,
        )  # fmt: skip
    if shutil.which("slurmctld") is None or os.geteuid() != 0:
        pytest.skip("Slurm cannot be installed here")
    state = tmp_path_factory.mktemp("slurm")
    with (state / "up.log").open("w") as log:  # a pipe would be held open by the daemons
        up = ["bash", str(shared / "slurm" / "up.sh"), str(state)]
        subprocess.run(up, stdout=log, stderr=log, timeout=60, check=False)
    if "idle" not in call("sinfo"):
        pytest.skip(f"Slurm does not start here: {(state / 'up.log').read_text()[-500:]}")
    yield state
    call("scancel", "--user=root")
    subprocess.run(["bash", str(shared / "slurm" / "down.sh"), str(state)], check=False)


def call(*arguments: str) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr


def wait_for(what, seconds: float, why: str):
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, why
        time.sleep(0.3)
    return found


def state_of(job: str) -> str:
    return next((word[9:] for word in call("scontrol", "show", "job", job).split() if word.startswith("JobState=")), "")


def test_usr1_saves_requeues_and_resumes(slurm, made_store, tmp_path):
    """docs/train.sbatch itself, on fewer devices."""
    said, output = tmp_path / "said.txt", tmp_path / "run"
    output.mkdir()
    words = smaller(
        documented("sbatch"), ("store=", f"store={made_store}"), ("data.tokens_per_step=", "data.tokens_per_step=512"),
        ("name=", f"output={output}"),
    )  # fmt: skip
    fewer = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1", f"--output={said}"]
    options = [
        *SMALL, "trainer.precision=32-true", "trainer.max_steps=120", "callbacks.checkpoint.every_n_train_steps=1000",
        "extensions=[stoppable]", "+callbacks.recorder._target_=stoppable.Recorder",
        f"+callbacks.recorder.folder={output}",
    ]  # fmt: skip
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [words[0], "--parsable", *fewer, *words[1:], *options], cwd=REPOSITORY, capture_output=True, text=True,
        env=environment(PATH=path, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port()), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    seen = output / "cells-0.jsonl"
    wait_for(lambda: seen.exists() and len(seen.read_text().splitlines()) > 10, 90, "the job does not train")
    call("scancel", "--signal=USR1", job)
    wait_for(lambda: state_of(job) == "PENDING", 40, f"not requeued: {said.read_text()[-2000:]}")
    call("scontrol", "update", f"jobid={job}", "StartTime=now")
    wait_for(lambda: state_of(job) == "COMPLETED", 120, f"not completed: {said.read_text()[-2000:]}")
    text = said.read_text()
    assert "SIGUSR1: saved" in text
    assert f"Asking Slurm to start job {job} again" in text
    assert (output / "checkpoints" / "last.ckpt").exists()
    steps = [int(line.split(",")[0].strip("[")) for line in seen.read_text().splitlines()]
    assert sorted(set(steps)) == list(range(120))
    assert len(steps) <= 121, "nothing is repeated but the batch that was fetched when the run stopped"


def test_a_sweep_as_a_slurm_array(slurm, made_store, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    words = smaller(
        documented("python train.py -m"), ("python", sys.executable), ("store=", f"store={made_store}"),
        ("optim.lr=", "optim.lr=1e-3,1e-4"),
    )  # fmt: skip
    options = [
        f"output={tmp_path}/sweep", *SMALL, "trainer.max_steps=2", "hydra.launcher.cpus_per_task=1",
        "hydra.launcher.timeout_min=5",
    ]  # fmt: skip
    done = subprocess.run(
        [*words, *options], cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list(tmp_path.rglob("last.ckpt"))) == 2
    folders = {path.parent.name for path in tmp_path.rglob("*_submitted.pkl")}
    assert len({name.partition("_")[0] for name in folders}) == 1, f"one array, not jobs of their own: {folders}"
    assert {name.partition("_")[2] for name in folders} == {"0", "1"}


def test_a_store_by_arrays_of_jobs(slurm, tmp_path):
    """The commands of docs/scale.md, with two jobs to an array: the bytes of a single run."""
    (tmp_path / "atlas").mkdir()
    cells = synthetic_cells(n_cells=240, n_genes=120, seed=2)
    for number in range(3):
        cells[number * 80 : number * 80 + 80].write_h5ad(tmp_path / "atlas" / f"{number}.h5ad")
    (block,) = [b for b in (REPOSITORY / "docs/scale.md").read_text().split("```") if "docs/prepare.sbatch" in b]
    commands, options = block.removeprefix("bash\n"), "genes.max_dropped=1 cells_per_part=40"
    fewer = f"sbatch --cpus-per-task=1 --mem=0 --output={tmp_path}/%A-%a.log --"
    replacements = {
        "sbatch --": fewer,
        "--array=1-16": "--array=1-2",
        "group=donor": f"group=donor {options}",
        "'atlas/": f"'{tmp_path}/atlas/",
        "stores/atlas": f"{tmp_path}/arrays",
    }
    for before, after in replacements.items():
        assert before in commands
        commands = commands.replace(before, after)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=REPOSITORY, env=environment(PATH=path), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    job = done.stdout.split()[-1]
    wait_for(lambda: state_of(job) in ("COMPLETED", "FAILED", "CANCELLED"), 180, "the jobs do not end")
    said = {log.name: log.read_text() for log in tmp_path.glob("*.log")}
    assert state_of(job) == "COMPLETED", said
    assert len(said) == 5, "two arrays of two, and a last one"
    words = [f"input={tmp_path}/atlas/*.h5ad", "tokenizer=geneformer_v2", "obs=[cell_type,donor]", "group=donor"]
    command("prepare", *words, *options.split(), f"output={tmp_path}/one")
    assert checksums(tmp_path / "arrays") == checksums(tmp_path / "one")
