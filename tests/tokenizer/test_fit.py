"""Tokenizers fitted on a corpus: deterministic, frozen, and themselves again from their state."""

import json

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scfm.genes import resolve
from scfm.tokenizer import GeneStatistics, RankTokenizer, from_dict, read_lines

NAMES = ["ACTB", "HLA-A", "MALAT1", "RPL13", "MIR21", "CD3E", "MT-CO1", "AC012345.9", "GAPDH", "NEAT1"]
CONFIGS = ["iseeek", "tgpt", "geneformer_v1", "geneformer_v2"]


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    dense = rng.poisson([9, 7, 50, 30, 2, 3, 20, 1, 9, 0.5], (200, 10))
    dense[:, 0] += 1
    return csr_matrix(dense)


@pytest.fixture(scope="module")
def statistics(counts):
    gathered = GeneStatistics()
    gathered.update(counts, resolve(NAMES))
    return gathered


@pytest.mark.parametrize("name", CONFIGS)
def test_state_through_json_gives_the_same_tokens(name, build, statistics, counts):
    unfitted = build(name)
    tokenizer = unfitted.fit(statistics)
    assert (unfitted.fitted, tokenizer.fitted, tokenizer.name) == (False, True, name)
    again = from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert type(again) is type(tokenizer)
    assert again.to_dict() == tokenizer.to_dict()
    columns = tokenizer.harmonize(NAMES).columns
    assert np.array_equal(again.harmonize(NAMES).columns, columns)
    ids, also = (one.encode(counts, columns) for one in (tokenizer, again))
    assert np.array_equal(ids.values, also.values)
    assert from_dict(unfitted.to_dict()).to_dict() == unfitted.to_dict()
    assert ids.values.max() < len(tokenizer.vocab)
    assert ids.lengths.max() <= tokenizer.max_length


@pytest.mark.parametrize("name", CONFIGS)
def test_vocabulary_does_not_depend_on_the_order_of_cells_or_columns(name, build, statistics, counts):
    order = np.random.default_rng(1).permutation(10)
    other = GeneStatistics()
    for start in (100, 0):
        other.update(csr_matrix(counts[start : start + 100, order]), resolve([NAMES[i] for i in order]))
    a, b = build(name).fit(statistics), build(name).fit(other)
    assert a.to_dict() == b.to_dict()


def test_special_ids(build, statistics):
    want = {
        "iseeek": ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"),
        "tgpt": ("<pad>", "</b>", "</s>", "<unk>"),
        "geneformer_v1": ("<pad>", "<mask>"),
        "geneformer_v2": ("<pad>", "<mask>", "<cls>", "<eos>"),
    }
    for name, specials in want.items():
        vocab = build(name).fit(statistics).vocab
        assert vocab.tokens[: len(specials)] == specials
        assert sorted(vocab.specials.values()) == list(range(len(specials)))
    with pytest.raises(ValueError, match="needs a mask token"):
        build("tgpt").fit(statistics).vocab.special("mask")


def test_genes_that_a_vocabulary_takes(build, statistics):
    v2 = build("geneformer_v2").fit(statistics).vocab.tokens[4:]
    assert set(v2) == set(resolve(["ACTB", "HLA-A", "RPL13", "CD3E", "MT-CO1", "GAPDH"]))
    assert list(v2) == sorted(v2)
    v1 = build("geneformer_v1").fit(statistics).vocab.tokens[2:]
    assert set(v1) == {*v2, *resolve(["MIR21"])}
    assert set(build("iseeek").fit(statistics).vocab.tokens[5:]) == {"ACTB", "HLA_A", "MIR21", "CD3E", "GAPDH"}
    assert "RPL13" in build("iseeek", drop_genes=None).fit(statistics).vocab.ids
    frequent = build("tgpt", min_cells=200).fit(statistics).vocab.tokens[4:]
    assert set(frequent) <= {"ACTB", "HLA_A", "GAPDH"}


def test_symbols_come_by_number_of_cells(build, statistics):
    tokens = build("tgpt").fit(statistics).vocab.tokens[4:]
    cells = dict(zip(statistics.genes, statistics.n_cells, strict=True))
    found = [cells[gene] for gene in resolve([token.replace("_", "-") for token in tokens])]
    assert found == sorted(found, reverse=True)


def test_medians_are_those_of_the_corpus(build, statistics):
    tokenizer = build("geneformer_v2").fit(statistics)
    medians = dict(zip(statistics.genes, statistics.medians(), strict=True))
    assert tokenizer.medians.tolist() == [1.0] * 4 + [medians[gene] for gene in tokenizer.vocab.tokens[4:]]


@pytest.mark.parametrize(("name", "before", "after"), [("iseeek", 1, 2), ("tgpt", 1, 2), ("geneformer_v2", 2, 3)])
def test_frame_and_length(name, before, after, build, statistics, counts):
    tokenizer = build(name, max_length=5).fit(statistics)
    ids = tokenizer.encode(counts, tokenizer.harmonize(NAMES).columns)
    assert set(ids.lengths) == {5}
    assert {ids[i][0] for i in range(len(ids))} == {before}
    assert {ids[i][-1] for i in range(len(ids))} == {after}
    v1 = build("geneformer_v1", max_length=3).fit(statistics)
    assert set(v1.encode(counts, v1.harmonize(NAMES).columns).lengths) == {3}


def test_cells_without_a_gene_of_the_vocabulary_are_empty(build, statistics):
    tokenizer = build("iseeek").fit(statistics)
    genes = tokenizer.harmonize(["MALAT1", "ACTB"])
    ids = tokenizer.encode(csr_matrix(np.array([[5, 0], [5, 1]])), genes.columns)
    assert ids.lengths.tolist() == [0, 3]


def test_a_total_below_its_counts_is_told(build, statistics, counts):
    tokenizer = build("geneformer_v2").fit(statistics)
    with pytest.warns(UserWarning, match="smaller than the sum of their counts"):
        tokenizer.encode(counts, tokenizer.harmonize(NAMES).columns, np.ones(200))


def test_log_normalized_counts_give_the_same_ranks(build, statistics, counts):
    tokenizer = build("iseeek").fit(statistics)
    columns = tokenizer.harmonize(NAMES).columns
    scaled = counts.multiply(1e4 / counts.sum(axis=1)).tocsr()
    assert np.array_equal(tokenizer.encode(scaled.log1p(), columns).values, tokenizer.encode(counts, columns).values)


def test_a_user_alias_goes_before_the_tokenizers_own(build, statistics):
    tokenizer = build("iseeek").fit(statistics)
    assert tokenizer.harmonize(["mine"]).columns.tolist() == [-1]
    assert tokenizer.harmonize(["mine"], alias={"MINE": "ACTB"}).columns.tolist() == [tokenizer.vocab.ids["ACTB"]]


def test_text(build, tmp_path):
    path = tmp_path / "cells.txt"
    path.write_text("ACTB HLA-A CD3E\n\n  \nHLA.A HLA_A nothing ACTB\nnothing\n")
    blocks = list(read_lines(path, size=2))
    assert [len(block) for block in blocks] == [2, 2, 1]
    tokenizer = build("tgpt").fit_text(line for block in blocks for line in block)
    assert tokenizer.vocab.tokens[4:] == ("ACTB", "HLA_A", "nothing", "CD3E")
    known = build("tgpt").fit_text(["ACTB HLA_A", "ACTB"])
    ids = known.encode_text(line for block in blocks for line in block)
    assert [ids[i].tolist() for i in range(3)] == [[1, 4, 5, 2], [1, 5, 4, 2], []]
    assert ids.values.dtype == np.uint16
    assert len(known.encode_text([])) == 0
    with pytest.raises(FileNotFoundError, match="no text corpus"):
        next(read_lines(tmp_path / "none.txt"))


def test_refusals(build, statistics, tmp_path):
    with pytest.raises(ValueError, match="has no vocabulary yet"):
        build("iseeek").harmonize(["ACTB"])
    with pytest.raises(ValueError, match="has a vocabulary already"):
        build("iseeek").fit(statistics).fit(statistics)
    with pytest.raises(ValueError, match="has a vocabulary already"):
        build("iseeek").fit(statistics).fit_text(["ACTB"])
    with pytest.raises(ValueError, match="no symbols"):
        build("iseeek").fit_text(["", " "])
    with pytest.raises(
        ValueError, match="no gene is left for the vocabulary, 9 are found in any cell; .*min_cells=999"
    ):
        build("geneformer_v2", min_cells=999).fit(statistics)
    with pytest.raises(ValueError, match="no gene fits into a cell"):
        build("iseeek", max_length=2)
    with pytest.raises(ValueError, match="needs both of one release"):
        build("geneformer_v2", gene_median="m.pkl")
    (tmp_path / "t.json").write_text(json.dumps({"A": 0}))
    with pytest.raises(ValueError, match=r"has no special token '\[UNK\]', which iseeek needs"):
        build("iseeek", token_dictionary=str(tmp_path / "t.json"))
    with pytest.raises(ValueError, match="kind 'mine'; expected one of median, rank"):
        from_dict({"kind": "mine"})


def test_a_users_own_tokenizer_comes_back_from_its_state(build, statistics):
    class Mine(RankTokenizer):
        kind = "mine_too"

    tokenizer = Mine(name="x", max_length=9, specials={"pad": "<pad>"}).fit(statistics)
    assert type(from_dict(tokenizer.to_dict())) is Mine
