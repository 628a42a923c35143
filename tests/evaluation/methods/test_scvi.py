"""scVI and scANVI really run, where scvi-tools is installed."""

import numpy as np
import pytest

from scfm.evaluation.methods import scvi as deep
from scfm.evaluation.methods.expression import read_expression

pytest.importorskip("scvi")


@pytest.fixture
def cells(make_adata):
    adata = make_adata(120, 60)
    labels = adata.obs["type"].astype(str).to_numpy(dtype=object)
    labels[:10] = ""
    return read_expression(adata), adata.obs["donor"].astype(str).to_numpy(dtype=object), labels


def test_scvi_embeds_and_repeats_itself(cells):
    expression, batch, _ = cells
    first, second = (deep.scvi(expression, batch, 0, epochs=2) for _ in range(2))
    assert first.shape == (120, 30)
    assert np.isfinite(first).all()
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_scanvi_reads_the_labels_that_there_are(cells):
    expression, batch, labels = cells
    found = deep.scanvi(expression, batch, labels, 0, epochs=2)
    assert found.shape == (120, 30)
    assert np.isfinite(found).all()
