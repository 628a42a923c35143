"""The embeddings a user would pick instead, each by the public package that made it known."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import eigsh

from scfm.evaluation.methods import scvi as deep
from scfm.evaluation.methods.expression import Expression
from scfm.evaluation.methods.method import Method, Role
from scfm.head.variable_genes import batch_variable_genes, variable_genes
from scfm.imports.optional import need

#: (expression, batch, labels, seed) -> (B, D) embedding
Embedder = Callable[[Expression, "np.ndarray | None", "np.ndarray | None", int], np.ndarray]


def pca(expression: Expression, batch: np.ndarray | None, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """Unintegrated: 50 principal components of 2000 scaled, highly variable genes."""
    return expression.principal_components(seed=seed)


def hvg(expression: Expression, batch: np.ndarray | None, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """2000 highly variable genes, scaled, no reduction."""
    return expression.scaled()


def start(expression: Expression, batch: np.ndarray | None, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """Where Harmony and BBKNN begin: 30 principal components of 2000 genes that vary inside batches."""
    return expression.batch_components(_required(batch, "harmony"), seed)


def harmony(expression: Expression, batch: np.ndarray | None, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """Harmony (Korsunsky et al., 2019) on 30 principal components of genes that vary inside batches."""
    package = need("harmonypy", '"scfm-framework[evaluate]"')
    names = _required(batch, "harmony").astype(str)
    components = expression.batch_components(names, seed)
    table = pd.DataFrame({"batch": names})
    fitted = package.run_harmony(components, table, ["batch"], random_state=seed, verbose=False)
    corrected = np.asarray(fitted.Z_corr)
    return corrected if corrected.shape[0] == len(components) else corrected.T


def scanorama(expression: Expression, batch: np.ndarray | None, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """Scanorama (Hie et al., 2019): its 50 dimensions of 2000 genes that vary inside batches."""
    package = need("scanorama", "scanorama")
    names = _required(batch, "scanorama").astype(str)
    genes = batch_variable_genes(expression.values, names, 2000)
    rows = [np.flatnonzero(names == name) for name in np.unique(names)]
    parts = [csr_matrix(expression.values[own][:, genes]) for own in rows]
    size = min(50, len(genes) - 1)
    found, _ = package.integrate(parts, [genes.astype(str)] * len(parts), dimred=size, seed=seed, verbose=False)
    whole = np.empty((len(names), found[0].shape[1]))
    for own, values in zip(rows, found, strict=True):
        whole[own] = values
    return whole


def bbknn(expression: Expression, batch: np.ndarray | None, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """BBKNN (Polański et al., 2020), which gives a graph: its 30 leading diffusion components."""
    package = need("bbknn.matrix", "bbknn")
    names = _required(batch, "bbknn").astype(str)
    components = expression.batch_components(names, seed)
    smallest = int(np.unique(names, return_counts=True)[1].min())
    _, graph, _ = package.bbknn(
        components, names, neighbors_within_batch=min(3, smallest), n_pcs=components.shape[1], computation="cKDTree"
    )
    return diffusion_components(graph, 30, seed)


def diffusion_components(graph: csr_matrix, n: int, seed: int) -> np.ndarray:
    """Eigenvectors of the random walk on a graph times their eigenvalues, (B, ≤ n), without the constant one.

    Args:
        graph: (B, B) symmetric weights.
        n: how many.
        seed: of the solver's first vector.
    """
    degree = np.asarray(graph.sum(axis=1), dtype=np.float64).ravel().clip(1e-12)
    scale = diags(1 / np.sqrt(degree))
    first = np.random.default_rng(seed).normal(size=graph.shape[0])
    values, vectors = eigsh(scale @ csr_matrix(graph) @ scale, min(n + 1, graph.shape[0] - 2), which="LA", v0=first)
    order = np.argsort(-values)[1:]
    return vectors[:, order] / np.sqrt(degree)[:, None] * values[order] * np.sqrt(degree.sum())


def combat(expression: Expression, batch: np.ndarray | None, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """ComBat (Johnson et al., 2007) on 2000 highly variable genes, then 50 principal components."""
    from sklearn.decomposition import PCA

    scanpy = need("scanpy", '"scfm-framework[evaluate]"')
    chosen = variable_genes(expression.values, 2000)
    adata = AnnData(expression.values[:, chosen].toarray())
    adata.obs["batch"] = pd.Categorical(_required(batch, "combat").astype(str))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        corrected = np.nan_to_num(scanpy.pp.combat(adata, key="batch", inplace=False))
    deviation = corrected.std(axis=0)
    scaled = ((corrected - corrected.mean(axis=0)) / np.where(deviation > 0, deviation, 1)).clip(-10, 10)
    n_components = min(50, min(scaled.shape) - 1)
    return PCA(n_components, svd_solver="arpack", random_state=seed).fit_transform(scaled)


def scvi(expression: Expression, batch: np.ndarray | None, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """scVI, when scvi-tools is installed."""
    return deep.scvi(expression, _required(batch, "scvi"), seed)


def scanvi(expression: Expression, batch: np.ndarray | None, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """scANVI, when scvi-tools is installed; it reads the labels."""
    return deep.scanvi(expression, _required(batch, "scanvi"), _required(labels, "scanvi", "label"), seed)


def random(expression: Expression, batch: np.ndarray | None, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """A control: 50 normal numbers for each cell, which know nothing."""
    return np.random.default_rng(seed).normal(size=(expression.values.shape[0], 50))


def shuffled(expression: Expression, batch: np.ndarray | None, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """A control: the principal components of other cells."""
    components = expression.principal_components(seed=seed)
    return components[np.random.default_rng(seed).permutation(len(components))]


def label_onehot(expression: Expression, batch: np.ndarray | None, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """A control that knows only the answer: one-hot labels ± 0.01 uniform jitter."""
    codes = np.unique(_required(labels, "label_onehot", "label"), return_inverse=True)[1]
    onehot = np.eye(int(codes.max()) + 1)[codes]
    return onehot + np.random.default_rng(seed).uniform(-0.01, 0.01, size=onehot.shape)


def _required(values: np.ndarray | None, name: str, column: str = "batch") -> np.ndarray:
    if values is None:
        raise ValueError(f"the baseline {name} needs the {column} column; give {column}=COLUMN or leave {name} out")
    return values


@dataclass(frozen=True)
class Baseline:
    """An embedding that needs no model of ours.

    Attributes:
        title: its name in reports.
        make: computes it.
        role: rival or control.
        needs: the columns that it needs, of ``batch`` and ``label``.
        repeatable: cheap enough to be run again on pseudo-batches.
        start: the space that it changes, where that is not PCA.
        package: what has to be installed; None for nothing.
        install: what pip is to be told.
    """

    title: str
    make: Embedder
    role: Role = "rival"
    needs: tuple[str, ...] = ()
    repeatable: bool = False
    start: Embedder = pca
    package: str | None = None
    install: str = '"scfm-framework[evaluate]"'

    @property
    def installed(self) -> bool:
        """Whether its package is here."""
        return self.package is None or find_spec(self.package) is not None

    @property
    def method(self) -> Method:
        """Its record in a comparison."""
        return Method(self.title, self.title, "", self.role)


PCA_TITLE = "PCA"
BASELINES: dict[str, Baseline] = {
    "pca": Baseline(PCA_TITLE, pca),
    "hvg": Baseline("HVG", hvg),
    "harmony": Baseline("Harmony", harmony, needs=("batch",), repeatable=True, start=start, package="harmonypy"),
    "combat": Baseline("ComBat", combat, needs=("batch",), repeatable=True, package="scanpy"),
    "scanorama": Baseline("Scanorama", scanorama, needs=("batch",), package="scanorama", install="scanorama"),
    "bbknn": Baseline("BBKNN", bbknn, needs=("batch",), start=start, package="bbknn", install="bbknn"),
    "scvi": Baseline("scVI", scvi, needs=("batch",), package="scvi", install="scvi-tools"),
    "scanvi": Baseline("scANVI", scanvi, needs=("batch", "label"), package="scvi", install="scvi-tools"),
    "random": Baseline("control: random", random, "control"),
    "shuffled": Baseline("control: shuffled", shuffled, "control"),
    "label_onehot": Baseline("control: labels", label_onehot, "control", needs=("label",)),
}


def keys(role: Role) -> tuple[str, ...]:
    """Keys of the baselines of a role."""
    return tuple(key for key, baseline in BASELINES.items() if baseline.role == role)


def embed(
    name: str, expression: Expression, batch: np.ndarray | None, labels: np.ndarray | None, seed: int
) -> np.ndarray:
    """A baseline embedding by its name.

    Args:
        name: one of ``BASELINES``.
        expression: log-normalized counts.
        batch: (B,) batches, for the methods that need them.
        labels: (B,) types, for the methods that need them.
        seed: of everything random.

    Returns:
        (B, D) finite numbers.

    Raises:
        ValueError: a column that the method needs is not given.
        ImportError: its package is not installed.
    """
    return np.asarray(BASELINES[name].make(expression, batch, labels, seed), dtype=np.float64)
