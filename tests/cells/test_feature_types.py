"""Which features are genes: known words in any case, a refusal where none is known."""

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scfm.cells.feature_types import GENES, OTHERS, gene_mask
from scfm.cells.file import open_cells


def var(kinds, column="feature_types"):
    return pd.DataFrame({column: kinds}, index=[f"G{i}" for i in range(len(kinds))])


@pytest.mark.parametrize("gene", ["Gene Expression", "gene expression", "GEX", "gex", "RNA", "Gene", "GENE_EXPRESSION"])
@pytest.mark.parametrize("other", ["Antibody Capture", "ADT", "adt", "Protein", "HTO", "CRISPR Guide Capture", "Peaks"])
@pytest.mark.parametrize("column", ["feature_types", "feature_type", "Feature_Types", "modality"])
@pytest.mark.parametrize("plural", ["", "s", "S"])
def test_known_words_in_any_case_one_or_several(gene, other, column, plural):
    kinds = [kind if kind[-1] == "s" else kind + plural for kind in (gene, other, gene)]
    assert gene_mask(var(kinds, column)).tolist() == [True, False, True]


@given(st.sampled_from(sorted(GENES)), st.lists(st.sampled_from(sorted(OTHERS)), min_size=1, max_size=4), st.data())
def test_any_known_words(gene, others, data):
    kinds = data.draw(st.permutations([gene, *others]))
    assert gene_mask(var([data.draw(st.sampled_from([kind, kind.upper()])) for kind in kinds])).tolist() == [
        kind == gene for kind in kinds
    ]


@pytest.mark.parametrize(
    "kinds",
    [
        ["Gene Expression"] * 3,
        ["protein_coding", "lncRNA", "transcribed_unprocessed_pseudogene"],
        ["Gene Expression", None, "Gene Expression"],
        ["Something"] * 3,
        [None] * 3,
    ],
)
def test_nothing_is_left_out(kinds):
    assert gene_mask(var(kinds)) is None


def test_other_columns_are_no_feature_types():
    assert gene_mask(pd.DataFrame({"highly_variable": [True, False]})) is None
    assert gene_mask(var(["a", "b"], "modality")) is None


def test_unknown_kinds_are_refused_with_their_numbers():
    with pytest.raises(ValueError, match=r"'foo' \(2 features\), 'bar' \(1 features\).*mod='foo'"):
        gene_mask(var(["foo", "bar", "foo"]))
    with pytest.raises(ValueError, match=r"'foo' \(1 features\), 'ADT' \(2 features\).*mod='foo'"):
        gene_mask(var(["foo", "ADT", "ADT"]))
    assert gene_mask(var(["foo", "bar", "foo"]), "FOO").tolist() == [True, False, True]


def test_proteins_alone_are_refused_unless_asked_for():
    with pytest.raises(ValueError, match=r"has no genes: var\['feature_types'\] has the kinds 'ADT' \(2 features\)"):
        gene_mask(var(["ADT", "ADT"]))
    assert gene_mask(var(["ADT", "ADT"]), "prot") is None


def test_proteins_are_not_counted_as_genes(cells, h5ad, caplog):
    cells.var["feature_types"] = pd.Categorical(["GEX"] * 25 + ["ADT"] * 5)
    with caplog.at_level(logging.INFO), open_cells(h5ad(cells)) as opened:
        assert (next(opened.blocks()).counts != cells.X[:, :25]).nnz == 0
    assert "left out (5 ADT)" in caplog.text
    with open_cells(h5ad(cells), mod="adt") as opened:
        assert opened.genes == [f"ENSG{i:011d}" for i in range(25, 30)]


def test_the_reference_case(shared):
    with open_cells(shared / "cases" / "files" / "o02_adt_gex.h5ad") as opened:
        assert len(opened.genes) == 400
        assert np.all([name.startswith("ENSG") for name in opened.genes])
