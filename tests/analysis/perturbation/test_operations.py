"""Every operation against a cell of five genes written out by hand."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scfm.analysis.perturbation.operations import Change, Ranking
from scfm.tokenizer import MedianTokenizer
from support import made_vocab

A, B, C, D, E, NEW, OTHER = 14, 11, 15, 12, 13, 20, 21


def cell(limit=5):
    return Ranking(np.array([A, B, C, D, E]), np.array([9.0, 7, 7, 4, 1]), limit)


def changed(change, genes, limit=5):
    done = change.apply(cell(limit), genes)
    return None if done is None else (done[0].genes.tolist(), done[1])


class TestDelete:
    def test_those_below_move_up(self):
        assert changed(Change("delete"), (B,)) == ([A, C, D, E], 0)

    def test_a_gene_that_is_not_read_changes_nothing(self):
        assert changed(Change("delete"), (NEW,)) is None
        assert changed(Change("delete"), (E,), limit=3) is None

    def test_the_next_gene_moves_up_in_a_longer_cell_or_as_published_does_not(self):
        assert changed(Change("delete"), (A,), limit=3) == ([B, C, D], 0)
        assert changed(Change("delete", refill=False), (A,), limit=3) == ([B, C], 0)

    def test_a_group_is_deleted_together_where_any_of_it_is(self):
        assert changed(Change("delete"), (B, E, NEW)) == ([A, C, D], 0)


class TestOverexpress:
    def test_it_stands_first(self):
        assert changed(Change("overexpress"), (D,)) == ([D, A, B, C, E], 0)
        assert changed(Change("overexpress"), (NEW,), limit=9) == ([NEW, A, B, C, D, E], 0)

    def test_a_group_stands_in_the_given_order(self):
        assert changed(Change("overexpress"), (E, NEW, B), limit=9) == ([E, NEW, B, A, C, D], 0)

    def test_the_top_gene_changes_nothing(self):
        assert changed(Change("overexpress"), (A,)) is None
        assert changed(Change("overexpress"), (A, B)) is None
        assert changed(Change("overexpress"), (B, A)) is not None

    def test_as_many_fall_off_the_end_as_are_new_and_the_original_loses_them_too(self):
        """k = max(0, n + a - limit): the published code uses the length after insertion."""
        assert changed(Change("overexpress"), (NEW, D)) == ([NEW, D, A, B, C], 1)
        assert changed(Change("overexpress"), (NEW, OTHER)) == ([NEW, OTHER, A, B, C], 2)
        assert changed(Change("overexpress"), (NEW, OTHER), limit=6) == ([NEW, OTHER, A, B, C, D], 1)
        assert changed(Change("overexpress"), (NEW,), limit=6) == ([NEW, A, B, C, D, E], 0)


class TestScale:
    def test_its_place_is_where_the_value_belongs_ties_by_id(self):
        assert changed(Change("scale", 0.5), (A,)) == ([B, C, A, D, E], 0)  # 4.5
        assert changed(Change("scale", 7 / 4), (D,)) == ([A, B, D, C, E], 0)  # 7: B=11, D=12, C=15

    def test_its_limits_are_deletion_and_overexpression(self):
        assert changed(Change("scale", 0.0), (C,)) == changed(Change("delete"), (C,))
        assert changed(Change("scale", float("inf")), (C,)) == ([C, A, B, D, E], 0)
        assert changed(Change("scale", float("inf")), (NEW,)) is None

    def test_a_gene_below_the_cut_comes_up_and_an_absent_one_does_nothing(self):
        assert changed(Change("scale", 10.0), (E,), limit=3) == ([E, A, B], 0)
        assert changed(Change("scale", 2.0), (E,), limit=3) is None
        assert changed(Change("scale", 10.0), (NEW,)) is None


class TestCounts:
    """What a model that weighs genes by their counts is given."""

    def counts(self, change, genes, **options):
        return change.apply(cell(**options), genes)[0].counts.tolist()

    def test_those_that_are_left_keep_theirs(self):
        assert self.counts(Change("delete"), (B,)) == [9, 7, 4, 1]
        assert self.counts(Change("delete"), (A,), limit=3) == [7, 7, 4]
        assert self.counts(Change("delete", refill=False), (A,), limit=3) == [7, 7]

    def test_a_scaled_gene_has_its_scaled_count(self):
        assert self.counts(Change("scale", 0.5), (A,)) == [7, 7, 4.5, 4, 1]

    def test_an_overexpressed_gene_has_what_puts_it_first(self):
        assert self.counts(Change("overexpress"), (D,)) == [9, 9, 7, 7, 1]
        assert self.counts(Change("overexpress"), (NEW,), limit=9) == [9, 9, 7, 7, 4, 1]
        medians = np.ones(30)
        medians[A], medians[NEW] = 3.0, 0.5
        scaled = Ranking(np.array([A, B]), np.array([9.0, 2]), 9, 11.0, medians)
        front = Change("overexpress").apply(scaled, (NEW,))[0]
        assert front.genes.tolist() == [NEW, A, B] and front.counts.tolist() == [1.5, 9, 2]

    def test_a_hidden_gene_has_none(self):
        assert self.counts(Change("mask", mask=1), (B, D)) == [9, 0, 7, 0, 1]


def test_a_cell_keeps_a_gene():
    assert changed(Change("delete"), (A, B, C, D, E)) is None


def test_a_mask_leaves_all_places():
    assert changed(Change("mask", mask=1), (B, D)) == ([A, 1, C, 1, E], 0)
    assert changed(Change("mask", mask=1), (E,), limit=4) is None


@pytest.mark.parametrize("factor", [0.0, 0.2, 0.5, 3.0])
def test_ranks_and_cut_are_those_of_a_new_tokenization(factor):
    rng = np.random.default_rng(0)
    vocab = made_vocab(60)
    specials = {"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"}
    medians = np.r_[np.ones(4), rng.choice([0.5, 1, 2], 60)]
    tokenizer = MedianTokenizer(vocab, {}, medians, name="t", max_length=22, specials=specials)
    counts = rng.poisson(1.5, (8, 60)).astype(float)
    columns, totals = np.arange(4, 64, dtype=np.int32), counts.sum(axis=1)
    for row, total in zip(counts, totals, strict=True):
        genes = np.flatnonzero(row) + 4
        values = row[genes - 4] / total * 1e4 / medians[genes]
        order = np.lexsort((genes, -values))
        ranking = Ranking(genes[order], row[genes[order] - 4], 20, total, medians)
        for gene in ranking.genes:
            other = row.copy()
            other[gene - 4] *= factor
            new = tokenizer.encode(csr_matrix(other[None]), columns)[0][1:-1]
            done = Change("scale", factor).apply(ranking, (int(gene),))
            left = ranking.listed if done is None else done[0]
            assert left.genes.tolist() == new.tolist()
            assert left.counts.tolist() == other[left.genes - 4].tolist()
            if factor == 0:
                done = Change("delete").apply(ranking, (int(gene),))
                assert (ranking.listed if done is None else done[0]).genes.tolist() == new.tolist()
