"""Starts the ranks of a distributed run as processes on loopback, for tests."""

import os
import socket
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(**extra: object) -> dict[str, str]:
    """This process's, without what would make Lightning think of another launcher."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "PYTEST_"))}
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    mine = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "WANDB_MODE": "offline"}
    return kept | mine | {key: str(value) for key, value in extra.items()}


def start_ranks(script: Path, *arguments: object, world: int = 2) -> list[subprocess.Popen[str]]:
    """One process a rank; their output is read by :func:`finish`."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            env=environment(
                RANK=rank, LOCAL_RANK=rank, NODE_RANK=0, WORLD_SIZE=world, MASTER_ADDR="127.0.0.1", MASTER_PORT=port
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]


def finish(processes: list[subprocess.Popen[str]], seconds: float = 200) -> list[str]:
    """What each printed; all are gone afterward.

    Raises:
        AssertionError: one did not end in time, or not with exit code 0.
    """
    try:
        said = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for rank, (process, text) in enumerate(zip(processes, said, strict=True)):
        assert process.returncode == 0, f"rank {rank} ended with {process.returncode}:\n{text[-6000:]}"
    return said


def as_typed(words: list[str], **extra: object) -> subprocess.Popen[str]:
    """A command as a user types it, with this environment's programs."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        words, cwd=TESTS.parent, env=environment(PATH=path, **extra), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def ended(*processes: subprocess.Popen[str]) -> list[str]:
    """What each printed; each must have ended well."""
    try:
        said = [process.communicate(timeout=150)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 0, text[-6000:]
    return said
