"""What a pretrained backbone knows of cells that were not in its corpus, frozen, beside what needs no transformer.

python benchmarks/backbone.py --checkpoint scfm://small --corpus stores/small
    [--data ../shared/data] [--role tuning|judging] [--sets my.yaml] [--seeds 3]

For each set of ``sets.py`` (or of ``my.yaml``) the embedding X_scfm stands beside: the same without the layers (only of
``model.embedding_pool=denoised``), the same model with random weights, 64 principal components fitted on the corpus of
the pretraining and applied, and those of the cells themselves, which see the cells that are asked about, alone and
beside X_scfm. Columns: macro-F1 of a linear probe, of the 15 nearest neighbors by cosine and of a linear probe that
learned from a tenth of the labels (mean over splits; donors are kept whole where a set has them), the bio score of
scIB, and R2 of a cell's number of genes predicted from the embedding. A look at a judging set is counted
(``looks.py``).
"""

import argparse
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from looks import describe_looks, record_look
from scipy.sparse import csr_matrix
from sets import CellSet, from_yaml, judging, read_cells, tuning
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import f1_score, r2_score
from sklearn.model_selection import GroupShuffleSplit, StratifiedShuffleSplit, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scfm.checkpoint import Checkpoint
from scfm.data.module import CellData
from scfm.inference.load import build_backbone, restore_backbone
from scfm.inference.predict import embeddings
from scfm.metrics.integration import integration_scores
from scfm.model.backbone import Backbone
from scfm.model.denoiser import Denoiser
from scfm.model.start.axes import log_counts
from scfm.preparation.api import prepare
from scfm.published.folder import read_checkpoint
from scfm.store.token_store import TokenStore
from scfm.tokenizer import from_dict

#: Principal components of the rivals.
COMPONENTS = 64
#: Cells of a class in a set, at least; smaller classes are left out of the probes.
FEWEST = 10


def main() -> None:
    """Print one table a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="scfm://small")
    parser.add_argument("--corpus", type=Path, required=True, help="the store that it was pretrained on, with counts")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--role", choices=["tuning", "judging"], default="tuning")
    parser.add_argument("--sets", type=Path, help="a yaml of your own files, see docs/benchmarks.md")
    parser.add_argument("--only", nargs="+", help="names of sets")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    logging.getLogger("scfm").setLevel(logging.WARNING)
    own = from_yaml(options.sets)["backbone"] if options.sets else None
    sets = own or (tuning("backbone") if options.role == "tuning" else judging("backbone"))
    sets = {name: one for name, one in sets.items() if not options.only or name in options.only}
    checkpoint = read_checkpoint(options.checkpoint)
    components = fit_corpus(TokenStore.open(options.corpus))
    for one in sets.values():
        record_look(one)
        print(
            f"\n{one.name}\n{judge(one, checkpoint, components, options.data, options.seeds).to_string()}", flush=True
        )
    print(f"\n{torch.get_num_threads()} thread(s). {describe_looks(sets.values())}")


def judge(one: CellSet, checkpoint: Checkpoint, components: PCA, data: Path, seeds: int) -> pd.DataFrame:
    """The table of one set."""
    cells = read_cells(one, data)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5ad"
        cells.write_h5ad(path)
        obs = [name for name in (one.label, one.group) if name]
        store = Path(folder) / "store"
        prepare(
            path, store, from_dict(checkpoint.tokenizer), obs=obs, empty="drop", missing="allow",
            on_duplicate_cells="number", keep_counts=True,
        )  # fmt: skip
        opened = TokenStore.open(store)
        labels = names_of(opened, one.truth)
        groups = names_of(opened, one.group) if one.group else None
        spaces = dict(read_spaces(opened, checkpoint, components))
        genes = np.asarray(opened.lengths)
    return pd.DataFrame(
        {name: scores(values, labels, groups, genes, seeds) for name, values in spaces.items()}
    ).T.round(3)


def names_of(store: TokenStore, column: str) -> np.ndarray:
    """Names of an obs column, "" where it is missing."""
    codes = np.asarray(store.obs(column))
    return np.append(np.asarray(store.categories(column), dtype=object), "")[codes]


def read_spaces(store: TokenStore, checkpoint: Checkpoint, components: PCA) -> Iterator[tuple[str, np.ndarray]]:
    """Each embedding of the cells of a store, by name."""
    torch.manual_seed(0)
    backbone = restore_backbone(checkpoint)
    frozen = embed(backbone, store, checkpoint)
    yield "X_scfm, frozen", frozen
    if isinstance(backbone.readout, Denoiser):
        torch.nn.init.zeros_(backbone.readout.correction[-1].weight)
        torch.nn.init.zeros_(backbone.readout.correction[-1].bias)
        yield "without the layers", embed(backbone, store, checkpoint)
    yield "random weights", embed(build_backbone(checkpoint), store, checkpoint)
    values = read_log_counts(store)
    yield "PCA of the corpus, applied", components.transform(values)
    own = PCA(COMPONENTS, svd_solver="arpack", random_state=0).fit_transform(values)
    yield "PCA of these cells", own
    yield "PCA of these cells and X_scfm", np.hstack([own / own.std(), (frozen - frozen.mean(0)) / frozen.std()])


def embed(backbone: Backbone, store: TokenStore, checkpoint: Checkpoint) -> np.ndarray:
    """(N, D), read at the length that the checkpoint embeds cells of a file with."""
    length = checkpoint.config["model"].get("embedding_length") or checkpoint.config["data"]["max_length"]
    data = CellData(store, max_length=length, tokens_per_batch=32_768, val=0.0, test=0.0)
    return embeddings(backbone, data, np.arange(len(store)), torch.device("cpu"))


def read_log_counts(store: TokenStore, block: int = 4096) -> csr_matrix:
    """ln(1 + count per 10,000), cells x V."""
    rows = np.arange(len(store))
    cells, counts = store.gather(rows), np.asarray(store.counts(rows), dtype=np.float32)
    kept = np.isin(cells.values, store.vocab.gene_ids)
    offsets = np.concatenate([[0], np.cumsum(kept)])[cells.offsets]
    shape = len(store), len(store.vocab)
    return log_counts(csr_matrix((counts[kept], cells.values[kept].astype(np.int64), offsets), shape=shape))


def fit_corpus(store: TokenStore) -> PCA:
    """Principal components of the corpus."""
    return PCA(COMPONENTS, svd_solver="arpack", random_state=0).fit(read_log_counts(store))


def scores(
    values: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, genes: np.ndarray, seeds: int
) -> dict[str, float]:
    """The columns of the table for one embedding."""
    names, counts = np.unique(labels, return_counts=True)
    kept = np.isin(labels, names[(counts >= FEWEST) & (names != "")])
    some, truth = np.asarray(values, dtype=np.float64)[kept], labels[kept]
    own = None if groups is None else groups[kept]
    splits = [split(truth, own, seed) for seed in range(seeds)]

    def mean_f1(call: object) -> float:
        """Macro-F1 on the test cells, mean over splits."""
        return float(
            np.mean(
                [
                    f1_score(truth[test], call(train, seed, test), average="macro")
                    for seed, (train, test) in enumerate(splits)
                ]
            )
        )  # type: ignore[operator]

    def linear(train: np.ndarray, seed: int, test: np.ndarray) -> np.ndarray:
        """Calls of a logistic regression on scaled columns."""
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
        return model.fit(some[train], truth[train]).predict(some[test])

    def nearest(train: np.ndarray, seed: int, test: np.ndarray) -> np.ndarray:
        """Calls of the 15 nearest training cells."""
        return KNeighborsClassifier(15, metric="cosine").fit(some[train], truth[train]).predict(some[test])

    def few(train: np.ndarray, seed: int, test: np.ndarray) -> np.ndarray:
        """Calls of the linear probe after a tenth of the training cells."""
        drawn, _ = next(StratifiedShuffleSplit(1, train_size=0.1, random_state=seed).split(some[train], truth[train]))
        return linear(train[drawn], seed, test)

    depth = genes.astype(np.float64)
    guessed = cross_val_predict(LinearRegression(), values, depth, cv=5)
    return {
        "linear": mean_f1(linear),
        "15-NN": mean_f1(nearest),
        "linear, 10 %": mean_f1(few),
        "bio": integration_scores(some, truth, None, some)["bio"],
        "R2 of depth": float(r2_score(depth, guessed)),
    }


def split(labels: np.ndarray, groups: np.ndarray | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and test cells, four to one; donors are kept whole where there are some."""
    if groups is None:
        return next(StratifiedShuffleSplit(1, test_size=0.2, random_state=seed).split(labels, labels))
    return next(GroupShuffleSplit(1, test_size=0.25, random_state=seed).split(labels, labels, groups))


if __name__ == "__main__":
    main()
