"""Tokenizers built from the shipped configs, and the contract of ranking in plain NumPy."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra.utils import instantiate

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "tokenizer"


@pytest.fixture(scope="session")
def build():
    """A tokenizer by the name of its config, options replaced."""

    def one(name, **options):
        config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        assert set(options) <= set(config)
        return instantiate({**config, **options}, _partial_=True)()

    return one


@pytest.fixture(scope="session")
def published(shared, build):
    """Geneformer's tokenizers with the published dictionaries."""

    def one(version):
        release = {"v1": "gc30M", "v2": "gc104M"}[version]
        names = {"token_dictionary": "token", "gene_median": "gene_median"}
        folder = shared / "reference" / "geneformer"
        paths = {option: str(folder / f"{name}_dictionary_{release}.pkl") for option, name in names.items()}
        return build(f"geneformer_{version}", **paths, gene_mapping=str(folder / f"ensembl_mapping_dict_{release}.pkl"))

    return one


@pytest.fixture(scope="session")
def oracle():
    """Tokens of each cell by sorting all of it: float64 value descending, then token id, then cut."""

    def ranked(counts, columns, limit, medians=None, totals=None):
        cells = []
        for row in range(counts.shape[0]):
            part = slice(counts.indptr[row], counts.indptr[row + 1])
            n = counts.data[part].astype(np.float64).sum() if totals is None else totals[row]
            tokens = columns[counts.indices[part]]
            x = np.bincount(tokens[tokens >= 0], counts.data[part][tokens >= 0].astype(np.float64), minlength=1)
            ids = np.flatnonzero(x > 0)
            value = x[ids] if medians is None else x[ids] / n * 10000.0 / medians[ids]
            cells.append(ids[np.lexsort((ids, -value))][:limit].tolist())
        return cells

    return ranked
