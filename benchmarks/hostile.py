"""Inputs that are damaged, odd or hostile: the right result, or one sentence and an exit status above 0."""

import gzip
import hashlib
import json
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import torch
from forked import Command
from interrupted import BOTH, EVERY, PREPARE, TRAIN, Count, checksum_store, read_embedded, read_run
from scipy.sparse import csr_matrix

#: Bytes beyond those of the imports, and seconds, that a command may take for a file of a few kilobytes.
MEMORY, SECONDS = 2 << 30, 300.0
EMBED = ("embed", "init_from=model.ckpt", "input=../base/a.h5ad", "output=out.h5ad", "tokens_per_batch=1024")
#: Same result, refused in a sentence, or what was wrong.
SAME, REFUSED = "same", "refused"


@dataclass(frozen=True)
class Family:
    """Inputs of one kind.

    Attributes:
        name: what the table calls it.
        try_one: makes an input in a folder, runs the command, and says what became of it; ``base`` is the sound one.
    """

    name: str
    try_one: Callable[[random.Random, Path, Path], str]


def try_inputs(family: Family, base: Path, n: int, seed: int) -> Count:
    """What became of ``n`` inputs of a family."""
    draw, folder = random.Random(f"{seed} {family.name}"), base.parent / "work"
    total = Count()
    for _ in range(n):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        outcome = family.try_one(draw, folder, base)
        lost = outcome not in (SAME, REFUSED)
        total += Count(1, outcome == SAME, outcome == REFUSED, lost, (f"{family.name}: {outcome}",) * lost)
    return total


def outcome(folder: Path, words: tuple[str, ...], is_same: Callable[[], bool]) -> str:
    """Run a command with bounded memory and time, and judge its end."""
    ended = Command(folder, words, memory=MEMORY).end(SECONDS)
    if ended.status == 0:
        return SAME if is_same() else f"another result without a word: {ended.text[-300:]}"
    if ended.is_sentence:
        return REFUSED
    return f"{'hung' if ended.status is None else f'ended with {ended.status}'}: {ended.text.strip()[-1200:]}"


def change_bytes(path: Path, draw: random.Random) -> str:
    """Change one to four bytes of a file, or cut it."""
    content = bytearray(path.read_bytes())
    if draw.random() < 0.3:
        content = content[: draw.randrange(len(content))]
    else:
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    same = bytes(content) == path.read_bytes()
    path.write_bytes(content)
    return "unchanged" if same else "changed"


def tokens(store: Path) -> list[Any]:
    """Tokens and labels of a store."""
    from scfm.store.token_store import TokenStore

    opened = TokenStore.open(store)
    rows = range(len(opened))
    got = opened.gather(rows)
    labels = [opened.obs(name).tolist() for name in sorted(opened.columns)]
    return [[got[i].tolist() for i in rows], list(opened.names(rows)), labels]


def prepare_like_anndata(folder: Path, source: Path) -> str:
    """Prepare a changed ``.h5ad``; where anndata reads it too, the store is that of what anndata read."""
    words = ("prepare", f"input={source}", "output=store", "obs=[cell_type]", "tokenizer=geneformer_v2")

    def is_same() -> bool:
        try:
            clean = ad.read_h5ad(folder / source)
        except Exception:
            return True  # nothing says what is right
        clean.write_h5ad(folder / "clean.h5ad")
        again = Command(folder, (*words[:1], "input=clean.h5ad", "output=again", *words[3:])).end(SECONDS)
        return again.status == 0 and tokens(folder / "store") == tokens(folder / "again")

    return outcome(folder, words, is_same)


def h5ad_bytes(draw: random.Random, folder: Path, base: Path) -> str:
    shutil.copy(base / "a.h5ad", folder / "x.h5ad")
    change_bytes(folder / "x.h5ad", draw)
    return prepare_like_anndata(folder, Path("x.h5ad"))


def h5ad_members(draw: random.Random, folder: Path, base: Path) -> str:
    """Delete a member, or write another of its name: empty, text, NaN, too short, one number, a group."""
    shutil.copy(base / "a.h5ad", folder / "x.h5ad")
    with h5py.File(folder / "x.h5ad", "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = draw.choice(names)
        attributes = dict(file[name].attrs)
        values = file[name][()] if isinstance(file[name], h5py.Dataset) else np.arange(3)
        del file[name]
        shape, links = np.shape(values), (h5py.ExternalLink("/etc/hostname", "/"), h5py.SoftLink(f"/{name}"))
        odd = [np.empty(0, np.int32), np.array([b"x", b"y"]), np.full(shape, np.nan), -np.ones(shape or (1,), np.int64)]
        made = draw.choice([None, 3, np.atleast_1d(values)[:-1], *odd, *links])
        if made is not None:
            file[name] = made
            if not isinstance(made, h5py.ExternalLink | h5py.SoftLink):
                file[name].attrs.update(attributes)
    return prepare_like_anndata(folder, Path("x.h5ad"))


def market_folders(draw: random.Random, folder: Path, base: Path) -> str:
    """A Matrix Market folder with one file cut, changed, linked elsewhere, or a few bytes that stand for gigabytes."""
    cells = ad.read_h5ad(base / "a.h5ad")
    market = folder / "market"
    market.mkdir()
    counts = csr_matrix(cells.X).tocoo()
    lines = [
        f"{column + 1} {row + 1} {value}"
        for row, column, value in zip(counts.row, counts.col, counts.data.astype(int), strict=True)
    ]
    head = f"%%MatrixMarket matrix coordinate integer general\n{cells.n_vars} {cells.n_obs} {len(lines)}\n"
    texts = {
        "matrix.mtx.gz": head + "\n".join(lines) + "\n",
        "barcodes.tsv.gz": "\n".join(cells.obs_names) + "\n",
        "features.tsv.gz": "".join(f"{gene}\t{name}\tGene Expression\n" for name, gene in cells.var["gene_id"].items()),
    }
    for name, text in texts.items():
        (market / name).write_bytes(gzip.compress(text.encode(), mtime=0))
    hurt = market / draw.choice(sorted(texts))
    how = draw.choice(["bytes", "link", "bomb", "lines"])
    if how == "bytes":
        change_bytes(hurt, draw)
    elif how == "link":
        hurt.unlink()
        hurt.symlink_to("/etc/passwd")
    elif how == "bomb":
        with gzip.open(hurt, "wb", compresslevel=1) as file:
            for _ in range(3000):
                file.write(bytes(1 << 20) if draw.random() < 0.5 else b"1 1 1\n" * 170_000)
    else:
        changed = texts[hurt.name].split("\n")
        changed[draw.randrange(len(changed))] = draw.choice(
            ["", "1 1", "-1 1 1", "a b c", "1 1 1 1", "nan 1 1", "9" * 30]
        )
        hurt.write_bytes(gzip.compress("\n".join(changed).encode()))
    return outcome(folder, ("prepare", "input=market", "output=store"), lambda: how in ("bytes", "lines"))


def stores(draw: random.Random, folder: Path, base: Path) -> str:
    """Bytes of any file of a store: the command that verifies it has to notice."""
    shutil.copytree(base / "store", folder / "store")
    changed = change_bytes(draw.choice(sorted((folder / "store").iterdir())), draw)
    return outcome(folder, ("prepare", "verify", "store"), lambda: changed == "unchanged")


def store_metadata(draw: random.Random, folder: Path, base: Path) -> str:
    """Names outside, wrong kinds and numbers in a store's JSON, and a training on it."""
    shutil.copytree(base / "store", folder / "store")
    path = folder / "store" / draw.choice(["scfm.json", "state.json"])
    state = json.loads(path.read_text())
    key = draw.choice(sorted(state))
    state[key] = draw.choice([None, -1, 10**30, "/etc/passwd", "../x", [], {}, [{"filename": "../../base/a.h5ad"}]])
    path.write_text(json.dumps(state))
    line = [word.replace("../base/store", "store") for word in (*TRAIN, *EVERY)]
    return outcome(
        folder,
        (*line, "trainer.max_steps=2"),
        lambda: (
            path.name == "state.json"
            or key in ("report", "group", "files", "shuffled", "counts", "tokenizer", "columns")
        ),
    )


def embed_as_before(folder: Path, base: Path) -> str:
    def is_same() -> bool:
        with h5py.File(folder / "out.h5ad") as got, h5py.File(base / "out.h5ad") as sound:
            return np.array_equal(got["obsm/X_scfm"][()], sound["obsm/X_scfm"][()])

    return outcome(folder, EMBED, is_same)


def checkpoint_bytes(draw: random.Random, folder: Path, base: Path) -> str:
    shutil.copy(base / "outputs/base/checkpoints/last.ckpt", folder / "model.ckpt")
    change_bytes(folder / "model.ckpt", draw)
    return embed_as_before(folder, base)


def checkpoint_configs(draw: random.Random, folder: Path, base: Path) -> str:
    """A stored config that would run code, or a pickle in the weights' place."""
    state = torch.load(base / "outputs/base/checkpoints/last.ckpt", weights_only=True)
    target = draw.choice(
        ["os.system", "torch.load", "pandas.read_pickle", "builtins.eval", "scfm.checkpoint.torch.load"]
    )
    hostile = {"_target_": target, "_args_": [f"touch {folder / 'ran'}"]}
    place = draw.choice(["model", "optim", "data", "extensions"])
    if draw.random() < 0.3:
        (folder / "model.ckpt").write_bytes(pickle.dumps(_Runs(folder / "ran")))
    else:
        if place == "extensions":
            (folder / "hostile_part.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
            state["scfm"]["config"]["extensions"] = ["hostile_part"]
            state["scfm"]["config"]["model"]["_target_"] = "hostile_part.Model"
        else:
            state["scfm"]["config"][place]["deep"] = [hostile]
        torch.save(state, folder / "model.ckpt")
    found = embed_as_before(folder, base)
    return "it ran code" if (folder / "ran").exists() else found


class _Runs:
    """Pickled, it creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def dictionaries(draw: random.Random, folder: Path, base: Path) -> str:
    """A pickled dictionary of medians with code, or with bytes changed."""
    genes = ad.read_h5ad(base / "a.h5ad").var["gene_id"]
    medians: dict[str, Any] = dict.fromkeys(genes, 1.0)
    hostile = draw.random() < 0.5
    if hostile:
        medians[genes.iloc[7]] = _Runs(folder / "ran")
    (folder / "medians.pkl").write_bytes(pickle.dumps(medians, protocol=draw.randint(0, 5)))
    if not hostile:
        change_bytes(folder / "medians.pkl", draw)
    tokens = {name: number for number, name in enumerate(["<pad>", "<mask>", "<cls>", "<eos>", *sorted(medians)])}
    tokens = {name: number for number, name in enumerate(["<pad>", "<mask>", "<cls>", "<eos>", *sorted(medians)])}
    (folder / "tokens.pkl").write_bytes(pickle.dumps(tokens))
    files = ("tokenizer.gene_median=medians.pkl", "tokenizer.token_dictionary=tokens.pkl", "genes.max_dropped=1")
    words = ("prepare", "input=../base/a.h5ad", "output=store", *files)
    found = outcome(folder, words, lambda: not hostile)
    return "it ran code" if (folder / "ran").exists() else found


def full_disks(draw: random.Random, folder: Path, base: Path) -> str:
    """No file may grow beyond a random size; afterwards the same command gives what it always gives."""
    shutil.copy(base / "outputs/base/checkpoints/last.ckpt", folder / "model.ckpt")
    words, result = draw.choice([
        ((*PREPARE, BOTH, "output=store", "shuffle=true"), checksum_store),
        ((*TRAIN, *EVERY), read_run),
        (EMBED, read_embedded),
    ])  # fmt: skip
    ended = Command(folder, words, file_size=draw.choice([4, 16, 64, 100]) << 10).end(SECONDS)
    if ended.status != 0 and not ended.is_sentence:
        return f"ended with {ended.status}: {ended.text.strip()[-1200:]}"
    if ended.status == 0:
        return SAME
    again = Command(folder, words).end(SECONDS)
    if again.status != 0:
        return f"the same command, with room, ended with {again.status}: {again.text.strip()[-800:]}"
    first = _digest(result(folder))
    shutil.rmtree(folder)
    folder.mkdir()
    shutil.copy(base / "outputs/base/checkpoints/last.ckpt", folder / "model.ckpt")
    Command(folder, words).end(SECONDS)
    return REFUSED if first == _digest(result(folder)) else "another result after a full disk"


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def families() -> list[Family]:
    """Every kind of input, and the command that meets it."""
    return [
        Family("input: .h5ad, bytes", h5ad_bytes),
        Family("input: .h5ad, members", h5ad_members),
        Family("input: Matrix Market", market_folders),
        Family("input: store, verified", stores),
        Family("input: store, metadata", store_metadata),
        Family("input: checkpoint, bytes", checkpoint_bytes),
        Family("input: checkpoint, config", checkpoint_configs),
        Family("input: dictionary", dictionaries),
        Family("input: files that cannot grow", full_disks),
    ]
