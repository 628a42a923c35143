"""scVI and scANVI, where scvi-tools is installed."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scfm.evaluation.methods.expression import Expression
from scfm.head.variable_genes import batch_variable_genes
from scfm.imports.optional import need

UNLABELED = "(missing)"


def scvi(expression: Expression, batch: np.ndarray, seed: int, epochs: int | None = None) -> np.ndarray:
    """(B, 30) latent means of scVI (Lopez et al., 2018), 2 layers, negative binomial.

    It reads the counts of 2000 genes that vary inside batches. Training stops once the ELBO of a tenth of the cells has
    not fallen for 45 epochs.

    Args:
        expression: of the cells.
        batch: (B,) names.
        seed: of everything.
        epochs: at most; None for scvi-tools' own choice, 400 up to 20,000 cells and fewer above.
    """
    model = _fitted(expression, batch, None, seed, epochs)
    return model.get_latent_representation()


def scanvi(
    expression: Expression, batch: np.ndarray, labels: np.ndarray, seed: int, epochs: int | None = None
) -> np.ndarray:
    """(B, 30) latent means of scANVI (Xu et al., 2021), which also reads the labels: no fair rival without them.

    Args:
        expression: of the cells.
        batch: (B,) names.
        labels: (B,) names, "" where missing.
        seed: of everything.
        epochs: of scVI before it, and of scANVI; None for scvi-tools' own choice, and 20.
    """
    tools = need("scvi", "scvi-tools")
    model = _fitted(expression, batch, labels, seed, epochs)
    semi = tools.model.SCANVI.from_scvi_model(model, unlabeled_category=UNLABELED, labels_key="label")
    semi.train(max_epochs=epochs or 20, accelerator="cpu", enable_progress_bar=False)
    return semi.get_latent_representation()


def _fitted(expression: Expression, batch: np.ndarray, labels: np.ndarray | None, seed: int, epochs: int | None) -> Any:
    tools = need("scvi", "scvi-tools")
    logging.getLogger("scvi").setLevel(logging.ERROR)
    tools.settings.seed = seed
    chosen = batch_variable_genes(expression.values, batch, 2000)
    adata = AnnData(expression.counts[:, chosen].astype(np.float32))
    adata.obs["batch"] = pd.Categorical(batch.astype(str))
    if labels is not None:
        adata.obs["label"] = pd.Categorical(np.where(labels == "", UNLABELED, labels).astype(str))
    tools.model.SCVI.setup_anndata(adata, batch_key="batch", labels_key="label" if labels is not None else None)
    model = tools.model.SCVI(adata, n_layers=2, n_latent=30, gene_likelihood="nb")
    model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, early_stopping=True)
    return model
