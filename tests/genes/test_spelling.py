"""Gene names that tools have changed, and names that genes had before."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scfm.genes import GeneReport, harmonize, resolve
from scfm.genes.report import likely_cause
from scfm.genes.resolve import ensembl_id
from scfm.genes.spelling import clean_names, shared_prefix
from scfm.genes.table import retired, table
from scfm.vocab import Vocab

SYMBOLS = ["ACTB", "HLA-A", "CD3E", "MT-CO1", "HLA-DRB1", "NKX2-1", "GAPDH", "MALAT1", "B2M", "CD4"]
IDS = [table("human").by_symbol[symbol] for symbol in SYMBOLS]
MANGLED = [symbol.replace("-", ".") for symbol in SYMBOLS]
RETIRED = {"H3F3B": "H3-3B", "GNB2L1": "RACK1", "ATP5E": "ATP5F1E", "H3F3A": "H3-3A", "ATP5G2": "ATP5MC2",
           "IL8": "CXCL8", "MARCH1": "MARCHF1", "SEPT2": "SEPTIN2", "C14orf2": "ATP5MJ"}  # fmt: skip
CURRENT = {old: table("human").by_symbol[new] for old, new in RETIRED.items()}


@pytest.mark.parametrize("prefix", ["GRCh38_", "GRCh38premrna-", "hg19___", "GRCh38______", "human:", "hg38.premrna_"])
@pytest.mark.parametrize(
    "names", [SYMBOLS, IDS, [name.replace("-", ".") for name in SYMBOLS]], ids=["symbol", "id", "R"]
)
def test_the_prefix_of_a_genome_is_taken_off_and_said(prefix, names, caplog):
    assert resolve([prefix + name for name in names]) == IDS
    vocab = Vocab(tuple(IDS))
    assert harmonize([prefix + name for name in names], vocab).columns.tolist() == list(range(len(IDS)))
    assert names is IDS or f"begin with {prefix!r}; it is removed" in caplog.text


def test_a_few_names_without_the_prefix_stay():
    names = ["GRCh38_" + name for name in SYMBOLS] + ["ERCC-00002"]
    assert resolve(names) == [*IDS, None]


@pytest.mark.parametrize(
    "names",
    [
        ["HLA-A", "HLA-B", "HLA-C", "HLA-DRA"],
        ["MT-CO1", "MT-CO2", "MT-ND1"],
        ["gene_1", "gene_2", "gene_3"],
        ["chr1-100-200", "chr1-300-400"],
        ["hsa-miR-21", "hsa-miR-22"],
        ["GRCh38_ACTB", "GRCh38_CD4", "mm10___Actb", "mm10___Cd4"],
        [],
    ],
)
def test_other_prefixes_stay(names):
    assert shared_prefix(names) == ""
    assert clean_names(names) == (names, "")


def test_two_genomes_are_named_as_the_cause():
    names = [f"GRCh38_{name}" for name in SYMBOLS] + ["mm10___Actb", "mm10___Cd4", "mm10___B2m", "mm10___Gapdh"] * 2
    assert "several genomes ('GRCh38_', 'mm10___')" in likely_cause(names)


@pytest.mark.parametrize("sign", ["_", "-", ":", "|", ".", " ", ";", "/"])
def test_joined_names_resolve(sign):
    assert resolve([f"{name}{sign}{gene}" for name, gene in zip(SYMBOLS, IDS, strict=True)]) == IDS
    assert resolve([f"{gene}.3{sign}{name}" for name, gene in zip(SYMBOLS, IDS, strict=True)]) == IDS


def test_names_that_are_not_one_gene():
    assert ensembl_id(f"{IDS[0]};{IDS[1]}") is None
    assert ensembl_id(f"{IDS[0]}_{IDS[0]}") == IDS[0]
    assert [ensembl_id(name) for name in ("XENSG00000075624", "ENSG00000075", "ENST00000331789")] == [None] * 3


@pytest.mark.parametrize("write", ["b'{}'", 'b"{}"', '"{}"', "'{}'"])
def test_names_written_as_bytes_or_in_quotes(write):
    assert resolve([write.format(name) for name in SYMBOLS]) == IDS


@pytest.mark.parametrize("sign", [".", "_", " "])
def test_signs_that_tools_write_for_a_hyphen(sign):
    assert resolve([name.replace("-", sign) for name in SYMBOLS]) == IDS


@pytest.mark.parametrize("hyphen", "\u2010\u2011\u2012\u2013\u2014\u2212\uff0d")
def test_hyphens_of_text_processors_and_signs_without_width(hyphen):
    assert resolve([name.replace("-", hyphen) for name in SYMBOLS]) == IDS
    assert resolve([f"\ufeff{name}\u200b" for name in SYMBOLS]) == IDS


def test_a_symbol_of_its_own_goes_before_one_with_another_sign():
    by_symbol = table("human").by_symbol
    own = [name for name in by_symbol if "." in name and name.replace(".", "-") in by_symbol]
    assert resolve(own) == [by_symbol[name] for name in own]


@given(st.sampled_from(sorted(name for name in table("human").by_symbol if "-" in name and "." not in name)))
def test_any_symbol_survives_make_names(symbol):
    assert resolve([symbol.replace("-", ".")]) == [table("human").by_symbol[symbol]]


def test_mouse_symbols_survive_make_names():
    assert resolve(["mt.Nd1", "mt-Nd1"], species="mouse") == ["ENSG00000198888"] * 2


@pytest.mark.parametrize("vocab_of", ["ids", "symbols"])
def test_retired_symbols_find_their_gene(vocab_of):
    tokens = CURRENT.values() if vocab_of == "ids" else [name.replace("-", "_") for name in RETIRED.values()]
    genes = harmonize([*RETIRED, "nosuch"], Vocab(tuple(tokens)))
    assert genes.columns.tolist() == [*range(len(RETIRED)), -1]
    assert genes.rescued.tolist() == [True] * len(RETIRED) + [False]
    assert resolve(list(RETIRED)) == list(CURRENT.values())


def test_a_token_with_a_retired_name_stands_for_its_gene():
    vocab = Vocab(tuple(RETIRED))
    genes = harmonize([*CURRENT.values()], vocab)
    assert genes.columns.tolist() == list(range(len(RETIRED)))
    assert genes.rescued.all()
    assert harmonize(list(RETIRED), vocab).rescued is None, "their own names are nothing to rescue"
    both = Vocab(("H3F3B", "H3_3B"))
    assert harmonize(["H3F3B", "H3-3B", CURRENT["H3F3B"]], both).columns.tolist() == [0, 1, 1]


def test_the_report_shows_the_counts_that_retired_names_rescue():
    genes = harmonize(["ACTB", "H3F3B", "GNB2L1", "foo"], Vocab((IDS[0], *CURRENT.values())))
    report = genes.report(np.array([60.0, 30.0, 9.0, 1.0]))
    assert (report.n_rescued, report.counts_rescued, report.share_rescued) == (2, 39.0, 0.39)
    assert report.rescued_most == (("H3F3B", 30.0), ("GNB2L1", 9.0))
    assert "2 genes with 39.00% of the counts came by retired names (H3F3B, GNB2L1)" in str(report)
    twice = report + report
    assert (twice.n_rescued, twice.rescued_most[0]) == (4, ("H3F3B", 60.0))
    assert report.to_dict()["rescued_most"] == [["H3F3B", 30.0], ["GNB2L1", 9.0]]
    assert isinstance(twice, GeneReport)


def test_current_names_and_aliases_of_ones_own_go_before_retired_ones():
    vocab = Vocab((*CURRENT.values(), IDS[0]))
    assert harmonize(["H3F3B"], vocab, alias={"H3F3B": IDS[0]}).columns.tolist() == [len(CURRENT)]
    current = table("human").by_symbol
    assert not current.keys() & retired().by_name.keys()


def test_retired_names_of_a_species_that_was_not_asked_for():
    mouse = ["Actb", "Cd3e", "H3f3b", "Gnb2l1", "Malat1", "Gapdh"]
    assert resolve(mouse) == [None] * 6
    assert resolve(["H3F3B"], species="other") == ["H3F3B"]


def test_ambiguous_retired_names_are_left_out_and_counted():
    assert re.search(r"HGNC 2\d{3}-\d\d-\d\d; left out: \d+ previous symbols and \d+ aliases", retired().source)
    assert len(retired().by_name) > 10_000


@pytest.mark.parametrize(
    ("name", "gene"),
    [("2-Sep", "SEPTIN2"), ("Sep-02", "SEPTIN2"), ("02-SEP", "SEPTIN2"), ("6-Mar", "MARCHF6"), ("1-Dec", "DELEC1"),
     ("1-Mar", None), ("2-Mar", None), ("30-Sep", None), ("2-Jun", None)],
)  # fmt: skip
def test_symbols_that_a_spreadsheet_made_dates_of(name, gene):
    """``1-Mar`` was MARCH1 or MARC1: it stays unknown, and is counted as such."""
    expected = table("human").by_symbol[gene] if gene else None
    assert resolve(["ACTB", name]) == [IDS[0], expected]
    found = harmonize(["ACTB", name], Vocab((IDS[0], expected or "other")))
    assert found.columns.tolist() == [0, 1 if gene else -1]
    assert (found.rescued is not None) == (gene is not None)


@pytest.mark.parametrize("ids", [True, False])
def test_genes_of_two_species_are_not_summed(ids):
    """``ACTB`` and ``Actb`` in one file are genes of human and of mouse."""
    symbols = ["ACTB", "CD3E", "GAPDH", "B2M", "CD4"]
    names = [*symbols, "Actb", "Cd3e", "Xist", "H3f3b"]
    vocab = Vocab(tuple(table("human").by_symbol[name] for name in symbols) if ids else tuple(symbols))
    assert harmonize(names, vocab).columns.tolist() == [0, 1, 2, 3, 4, -1, -1, -1, -1]
    assert resolve(names)[5:] == [None] * 4
    assert harmonize([*symbols, "Xist"], Vocab((*symbols, "XIST"))).columns.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_matrix_of_genes_by_cells_is_named_as_the_cause():
    report = harmonize(["cell-1", "cell-2"], Vocab((IDS[0],))).report(np.ones(2))
    for names in (SYMBOLS, IDS):
        with pytest.raises(ValueError, match=r"obs holds genes \(.*\): the matrix is genes x cells, transpose it"):
            report.require(0.5, "f.h5ad", [], names)
    with pytest.raises(ValueError, match="likely cause: another species"):
        report.require(0.5, "f.h5ad", [], ["AAAC-1", "AAAG-1", "ACTB"])


def test_excluded_genes_are_excluded_by_any_of_their_names():
    pattern = re.compile("RACK1|H3F3B")
    genes = harmonize(["GNB2L1", "H3F3B"], Vocab(tuple(CURRENT.values())), exclude=pattern)
    assert genes.excluded.all()
    assert (genes.columns == -1).all()


def test_a_refusal_lists_what_gene_column_can_be():
    report = harmonize(["foo", "bar"], Vocab((IDS[0],))).report(np.ones(2))
    with pytest.raises(ValueError, match=r"likely cause: .*; gene_column can be 'index', 'gene_id'"):
        report.require(0.5, "f.h5ad", ["index", "gene_id"])
