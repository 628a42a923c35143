"""Made-up cells and commands run in this process, for tests of every part."""

from collections.abc import Sequence
from pathlib import Path


def made_vocab(n_genes: int = 40):
    """Genes G0, G1, ... after the four special tokens of Geneformer V2."""
    from scfm.vocab import Vocab

    specials = {"pad": 0, "mask": 1, "cls": 2, "eos": 3}
    return Vocab(("<pad>", "<mask>", "<cls>", "<eos>", *(f"G{i}" for i in range(n_genes))), specials)


def write_made_store(
    path: Path, n_cells: int = 240, n_genes: int = 40, seed: int = 0, types: Sequence[str] = ("B", "NK", "T")
):
    """Cells of some types whose genes come in an order of their own, from four donors."""
    import numpy as np

    from scfm.store.from_cells import write_store
    from scfm.store.writer import Cells
    from scfm.types import Ragged

    rng = np.random.default_rng(seed)
    kinds, donors = rng.integers(0, len(types), n_cells), np.arange(n_cells) % 4
    favorite = rng.permuted(np.tile(np.arange(n_genes), (3, 1)), axis=1)
    rows = []
    for kind in kinds:
        length = int(rng.integers(6, 20))
        ranked = favorite[kind][np.argsort(np.arange(n_genes) + rng.normal(0, 3, n_genes))][:length]
        rows.append(np.array([2, *(ranked + 4), 3], dtype=np.uint16))
    tokens = Ragged(np.concatenate(rows), np.concatenate([[0], np.cumsum([len(row) for row in rows])]))
    cells = Cells(
        tokens,
        names=np.array([f"cell{i}" for i in range(n_cells)]),
        file=np.zeros(n_cells, dtype=np.int64),
        hashes=np.arange(n_cells, dtype=np.uint64),
        obs={"cell_type": kinds.astype(np.int64), "donor": donors.astype(np.int64), "age": kinds.astype(np.float32)},
    )
    return write_store(
        path,
        [cells],
        tokenizer={"name": "made_up", "vocab": made_vocab(n_genes).to_dict()},
        columns={"cell_type": list(types), "donor": ["d0", "d1", "d2", "d3"], "age": None},
        group="donor",
    )


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder."""
    import hashlib

    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(Path(folder).iterdir())}


#: A model and a trainer small enough for a test.
SMALL = (
    "model.layers=2",
    "model.width=32",
    "model.heads=2",
    "model.feedforward=64",
    "model.positions=64",
    "data.tokens_per_batch=256",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "callbacks.progress=null",
)


def command(name: str, *overrides: str):
    """Run a command as its command line would, in this process."""
    import importlib

    from hydra import compose, initialize_config_dir

    from scfm.cli import CONFIGS, lenient
    from scfm.config import check, shipped

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(name, lenient(list(overrides)))
    check(cfg, shipped(CONFIGS, name))
    return importlib.import_module(f"scfm.commands.{name}").run(cfg)
