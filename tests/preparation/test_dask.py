"""Preparing on a dask cluster: the same bytes, also when a worker dies."""

import hashlib
import os
import signal
import threading
import time

import pytest

from scfm.datasets.synthetic import synthetic_cells
from scfm.preparation.api import prepare
from scfm.preparation.executors import Dask
from scfm.tokenizer import RankTokenizer

distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.distributed]


def contents(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_two_workers_of_which_one_dies(tmp_path):
    synthetic_cells(n_cells=600, n_genes=100).write_h5ad(tmp_path / "x.h5ad")
    specials = {"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"}
    tokenizer = RankTokenizer(name="r", max_length=32, specials=specials)
    options = {"cells_per_part": 10, "obs": ["cell_type"]}
    prepare(tmp_path / "x.h5ad", tmp_path / "here", tokenizer, **options)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        victim = next(iter(client.run(os.getpid).values()))
        parts = tmp_path / ".there.partial" / "parts"

        def kill():
            for _ in range(1000):
                if len(list(parts.glob("*.json"))) > 5:
                    break
                time.sleep(0.02)
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        prepare(
            tmp_path / "x.h5ad",
            tmp_path / "there",
            tokenizer,
            workers=2,
            executor=Dask(cluster.scheduler_address),
            **options,
        )
        killer.join()
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
