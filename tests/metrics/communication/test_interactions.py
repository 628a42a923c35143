"""Ligand-receptor scores against numbers made by hand, against liana where it is there, and under shuffled labels."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import kstest

from scfm.metrics.communication.group_means import group_means
from scfm.metrics.communication.interactions import (
    Subunits,
    find_interactions,
    rank_interactions,
    score_interactions,
)
from scfm.metrics.communication.permutation import permutation_p, shuffle_codes
from scfm.metrics.communication.rank_aggregation import aggregate_ranks

#: Two cells of group 0, two of group 1; genes: ligand, receptor, the receptor's second subunit.
VALUES = csr_matrix(np.array([[2.0, 0, 0], [4.0, 0, 1], [0, 3.0, 1], [1.0, 5.0, 0]]))
CODES = np.array([0, 0, 1, 1])


def scored(subunits, values=VALUES, codes=CODES, min_share=0.1):
    groups = group_means(values, codes, int(codes.max()) + 1)
    found = find_interactions(groups, subunits, min_share=min_share)
    return found, score_interactions(groups, found)


def test_scores_of_a_pair_are_those_made_by_hand():
    found, scores = scored(Subunits.from_parts([[0]], [[1]]))
    assert list(zip(found.sender, found.receiver, strict=True)) == [(0, 1), (1, 1)]  # group 0 has no receptor
    first = scores.iloc[0]
    ligand, receptor, matrix_mean = 3.0, 4.0, 17 / 12
    assert first["mean"] == 3.5 and first["product"] == 12
    assert first["geometric_mean"] == pytest.approx(12**0.5)
    assert first["sca"] == pytest.approx(12**0.5 / (12**0.5 + matrix_mean))
    assert first["natmi"] == pytest.approx(ligand / (3 + 0.5) * receptor / (0 + 4))
    own = np.log2((np.expm1(2) + np.expm1(4)) / 2 + 1), np.log2((np.expm1(3) + np.expm1(5)) / 2 + 1)
    rest = np.log2(np.expm1(1) / 2 + 1), np.log2(0 + 1)
    assert first["log_fold"] == pytest.approx((own[0] - rest[0] + own[1] - rest[1]) / 2)


def test_a_complex_is_worth_its_weakest_subunit():
    found, scores = scored(Subunits.from_parts([[0], [0]], [[1], [1, 2]]))
    whole = scores[(found.pair == 1) & (found.receiver == 1) & (found.sender == 0)].iloc[0]
    assert whole["receptor_mean"] == 0.5 and whole["mean"] == (3 + 0.5) / 2
    assert found.receptor[(found.pair == 1) & (found.receiver == 1)].tolist() == [2, 2]


def test_a_pair_with_an_undetected_subunit_is_left_out():
    found, _ = scored(Subunits.from_parts([[0]], [[1, 2]]), min_share=0.6)
    assert len(found) == 0  # the second subunit is in half of the cells


def test_one_group_has_no_rest_to_compare_with():
    _, scores = scored(Subunits.from_parts([[0]], [[1]]), codes=np.zeros(4, dtype=int))
    assert scores["log_fold"].tolist() == [0.0]


def test_robust_rank_aggregation_by_hand():
    # item 0 is first of 4 under both scores: min(2 · min(P(Beta(1,2) <= 1/4), P(Beta(2,1) <= 1/4)))
    scores = np.array([[1.0, 10], [2, 20], [3, 30], [4, 40]])
    assert aggregate_ranks(scores)[0] == pytest.approx(2 * min(1 - (3 / 4) ** 2, (1 / 4) ** 2))
    assert aggregate_ranks(scores)[3] == 1
    assert len(aggregate_ranks(scores[:0])) == 0


def test_shuffling_keeps_to_the_donors():
    rng = np.random.default_rng(0)
    codes, donors = np.array([0, 1, 2, 0, 1, 1]), np.array([1, 0, 1, 0, 1, 0])
    shuffled = shuffle_codes(codes, donors, 200, rng)
    for donor in (0, 1):
        assert (np.sort(shuffled[:, donors == donor], axis=1) == np.sort(codes[donors == donor])).all()
    assert len(np.unique(shuffled, axis=0)) == 6 * 3  # every arrangement: 3! of {0, 1, 2}, 3 of {0, 1, 1}


def sparse_cells(rng, n_cells=120, n_genes=8):
    return csr_matrix(np.log1p(rng.poisson(0.8, (n_cells, n_genes))).astype(np.float32))


def test_p_values_are_uniform_where_labels_mean_nothing():
    rng, p = np.random.default_rng(3), []
    for _ in range(150):
        values, codes = sparse_cells(rng, 60), rng.permutation(np.repeat([0, 1, 2], 20))
        found, _ = scored(Subunits.from_parts([[0], [2]], [[1], [3]]), values, codes)
        picked = np.flatnonzero((found.sender == 0) & (found.receiver == 1))
        p.extend(permutation_p(values, codes, found, n_permutations=99, seed=int(rng.integers(1e9)))[picked])
    assert len(p) == 300
    assert kstest(np.asarray(p) - rng.random(300) / 100, "uniform").pvalue > 0.01


def test_a_planted_pair_is_found_and_is_first():
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.5, (300, 40))
    codes = np.arange(300) % 4
    counts[codes == 1, 7] += rng.poisson(4, (codes == 1).sum())
    counts[codes == 2, 21] += rng.poisson(4, (codes == 2).sum())
    values = csr_matrix(np.log1p(counts).astype(np.float32))
    subunits = Subunits.from_parts([[g] for g in range(20)], [[g + 14] for g in range(20)])
    found, scores = scored(subunits, values, codes)
    scores["p"] = permutation_p(values, codes, found, n_permutations=200)
    planted = np.flatnonzero((found.pair == 7) & (found.sender == 1) & (found.receiver == 2))[0]
    assert scores["p"][planted] == pytest.approx(1 / 201)
    ranks = rank_interactions(scores)
    assert ranks["magnitude_rank"].argmin() == planted and ranks["specificity_rank"].argmin() == planted


def test_a_difference_between_donors_alone_is_no_interaction():
    rng = np.random.default_rng(1)
    donors = np.repeat([0, 1], 150)
    codes = np.where(rng.random(300) < np.where(donors == 0, 0.9, 0.1), 0, 1)  # group 0 is mostly donor 0
    counts = rng.poisson(np.where(donors == 0, 4.0, 0.5)[:, None], (300, 2))  # and donor 0 has more of both genes
    values = csr_matrix(np.log1p(counts).astype(np.float32))
    found, _ = scored(Subunits.from_parts([[0]], [[1]]), values, codes)
    own = np.flatnonzero((found.sender == 0) & (found.receiver == 0))[0]
    assert permutation_p(values, codes, found, n_permutations=200)[own] == pytest.approx(1 / 201)
    assert permutation_p(values, codes, found, blocks=donors, n_permutations=200)[own] > 0.02


def test_order_of_cells_changes_nothing_but_the_draw():
    rng = np.random.default_rng(5)
    values, codes = sparse_cells(rng), np.arange(120) % 3
    order = rng.permutation(120)
    subunits = Subunits.from_parts([[0], [1]], [[2], [3, 4]])
    _, one = scored(subunits, values, codes)
    _, two = scored(subunits, values[order], codes[order])
    pd.testing.assert_frame_equal(one, two)


def test_equal_to_liana(tmp_path):
    liana = pytest.importorskip("liana", reason="liana is not installed")
    import anndata

    rng = np.random.default_rng(0)
    values = sparse_cells(rng, 150, 30)
    names = [f"G{i}" for i in range(30)]
    adata = anndata.AnnData(values, var=pd.DataFrame(index=names))
    adata.obs_names = [f"c{i}" for i in range(150)]
    kinds = np.arange(150) % 3
    adata.obs["type"] = pd.Categorical(np.array(["a", "b", "c"])[kinds])
    pairs = pd.DataFrame({"ligand": ["G0", "G1", "G2_G3", "G4"], "receptor": ["G10", "G11_G12", "G13", "G14_G15_G16"]})
    subunits = Subunits.from_parts([[0], [1], [2, 3], [4]], [[10], [11, 12], [13], [14, 15, 16]])
    found, ours = scored(subunits, values, kinds)
    keys = ["source", "target", "ligand_complex", "receptor_complex"]
    types = np.array(["a", "b", "c"])
    named = [types[found.sender], types[found.receiver], *(pairs[c].to_numpy()[found.pair] for c in pairs)]
    ours[keys] = np.column_stack(named)
    for method, column, name in [
        (liana.mt.cellphonedb, "lr_means", "mean"),
        (liana.mt.natmi, "expr_prod", "product"),
        (liana.mt.natmi, "spec_weight", "natmi"),
        (liana.mt.geometric_mean, "lr_gmeans", "geometric_mean"),
        (liana.mt.singlecellsignalr, "lrscore", "sca"),
        (liana.mt.logfc, "lr_logfc", "log_fold"),
    ]:
        options = {"resource": pairs.copy(), "use_raw": False, "inplace": False, "verbose": False}
        theirs = method(adata.copy(), groupby="type", **options, **({"n_perms": 20} if method.permute else {}))
        both = ours.merge(theirs, on=keys, validate="one_to_one", suffixes=("", "_theirs"))
        assert len(both) == len(ours) == len(theirs)
        np.testing.assert_allclose(both[name], both[column], atol=1e-6, rtol=1e-6, err_msg=name)
