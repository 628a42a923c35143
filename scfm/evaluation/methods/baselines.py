"""The embeddings a user would pick instead, each by the public package that made it known."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from scfm.evaluation.methods import scvi as deep
from scfm.evaluation.methods.expression import Expression
from scfm.evaluation.methods.method import Method, Role
from scfm.head.variable_genes import variable_genes
from scfm.optional import need

#: (expression, batch, labels, seed) -> (B, D) embedding
Embedder = Callable[[Expression, "np.ndarray | None", "np.ndarray | None", int], np.ndarray]


def pca(expression: Expression, batch: np.ndarray | None, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """Unintegrated: 50 principal components of 2000 scaled, highly variable genes."""
    return expression.principal_components(seed=seed)


def hvg(expression: Expression, batch: np.ndarray | None, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """2000 highly variable genes, scaled, no reduction."""
    return expression.scaled()


def harmony(expression: Expression, batch: np.ndarray | None, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """Harmony (Korsunsky et al., 2019) on the principal components."""
    package = need("harmonypy", '"scfm-framework[evaluate]"')
    components = expression.principal_components(seed=seed)
    table = pd.DataFrame({"batch": _required(batch, "harmony").astype(str)})
    fitted = package.run_harmony(components, table, ["batch"], random_state=seed, verbose=False)
    corrected = np.asarray(fitted.Z_corr)
    return corrected if corrected.shape[0] == len(components) else corrected.T


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
    """

    title: str
    make: Embedder
    role: Role = "rival"
    needs: tuple[str, ...] = ()
    repeatable: bool = False

    @property
    def method(self) -> Method:
        """Its record in a comparison."""
        return Method(self.title, self.title, "", self.role)


PCA_TITLE = "PCA"
BASELINES: dict[str, Baseline] = {
    "pca": Baseline(PCA_TITLE, pca),
    "hvg": Baseline("HVG", hvg),
    "harmony": Baseline("Harmony", harmony, needs=("batch",), repeatable=True),
    "combat": Baseline("ComBat", combat, needs=("batch",), repeatable=True),
    "scvi": Baseline("scVI", scvi, needs=("batch",)),
    "scanvi": Baseline("scANVI", scanvi, needs=("batch", "label")),
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
