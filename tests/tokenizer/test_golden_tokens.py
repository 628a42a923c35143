"""The published tokenizers, reproduced: Geneformer's ids at every position, tGPT's and iSEEEK's lists."""

import gzip
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_matrix

from scfm.tokenizer import from_dict, read_lines


@pytest.fixture(scope="module")
def golden(shared):
    return json.loads((shared / "reference" / "golden_geneformer_tokens.json").read_text())


@pytest.fixture(scope="module")
def counts(golden):
    triples = [(cell, gene, x) for cell, genes in enumerate(golden["counts"]) for gene, x in genes]
    cell, gene, x = np.array(triples).T
    return csr_matrix((x.astype(np.float32), (cell, gene)), shape=(16, len(golden["genes"])))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_geneformer_at_every_position(golden, counts, published, version):
    tokenizer = published(version)
    genes = tokenizer.harmonize(golden["genes"])
    ids = tokenizer.encode(counts, genes.columns, np.array(golden["n_counts"]))
    want = golden[f"input_ids_{version.upper()}"]
    assert [ids[i].tolist() for i in range(16)] == want
    assert ids.lengths.tolist() == golden[f"length_{version.upper()}"]
    assert len(ids.values) == {"v1": 15625, "v2": 15657}[version]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_versions_cases_and_symbols_lead_to_the_same_tokens(golden, counts, published, version):
    tokenizer = published(version)
    plain = tokenizer.harmonize(golden["genes"]).columns
    assert np.array_equal(tokenizer.harmonize([f"{name.lower()}.7" for name in golden["genes"]]).columns, plain)
    order = np.random.default_rng(0).permutation(len(plain))
    shuffled = tokenizer.harmonize([golden["genes"][i] for i in order])
    totals = np.array(golden["n_counts"], dtype=np.float64)
    ids = tokenizer.encode(csr_matrix(counts[:, order]), shuffled.columns, totals)
    assert np.array_equal(ids.values, tokenizer.encode(counts, plain, totals).values)


@pytest.mark.parametrize(("version", "size", "specials"), [("v1", 25426, 2), ("v2", 20275, 4)])
def test_published_vocabulary(published, version, size, specials):
    tokenizer = published(version)
    assert len(tokenizer.vocab) == size
    assert len(tokenizer.vocab.gene_ids) == size - specials
    assert tokenizer.vocab.special("pad") == 0
    assert tokenizer.vocab.special("mask") == 1
    assert (tokenizer.medians > 0).all()


def test_state_goes_through_json_and_needs_no_file(golden, counts, published):
    tokenizer = published("v2")
    again = from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert again.vocab.hash == tokenizer.vocab.hash
    assert np.array_equal(again.medians, tokenizer.medians)
    assert "pkl" not in json.dumps(tokenizer.to_dict()["options"])
    names = [*golden["genes"], "c-k-ras", "HLA-A", "TP53"]
    assert np.array_equal(again.harmonize(names).columns, tokenizer.harmonize(names).columns)


def test_published_alias_map_is_followed(shared, published):
    """Every alias of the published map leads to the token that the map says, as upstream does."""
    tokenizer = published("v2")
    lines = (shared / "reference" / "geneformer_v2_alias_map.tsv.gz").read_bytes()
    rows = [line.split("\t") for line in gzip.decompress(lines).decode().splitlines()[1:]]
    columns = tokenizer.harmonize([name for name, _ in rows]).columns
    wrong = [name for (name, gene), column in zip(rows, columns, strict=True) if column != tokenizer.vocab.ids[gene]]
    assert not wrong, wrong[:10]


def test_published_corpus_is_within_the_vocabulary(shared, published):
    cells = pq.read_table(shared / "reference" / "geneformer" / "genecorpus_500_samples.parquet")["input_ids"]
    genes = set(published("v1").vocab.gene_ids.tolist())
    assert set(cells.combine_chunks().flatten().to_pylist()) <= genes


def test_tgpt_lists_round_trip(shared, build):
    tokenizer = build("tgpt", token_dictionary=str(shared / "reference" / "tgpt_tokenizer.json"))
    vocab = tokenizer.vocab
    assert (len(vocab), dict(vocab.specials)) == (21150, {"pad": 0, "bos": 1, "eos": 2, "unk": 3})
    (lines,) = read_lines(shared / "reference" / "tgpt_val.txt")
    ids = tokenizer.encode_text(lines)
    assert set(ids.lengths) == {64}
    for row, line in enumerate(lines):
        assert [vocab.tokens[i] for i in ids[row]] == ["</b>", *line.split(), "</s>"]
    assert vocab.ids["TMSB4X"] == 4
    assert {vocab.ids[word] for word in ("patient", "TCGA", "Brain", "unused1", "extra_id_0")} <= set(vocab.words)
    assert {vocab.ids[gene] for gene in ("C1orf43", "TAZ", "OS9", "HLA_A", "MTRNR2L8")} <= set(vocab.gene_ids.tolist())


def test_tgpt_counts_equal_its_lists(shared, build):
    """A cell whose counts fall along the list gives the list's ids, dashes and all."""
    tokenizer = build("tgpt", token_dictionary=str(shared / "reference" / "tgpt_tokenizer.json"))
    ids = tokenizer.vocab.ids
    assert tokenizer.harmonize(["HLA-A", "hla-a", "Actb", "HLA.B"]).columns.tolist() == [
        ids["HLA_A"],
        ids["HLA_A"],
        ids["ACTB"],
        ids["HLA_B"],
    ]
    line = (shared / "reference" / "tgpt_val.txt").read_text().splitlines()[0]
    counts = csr_matrix(np.arange(62, 0, -1)[None])
    got = tokenizer.encode(counts, tokenizer.harmonize([name.replace("_", "-") for name in line.split()]).columns)
    assert got[0].tolist() == tokenizer.encode_text([line])[0].tolist()


def test_ribosomal_and_mitochondrial_genes_are_no_tgpt_tokens(shared, build):
    tokenizer = build("tgpt", token_dictionary=str(shared / "reference" / "tgpt_tokenizer.json"))
    names = ["RPL13", "RPS2", "MT-CO1", "MALAT1", "NEAT1", "XIST", "ENSG00000251562", "ACTB"]
    genes = tokenizer.harmonize(names)
    assert genes.excluded.tolist() == [True] * 7 + [False]
    assert (genes.columns >= 0).tolist() == [False] * 7 + [True]


@pytest.mark.parametrize("name", ["iseeek_train.txt", "iseeek_test.txt"])
def test_iseeek_lists_round_trip(shared, build, name):
    lines = [line for block in read_lines(shared / "reference" / name, size=64) for line in block]
    tokenizer = build("iseeek").fit_text(lines)
    vocab = tokenizer.vocab
    assert [vocab.special(role) for role in ("unk", "cls", "eos", "pad", "mask")] == [0, 1, 2, 3, 4]
    ids = tokenizer.encode_text(lines)
    assert set(ids.lengths) == {128}
    for row, line in enumerate(lines):
        assert [vocab.tokens[i] for i in ids[row]] == ["[CLS]", *line.split()[:126], "[SEP]"]


def test_iseeek_tokens_are_in_the_vocabulary_of_tgpt(shared, build):
    tokenizer = build("tgpt", token_dictionary=str(shared / "reference" / "tgpt_tokenizer.json"))
    for lines in read_lines(shared / "reference" / "iseeek_train.txt", size=250):
        for line in lines:
            assert all(symbol in tokenizer.vocab.ids for symbol in line.split())
