"""Jobs that divide a run: the same bytes as one run, whatever their number and order, also at the same time."""

import multiprocessing
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from scfm.datasets.synthetic import synthetic_cells
from scfm.preparation import encode as module
from scfm.preparation.api import append, prepare
from scfm.preparation.options import Share
from scfm.preparation.workdir import WorkDir
from scfm.store.verify import verify
from scfm.tokenizer import MedianTokenizer, RankTokenizer
from support import checksums, command

SPECIALS = {"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"}
OPTIONS = {"obs": ["cell_type"], "group": "donor", "cells_per_part": 40}


def tokenizer(fitted):
    return (RankTokenizer if fitted else MedianTokenizer)(name="t", max_length=32, specials=SPECIALS)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in")
    cells = synthetic_cells(n_cells=300, n_genes=120, seed=2)
    paths = [folder / "a.h5ad", folder / "b.h5ad", folder / "c.h5ad"]
    for path, rows in zip(paths, (slice(0, 130), slice(130, 140), slice(140, 300)), strict=True):
        cells[rows].write_h5ad(path)
    return paths


def test_every_item_falls_to_one_share():
    for n in range(12):
        for of in range(1, 15):
            parts = {f"{i:05d}": i for i in range(n)}
            shares = [Share(number, of).select_parts(parts) for number in range(1, of + 1)]
            assert [item for share in shares for item in share.items()] == list(parts.items())


@pytest.mark.parametrize(("extra", "of"), [({}, 3), ({}, 20), ({"shuffle": True, "duplicates": "drop"}, 2)])
def test_shares_and_one_run_write_the_same_bytes(files, tmp_path, extra, of):
    options = {**OPTIONS, **extra}
    prepare(files, tmp_path / "one", tokenizer(False), **options)
    for turn in range(2):  # statistics, then parts
        for number in np.random.default_rng(turn).permutation(np.arange(1, of + 1)):
            assert prepare(files, tmp_path / "many", tokenizer(False), share=f"{number}/{of}", **options) is None
    assert not (tmp_path / "many").exists()
    store = prepare(files, tmp_path / "many", tokenizer(False), **options)
    assert checksums(store.path) == checksums(tmp_path / "one")
    assert verify(store.path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many", "one"]


def test_the_last_run_does_only_what_no_share_did(files, tmp_path, monkeypatch):
    prepare(files, tmp_path / "one", tokenizer(True), **OPTIONS)
    done, original = [], module.encode_part
    monkeypatch.setattr(module, "encode_part", lambda *args: (done.append(args[2]), original(*args))[1])
    for number in (1, 3):
        prepare(files, tmp_path / "s", tokenizer(True), share=f"{number}/3", **OPTIONS)
    mine = set(done)
    prepare(files, tmp_path / "s", tokenizer(True), share="1/3", **OPTIONS)
    assert set(done) == mine
    assert len(done) == len(mine)
    prepare(files, tmp_path / "s", tokenizer(True), **OPTIONS)
    assert len(done) == len(set(done)) > len(mine)
    assert checksums(tmp_path / "s") == checksums(tmp_path / "one")


@pytest.mark.distributed
def test_jobs_at_the_same_time_by_the_command(files, tmp_path):
    """What docs/scale.md shows: two arrays of jobs and a last one."""
    words = [
        f"input=[{','.join(map(str, files))}]",
        "tokenizer=geneformer_v2",
        "cells_per_part=40",
        "genes.max_dropped=1",
    ]
    command("prepare", *words, f"output={tmp_path / 'one'}")  # what it compiles and imports, the children inherit
    words.append(f"output={tmp_path / 's'}")
    for _ in range(2):
        fork = multiprocessing.get_context("fork").Process
        jobs = [fork(target=command, args=("prepare", *words, f"share={number}/2")) for number in (1, 2)]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join(120)
            assert job.exitcode == 0
    command("prepare", *words)
    assert checksums(tmp_path / "s") == checksums(tmp_path / "one")


def test_the_batch_script_names_the_share(tmp_path):
    """docs/prepare.sbatch as Slurm runs it: in an array of 16 and alone."""
    (tmp_path / "scfm-prepare").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "scfm-prepare").chmod(0o755)
    script = Path(__file__).parents[2] / "docs" / "prepare.sbatch"
    words = ["input=my atlas/*.h5ad", "output=stores/atlas"]

    def run(**slurm):
        given = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "4", **slurm}
        done = subprocess.run(["bash", script, *words], env=given, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16"}
    assert run(**array) == [*words, "workers=4", "share=3/16"]
    assert run() == [*words, "workers=4"]


def test_shares_may_run_together_but_not_twice_nor_beside_a_whole_run(files, tmp_path):
    work = WorkDir(tmp_path / "s")
    with work.lock("1/2"):
        prepare(files, tmp_path / "s", tokenizer(True), share="2/2", **OPTIONS)
        for share in ("1/2", None):
            with pytest.raises(BlockingIOError, match="another run is writing"):
                prepare(files, tmp_path / "s", tokenizer(True), share=share, **OPTIONS)
    with work.lock(), pytest.raises(BlockingIOError, match="another run is writing"):
        prepare(files, tmp_path / "s", tokenizer(True), share="1/2", **OPTIONS)


def test_refusals(files, tmp_path):
    for share in ("3", "0/2", "3/2", "a/b", "1/2/3"):
        with pytest.raises(ValueError, match=r"share="):
            prepare(files, tmp_path / "s", tokenizer(True), share=share)
    with pytest.raises(ValueError, match="wait for a file that this one leaves"):
        prepare(files, tmp_path / "s", tokenizer(True), share="1/2", on_error="skip")
    prepare(files, tmp_path / "s", tokenizer(True), share="1/2", **OPTIONS)
    with pytest.raises(ValueError, match=r"unfinished work of other options: obs.*All shares need the same"):
        prepare(files, tmp_path / "s", tokenizer(True), share="2/2", overwrite=True)
    store = prepare(files[0], tmp_path / "t", tokenizer(True))
    append(files[1], store.path)
    with pytest.raises(ValueError, match="files are added by one run"):
        command("prepare", f"input={files[2]}", f"output={store.path}", "append=true", "share=1/2")
