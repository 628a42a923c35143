"""What the backbone adds to the gene components of a head, and they to it: in a file, and on cells of a store."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from scfm.evaluation.evaluate import evaluate
from scfm.evaluation.methods.components import gene_components
from scfm.evaluation.methods.store_probes import StoreFeatures, add_state, component_sentence, score_calls

QUICK = {"baselines": ("pca",), "draws": 20, "folds": 3, "controls": False}
GAIN = r"([+-]\d\.\d{3}) \[([+-]\d\.\d{3}), ([+-]\d\.\d{3})\]"


def gains(sentence):
    """What the backbone adds, and what the components add, each with its interval."""
    found = re.findall(GAIN, sentence)
    assert sentence.startswith("On cells kept aside, the backbone adds ")
    return [tuple(map(float, numbers)) for numbers in found]


@pytest.mark.parametrize("normalized", [False, True])
def test_components_are_the_columns_after_those_of_the_embedding(normalized):
    rng = np.random.default_rng(0)
    embedding, components = rng.normal(size=(50, 8)) * np.arange(1, 51)[:, None], rng.normal(size=(50, 3))
    norm = torch.nn.LayerNorm(8)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    first = norm(torch.from_numpy(embedding).float()).detach().numpy() if normalized else embedding
    np.testing.assert_array_equal(gene_components(embedding, np.c_[first, components]), components)


def test_a_state_without_components_or_of_components_alone_has_no_halves():
    embedding, components = np.random.default_rng(0).normal(size=(2, 50, 12))
    assert gene_components(embedding, None) is None
    assert gene_components(embedding, embedding) is None
    assert gene_components(embedding[:, :4], components) is None


def test_a_file_with_a_state_says_what_each_half_adds(make_adata):
    adata = make_adata()
    rng = np.random.default_rng(0)
    types = np.arange(240) % 3
    adata.obsm["X_scfm"] = rng.normal(size=(240, 4))
    adata.obsm["X_scfm_state"] = np.c_[adata.obsm["X_scfm"], 3 * np.eye(3)[types] + rng.normal(0, 0.5, (240, 3))]
    result = evaluate(adata, label="type", batch="donor", **QUICK)
    (backbone, low, high), (components, _, _) = gains(result.summary[1])
    assert abs(backbone) < 0.1
    assert low <= backbone <= high
    assert components > 0.4
    scores = result.scores["annotation"]["macro_f1"]
    both, alone = scores["X_scfm_state, linear probe"], scores["X_scfm, linear probe"]
    assert components == pytest.approx(both - alone, abs=1e-3)
    assert backbone == pytest.approx(both - scores["gene components, linear probe"], abs=1e-3)
    assert "X_scfm_state, linear probe" in result.annotation.names("ours")
    assert "gene components, linear probe" in result.annotation.names("ablation")
    assert "X_scfm_state" in result.scores["integration"].index


def test_a_file_without_components_says_nothing_of_them(make_adata):
    adata = make_adata(120)
    adata.obsm["X_scfm_state"] = adata.obsm["X_scfm"] * 2
    result = evaluate(adata, label="type", batch="donor", **QUICK)
    assert not [sentence for sentence in result.summary if "components" in sentence]
    assert "gene components, linear probe" not in result.scores["annotation"].index


class FakeModule:
    """A module whose backbone knows types 0 and 1 from 2, and whose components know 0 from 1."""

    device = torch.device("cpu")

    def __init__(self, types, *, state=True):
        rng = np.random.default_rng(0)
        noise = rng.normal(0, 0.1, (len(types), 2))
        self.deep = np.c_[(types == 2) * 1.0, noise[:, 0]].astype(np.float32)
        self.wide = np.c_[(types == 1) * 1.0, noise[:, 1]].astype(np.float32)
        self.state, self.seen = state, []

    def eval(self):
        return self

    def predict_step(self, batch, batch_idx):
        rows = batch.index.numpy()
        self.seen.extend(rows.tolist())
        found = {"index": rows, "embedding": self.deep[rows]}
        return found | ({"state": np.c_[self.deep[rows], self.wide[rows]]} if self.state else {})


class FakeData:
    """Micro-batches of seven rows, out of order."""

    def loader(self, rows, *, alone):
        for part in np.array_split(rows[::-1], max(1, len(rows) // 7)):
            batch = SimpleNamespace(index=torch.from_numpy(part.copy()))
            batch.to = lambda device, batch=batch: batch
            yield batch


@pytest.fixture
def store_cells():
    types = np.random.default_rng(1).integers(3, size=300)
    train = np.arange(300) % 3 > 0
    rows = np.arange(0, 600, 2)
    whole = np.repeat(types, 2)
    return whole, StoreFeatures(rows, train, {"frozen backbone": np.zeros((300, 1))}, pd.DataFrame())


def test_both_halves_of_the_state_are_probed_on_cells_of_a_store(store_cells):
    types, features = store_cells
    module, scored = FakeModule(types), features.rows[~features.train]
    outputs = module.predict_step(SimpleNamespace(index=torch.from_numpy(scored)), 0)
    module.seen.clear()
    features = add_state(features, module, FakeData(), outputs)
    assert sorted(module.seen) == features.rows[features.train].tolist(), "the scored cells are not read twice"
    np.testing.assert_array_equal(features.features["X_scfm"], module.deep[features.rows])
    np.testing.assert_array_equal(features.features["gene components"], module.wide[features.rows])
    codes = types[features.rows]
    probes = score_calls(features, codes, 3, {})
    scores = probes.scores["macro_f1"]
    assert scores["X_scfm_state, linear probe"] > 0.99 > 0.7 > scores["X_scfm, linear probe"]
    (sentence,) = component_sentence(probes, codes, np.arange(300) % 10, 3)
    (backbone, low, high), (components, _, _) = gains(sentence)
    assert low > 0.2, "the interval of a real gain is above 0"
    assert low <= backbone <= high
    assert components == pytest.approx(scores["X_scfm_state, linear probe"] - scores["X_scfm, linear probe"], abs=1e-3)


def test_a_head_without_components_adds_no_probe_and_no_sentence(store_cells):
    types, features = store_cells
    module = FakeModule(types, state=False)
    outputs = module.predict_step(SimpleNamespace(index=torch.from_numpy(features.rows[~features.train])), 0)
    module.seen.clear()
    assert add_state(features, module, FakeData(), outputs) is features
    assert not module.seen
    codes = types[features.rows]
    assert component_sentence(score_calls(features, codes, 3, {}), codes, None, 3) == []
