"""What a user would name cell types with instead, without a backbone: classifiers of expression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from scfm.evaluation.methods.expression import LARGEST, Expression
from scfm.evaluation.methods.method import LINEAR, NEAREST, Method
from scfm.evaluation.methods.probes import Features, Model, choose_penalty, linear, nearest

#: Inverse strengths of the L2 penalty on all genes, which are log-normalized and not scaled.
GENE_PENALTIES = (10.0, 1.0, 0.1)
#: Genes of each type that the second fit of CellTypist keeps.
TOP_GENES = 300


@dataclass(frozen=True)
class Rival:
    """A classifier that needs no backbone.

    Attributes:
        title: its name in tables.
        space: the features, as a table names them.
        features: of expression, the training rows and a seed, the features of all cells; genes and scales are chosen by
            the training cells alone.
        model: fits and predicts.
        kind: what is fitted.
    """

    title: str
    space: str
    features: Callable[[Expression, np.ndarray, int], np.ndarray | csr_matrix]
    model: Model
    kind: str = LINEAR

    @property
    def method(self) -> Method:
        """Its record in a comparison."""
        return Method(self.title, self.space, self.kind, "rival")

    def read(self, expression: Expression, seed: int) -> Features:
        """Its features as a function of the training rows."""
        return partial(_features, self, expression, seed)


def _features(rival: Rival, expression: Expression, seed: int, train: np.ndarray) -> np.ndarray:
    return rival.features(expression, train, seed)


def genes(train: csr_matrix, codes: np.ndarray, test: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression on all genes, log-normalized, not scaled, sparse.

    Classes are weighted inversely to their frequency; the penalty is chosen among ``GENE_PENALTIES`` by macro-F1 on a
    quarter of the training cells.
    """
    model = _gene_model(choose_penalty(train, codes, GENE_PENALTIES, _gene_model)).fit(train, codes)
    return model.classes_, model.predict_proba(test)


def celltypist(train: csr_matrix, codes: np.ndarray, test: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """The recipe of CellTypist (Domínguez Conde et al., 2022), without its vote of clusters.

    A first logistic regression chooses the 300 genes of each type with the largest absolute weights; on these, scaled
    and cut at 10, one logistic regression for each type against the rest (C = 1, no weights of classes).
    """
    first = _gene_model(1.0).fit(train, codes)
    chosen = np.unique(np.argsort(-np.abs(first.coef_), axis=1)[:, :TOP_GENES])
    scaler = StandardScaler().fit(train[:, chosen].toarray())
    scaled = [scaler.transform(part[:, chosen].toarray()).clip(max=LARGEST) for part in (train, test)]
    if len(first.classes_) == 2:  # one against the rest is the same model for both
        model: Any = LogisticRegression(C=1.0, max_iter=300)
    else:
        model = OneVsRestClassifier(LogisticRegression(C=1.0, max_iter=300))
    fitted = model.fit(scaled[0], codes)
    return fitted.classes_, fitted.predict_proba(scaled[1])


def _gene_model(penalty: float) -> LogisticRegression:
    return LogisticRegression(C=penalty, max_iter=300, tol=1e-3, class_weight="balanced")


def _all_genes(expression: Expression, train: np.ndarray, seed: int) -> csr_matrix:
    return expression.values


RIVALS: dict[str, Rival] = {
    "hvg": Rival("logistic regression on HVGs", "HVG", lambda cells, train, _: cells.scaled(train), linear),
    "pca": Rival(
        "logistic regression on PCA", "PCA", lambda cells, train, seed: cells.principal_components(train, seed), linear
    ),
    "genes": Rival("logistic regression on all genes", "all genes", _all_genes, genes),
    "celltypist": Rival("CellTypist's recipe", "all genes", _all_genes, celltypist),
    "nearest": Rival(
        "15 nearest on PCA",
        "PCA",
        lambda cells, train, seed: cells.principal_components(train, seed),
        nearest,
        NEAREST,
    ),
}


def check_rivals(names: Sequence[str]) -> None:
    """Refuse names of classifiers that do not exist.

    Raises:
        ValueError: an unknown name.
    """
    wrong = [name for name in names if name not in RIVALS]
    if wrong:
        raise ValueError(f"rivals={list(names)}: {', '.join(wrong)} is unknown; choose from {', '.join(RIVALS)}")
