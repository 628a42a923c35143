"""Reference cases of files as people have them: the tokens of Geneformer V2 equal plain numpy, or a refusal."""

import importlib.util
import sys

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from prepared import lists
from scfm.preparation.api import prepare
from scfm.tokenizer import MedianTokenizer


@pytest.fixture(scope="module")
def base(shared):
    """The plain numpy tokenizer that lies beside the cases."""
    path = shared / "cases" / "files" / "base.py"
    if not path.is_file():
        pytest.skip("the reference cases (../shared/cases) are not here")
    spec = importlib.util.spec_from_file_location("reference_base", path)
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    spec.loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


@pytest.fixture(scope="module")
def published(base):
    files = {"token_dictionary": "token_dictionary", "gene_median": "gene_median_dictionary"}
    files["gene_mapping"] = "ensembl_mapping_dict"
    return MedianTokenizer(
        name="geneformer_v2",
        max_length=4096,
        specials={"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"},
        **{option: str(base.REF / f"{name}_gc104M.pkl") for option, name in files.items()},
    )


@pytest.fixture(scope="module")
def expected(base):
    counts, _, ids, _, _ = base.load()
    return base.tokens(counts, ids)


CASES = {
    "o01_float_category.h5ad": {},
    "o02_adt_gex.h5ad": {},
    "o03_anndata07.zarr": {},
    "o04_old_scalar_category.h5ad": {},
    "o05_genome_prefix.h5ad": {},
    "o05_genome_prefix_seurat.h5ad": {},
    "o06_make_names.h5ad": {},
    "o07_counts_of_hvgs.h5ad": {},
    "o08_repeated_entries.h5ad": {},
    "o09_labelled.h5ad": {},
    "o11_no_feature_type.h5": {},
    "o12_tenx.h5": {},
    "o12_old_with_obsm.h5ad": {},
    "o15_index_name.h5ad": {"gene_column": "feature_id"},
}


@pytest.mark.parametrize("name", CASES)
def test_tokens_equal_plain_numpy(base, published, expected, tmp_path, name):
    store = prepare(base.DATA.parent / "cases" / "files" / name, tmp_path / "s", published, **CASES[name])
    assert lists(store) == expected


def test_samples_of_one_folder(base, published, expected, tmp_path):
    folder = base.DATA.parent / "cases" / "files" / "o13_geo"
    with pytest.raises(ValueError, match="several samples in one folder are several inputs"):
        prepare(folder, tmp_path / "s", published)
    assert lists(prepare(folder / "*matrix.mtx", tmp_path / "s", published)) == expected


def test_ambient_corrected_counts(base, published, tmp_path):
    counts, _, ids, _, _ = base.load()
    values = counts.astype(float)
    values.data = np.round(values.data * np.random.default_rng(0).uniform(0.8, 1, values.nnz), 4)
    path = base.DATA.parent / "cases" / "files" / "o14_soupx.h5ad"
    store = prepare(path, tmp_path / "s", published, counts="decimals_ok")
    assert lists(store) == base.tokens(csr_matrix(values.astype(np.float32)), ids)


def test_five_columns_are_refused(base, published, tmp_path):
    with pytest.raises(ValueError, match="lines of 5 numbers, expected 3"):
        prepare(base.DATA.parent / "cases" / "files" / "o16_star5", tmp_path / "s", published)
