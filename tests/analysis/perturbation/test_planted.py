"""A model whose answer is known by construction: planted genes are found, and the null is flat."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scfm.analysis.perturbation.design import Design
from scfm.analysis.perturbation.shifts import Runner, make_states
from scfm.analysis.perturbation.tables import cell_table, effect_table, gene_table, join_parts, upstream_table
from scfm.metrics.perturbation import auroc
from support import made_vocab


def design_of(made, sets=None, control=None):
    names = [f"cell{i}" for i in range(len(made.state))]
    cells = SimpleNamespace(obs=pd.DataFrame(index=names), rows=np.arange(len(names)))
    sets = tuple((g,) for g in range(4, 504)) if sets is None else sets
    return Design(
        cells, np.asarray(made.state), ("sick", "well"), made.donors, tuple("abcdef"),
        np.flatnonzero(made.state == 0), sets,
        np.zeros(len(sets), bool) if control is None else control, np.zeros(504),
    )  # fmt: skip


def run(made, design, parts=1, permutations=99, effects=False, order=None):
    embeddings = made.reader.embed([ranking.listed for ranking in made.rankings])
    states = make_states(design, embeddings, center=True, permutations=permutations, seed=0)
    runner = Runner(design, made.rankings, made.change, made.reader, states, effects)
    cells = design.changed if order is None else order
    rows = join_parts([runner.run(chunk, lambda n: None) for chunk in np.array_split(cells, parts)])
    return rows, cell_table(rows, design, made_vocab(500))


def tables(made, **options):
    design = design_of(made)
    rows, cells = run(made, design, **options)
    return cells, gene_table(cells, design, made_vocab(500), rows, 8)


def test_deletion_finds_planted_genes(planted):
    made = planted(seed=1)
    _, genes = tables(made)
    truth = genes["gene"].isin([f"G{g - 4}" for g in made.planted]).to_numpy()
    assert auroc(np.abs(genes["shift"].to_numpy()), truth) >= 0.95
    assert auroc(np.abs(genes["z"].to_numpy()), truth) >= 0.95
    assert (genes.loc[truth, "shift"] < 0).all(), "they make cells well: their loss leads away"
    assert (genes.loc[truth, "fdr"] < 0.05).mean() > 0.8
    assert (genes.loc[~truth, "fdr"] < 0.05).mean() < 0.02


@pytest.mark.parametrize("seed", [2, 5])
def test_the_null_is_flat(planted, seed):
    """States that differ in no gene: p over rank-matched genes and over permuted labels are uniform."""
    _, genes = tables(planted(seed=seed, n_cells=80, differs=False))
    assert len(genes) == 500
    for name in ("p", "p_label"):
        assert stats.kstest(genes[name], "uniform").pvalue > 0.01, name
    upstream = upstream_table(*published(planted(seed=seed, n_cells=80, differs=False)), all_genes=True)
    assert upstream["Sig"].mean() > 0.5, "the published test calls most genes of the same cells"


def published(made):
    design = design_of(made)
    return run(made, design)[1], design, made_vocab(500)


def test_a_cell_by_itself_says_the_same_and_the_order_does_not_matter(planted):
    made = planted(seed=3, n_cells=12)
    design = design_of(made)
    whole = run(made, design)[1]
    for other in (run(made, design, parts=6)[1], run(made, design, order=design.changed[::-1].copy())[1]):
        one = whole.sort_values(["row", "gene"], ignore_index=True)
        two = other.sort_values(["row", "gene"], ignore_index=True)
        pd.testing.assert_frame_equal(one, two, atol=1e-9)


def test_shift_is_the_formula_by_hand(planted):
    made = planted(seed=4, n_cells=6)
    cells, _ = run_both(made)
    vectors, row = made.reader.backbone.vectors.numpy(), cells.iloc[7]
    own = int(row["row"])
    means = np.stack([vectors[[2, *ranking.read, 3]].mean(axis=0) for ranking in made.rankings])
    others = np.arange(6) != own
    goal = means[made.state == 1].mean(axis=0)
    middle = means[others].mean(axis=0)
    gone = int(row["gene"][1:]) + 4
    left = [g for g in made.rankings[own].read if g != gone]
    new = vectors[[2, *left, 3]].mean(axis=0)

    def cos(x, y):
        return (x - middle) @ (y - middle) / np.linalg.norm(x - middle) / np.linalg.norm(y - middle)

    assert row["shift"] == pytest.approx(cos(new, goal) - cos(means[own], goal), abs=1e-6)
    assert row["cosine"] == pytest.approx(new @ means[own] / np.linalg.norm(new) / np.linalg.norm(means[own]))
    start = means[(made.state == 0) & others].mean(axis=0)
    assert row["shift_start"] == pytest.approx(cos(new, start) - cos(means[own], start), abs=1e-6)


def run_both(made):
    design = design_of(made)
    rows, cells = run(made, design)
    return cells, rows


class TestPublishedDefects:
    """What the published code was seen to get wrong, and ours."""

    def test_effects_on_other_genes_are_aligned_by_gene(self, planted):
        """Overexpression with effects carried the value of the gene one rank above in every pair."""
        made = planted(seed=6, n_cells=6)
        made.change = type(made.change)("overexpress")
        vectors = made.reader.backbone.vectors
        made.reader.backbone.hidden = lambda batch, layer: vectors[batch.ids] * (1 + batch.positions[:, None] % 2)
        design = design_of(made, sets=((503,), (10,)))
        rows, _ = run(made, design, effects=True)
        found = effect_table(rows, design, made_vocab(500))
        assert (found["mean"].abs() < 1e-12).all(), "a gene's own direction stays, wherever it stands"
        assert len(found) > 100

    def test_an_anchor_also_works_with_overexpression(self, planted):
        made = planted(seed=6, n_cells=6)
        made.change = type(made.change)("overexpress")
        design = design_of(made, sets=((10,), (20,), (10, 20)))
        _, cells = run(made, design)
        assert set(cells["gene"]) == {"G6", "G16", "G6+G16"}

    def test_overflow_shortens_the_original_by_as_many_as_fall_off(self, planted):
        made = planted(seed=6, n_cells=6)
        made.change = type(made.change)("overexpress")
        made.rankings = [type(r)(r.genes, r.counts, 100) for r in made.rankings]
        absent = next(g for g in range(4, 504) if g not in made.rankings[0].read)
        design = design_of(made, sets=((absent,),))
        _, cells = run(made, design)
        row = cells[cells["row"] == 0].iloc[0]
        vectors = made.reader.backbone.vectors.numpy()
        old = vectors[[2, *made.rankings[0].read[:99], 3]].mean(axis=0)
        new = vectors[[2, absent, *made.rankings[0].read[:99], 3]].mean(axis=0)
        assert row["dropped"] == 1
        assert row["cosine"] == pytest.approx(new @ old / np.linalg.norm(new) / np.linalg.norm(old))

    def test_results_name_the_cell(self, planted):
        cells, _ = run_both(planted(seed=4, n_cells=6))
        assert set(cells["cell"]) == {"cell0", "cell2", "cell4"}
        assert set(cells["donor"]) <= set("abcdef")


def test_controls_stand_for_the_null_and_are_not_tested(planted):
    made = planted(seed=1)
    sets = tuple((g,) for g in [*made.planted[:3], *range(100, 140)])
    control = np.arange(43) >= 3
    design = design_of(made, sets, control)
    rows, cells = run(made, design)
    genes = gene_table(cells, design, made_vocab(500), rows, 8)
    assert genes["control"].sum() == 40
    assert genes.loc[genes["control"], "fdr"].isna().all()
    assert (genes.loc[~genes["control"], "fdr"] < 0.05).all()
