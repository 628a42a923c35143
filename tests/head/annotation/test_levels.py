"""Label columns from broad to fine."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm.head.annotation.classifier import Classifier
from scfm.head.annotation.label_layer import Prediction
from scfm.head.annotation.levels import Levels

LABELS = ("lineage", "cell_type", "state")
NAMES = (("T", "B"), ("CD4", "CD8", "naive B"), ("CD4 resting", "CD4 active", "CD8 resting", "naive B"))
PARENTS = (np.array([0, 0, 1]), np.array([0, 0, 1, 2]))


@pytest.fixture
def levels():
    return tree()


def tree():
    found = Levels(LABELS, NAMES)
    state = np.array([0, 1, 2, 3])
    found.learn({"state": state, "cell_type": PARENTS[1][state], "lineage": PARENTS[0][PARENTS[1][state]]})
    return found


def scores_of(seed, n=20):
    return [3 * torch.randn(n, len(names), generator=torch.Generator().manual_seed(seed)) for names in NAMES]


def test_a_fine_probability_is_its_broad_one_times_its_share_inside(levels):
    scores = scores_of(0)
    broad, fine, _ = (values.exp().double().numpy() for values in levels(scores))
    own = np.exp(scores[1].double().numpy())
    np.testing.assert_allclose(broad, np.exp(scores[0].double().log_softmax(1).numpy()), rtol=1e-5)
    np.testing.assert_allclose(fine[:, 0], broad[:, 0] * own[:, 0] / (own[:, 0] + own[:, 1]), rtol=1e-5)
    np.testing.assert_allclose(fine[:, 2], broad[:, 1], rtol=1e-5)


def test_probabilities_sum_to_those_of_the_broader_class(levels):
    found = [values.exp().numpy() for values in levels(scores_of(1))]
    for broad, fine, parent in zip(found, found[1:], PARENTS, strict=False):
        for code in range(broad.shape[1]):
            np.testing.assert_allclose(fine[:, parent == code].sum(1), broad[:, code], rtol=1e-5)


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_calls_never_contradict_each_other(seed):
    found = tree()(scores_of(seed))
    settled = tree().enforce_levels(found)
    called = [values.argmax(1).numpy() for values in settled]
    for broad, fine, parent in zip(called, called[1:], PARENTS, strict=False):
        np.testing.assert_array_equal(parent[fine], broad)
    agreed = np.all([PARENTS[i][found[i + 1].argmax(1)] == found[i].argmax(1).numpy() for i in range(2)], axis=0)
    for before, after in zip(found, settled, strict=True):
        torch.testing.assert_close(after[agreed], before[agreed])


def test_a_class_of_no_training_cell_is_never_called():
    levels = Levels(LABELS[:2], (NAMES[0], (*NAMES[1], "NK")))
    levels.learn({"cell_type": np.array([0, 1, 2]), "lineage": np.array([0, 0, 1])})
    fine = levels([torch.randn(50, 2), 9 * torch.randn(50, 4)])[1]
    assert (fine.argmax(1) != 3).all()
    assert fine.isfinite().all()


def test_gradients_are_finite_where_classes_lack_finer_ones_or_cells():
    levels = Levels(LABELS[:2], (("T", "B", "platelet"), ("CD4", "CD8", "NK")))
    levels.learn({"cell_type": np.array([0, 1]), "lineage": np.array([1, 1])})
    scores = [torch.randn(9, 3, requires_grad=True) for _ in range(2)]
    sum(values.sum() for values in levels(scores)).backward()
    assert all(own.grad.isfinite().all() for own in scores)


def test_a_broad_class_without_finer_ones_keeps_its_name_and_unknown_stays_unknown(levels):
    alone = Levels(LABELS[:2], (("T", "B", "platelet"), ("CD4", "CD8")))
    alone.learn({"cell_type": np.array([0, 1]), "lineage": np.array([0, 0])})
    nothing = np.zeros(5)
    broad_guess = np.array(["T", "T", "platelet", "T", "B"], dtype=object)
    broad = np.where([True, True, True, False, True], broad_guess, "unknown")
    fine_guess = np.array(["CD4", "CD8", "CD8", "CD8", "CD4"], dtype=object)
    fine = np.where([True, False, True, True, True], fine_guess, "unknown")
    found = alone.align_names(
        [Prediction(broad, broad_guess, nothing, nothing), Prediction(fine, fine_guess, nothing, nothing)]
    )[1]
    assert found.names.tolist() == ["CD4", "unknown", "platelet", "unknown", "B"]
    assert found.guess.tolist() == ["CD4", "CD8", "platelet", "CD8", "B"]


@pytest.mark.parametrize(
    ("lineage", "said"),
    [
        ([0, 1, 0], r"cell_type='CD4' lies in 'T' \(1 cells\), 'B' \(1 cells\) of 'lineage'; expected one broader"),
        ([-1, -1, 0], r"cell_type='CD4' lies in no class of 'lineage'"),
    ],
)
def test_what_is_no_tree_is_refused(lineage, said):
    with pytest.raises(ValueError, match=said):
        Levels(LABELS[:2], NAMES[:2]).learn({"cell_type": np.array([0, 0, 1]), "lineage": np.array(lineage)})


def test_a_single_column_has_no_levels(make_spec):
    with pytest.raises(ValueError, match=r"head.levels=true with head.label='cell_type'; expected several columns"):
        Classifier(make_spec(), label="cell_type", levels=True)


def test_learns_two_levels_from_cells_of_which_some_are_labeled_broadly_alone(make_spec, make_batch, backbone):
    spec = make_spec(classes={"lineage": ("T", "B")}, class_counts={"lineage": np.array([30, 5])})

    def made():
        return Classifier(
            spec, label=["lineage", "cell_type"], levels=True, dropout=0.0, probe=False, gene_components=0
        )

    def labeled(seed, missing=()):
        codes = np.random.default_rng(seed).permutation(np.arange(60) % 3)
        batch = make_batch(codes, seed=seed, missing=missing)
        return replace(batch, obs={**batch.obs, "lineage": torch.from_numpy((codes == 2).astype(np.int64))})

    head = made()
    head.levels.learn({name: values.numpy() for name, values in labeled(0).obs.items()})
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], lr=0.02)
    for seed in range(60):
        optimizer.zero_grad()
        head(backbone, labeled(seed, missing=range(30)))["loss"].backward()
        optimizer.step()
    batch = labeled(999)
    again = made()
    again.load_state_dict(head.state_dict())
    outputs = {name: value.numpy() for name, value in again.eval().predict(backbone, batch).items()}
    targets = {name: values.numpy() for name, values in batch.obs.items()}
    found = again.summarize(outputs, targets)
    assert min(found["macro_f1"], found["macro_f1/cell_type"]) > 0.9
    again.calibrate(outputs, targets)
    named = again.write(outputs).obs
    inside = {"type 0": "T", "type 1": "T", "type 2": "B", "unknown": "unknown"}
    for broad, fine in zip(named["scfm_lineage"], named["scfm_cell_type"], strict=True):
        assert fine == "unknown" or inside[fine] == broad
    assert (named["scfm_cell_type"] != "unknown").mean() > 0.8
