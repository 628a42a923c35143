"""Files whose gene names were changed by tools: the same tokens as from the file before."""

import anndata as ad
import numpy as np
import pytest

from prepared import lists
from scfm.cells.quality import Quality
from scfm.genes.table import table
from scfm.preparation.api import prepare
from scfm.preparation.options import Genes


@pytest.fixture
def symbols(cells):
    """Symbols of the made-up cells, with hyphens and mitochondrial genes among them."""
    names = [table("human").symbols[gene] for gene in cells.var["gene_id"]]
    assert all(names)
    return names


@pytest.fixture
def write(cells, tmp_path):
    def write(name, names, **var):
        part = cells[:50].copy()
        part.var = part.var[[]].assign(**var)
        part.var_names = names
        part.write_h5ad(tmp_path / f"{name}.h5ad")
        return tmp_path / f"{name}.h5ad"

    return write


@pytest.mark.parametrize("style", ["GRCh38_{}", "GRCh38premrna-{}", "b'{}'", "make.names", "joined"])
def test_the_same_tokens(write, symbols, cells, fitted, tmp_path, style):
    ids = list(cells.var["gene_id"])
    if style == "joined":
        names = [f"{symbol}-{gene}" for symbol, gene in zip(symbols, ids, strict=True)]
    elif style == "make.names":
        names = [symbol.replace("-", ".") for symbol in symbols]
    else:
        names = [style.format(symbol) for symbol in symbols]
    expected = lists(prepare(write("ids", ids), tmp_path / "expected", fitted))
    assert lists(prepare(write("changed", names), tmp_path / "got", fitted)) == expected


def test_ids_with_a_prefix_in_a_column(write, cells, fitted, tmp_path, symbols):
    ids = [f"GRCh38_{gene}" for gene in cells.var["gene_id"]]
    store = prepare(write("x", [f"GRCh38_{name}" for name in symbols], gene_ids=ids), tmp_path / "s", fitted)
    assert store.files[0]["genes_from"] == "var['gene_ids']"
    assert lists(store) == lists(prepare(write("y", list(cells.var["gene_id"])), tmp_path / "t", fitted))


def test_max_mito_without_a_mitochondrial_gene_is_refused(write, cells, fitted, tmp_path):
    names = [f"ENSG000001{i:05d}" if i else cells.var["gene_id"].iloc[0] for i in range(cells.n_vars)]
    path = write("x", names, symbol=[f"S{i}" for i in range(cells.n_vars)])
    with pytest.raises(
        ValueError, match=r"x\.h5ad: quality\.max_mito=0\.2 needs mitochondrial genes.*'index', 'symbol'"
    ):
        prepare(path, tmp_path / "s", fitted, quality=Quality(max_mito=0.2), genes=Genes(max_dropped=1))


@pytest.mark.parametrize(
    "name", ["MT-CO1", "MT.CO1", "mt-Co1", "GRCh38_MT-CO1", "ENSG00000198804", "MT-CO1-ENSG00000198804"]
)
def test_max_mito_knows_mitochondrial_genes_by_any_of_their_names(write, symbols, fitted, tmp_path, name):
    known = [symbol for symbol in symbols if not symbol.startswith("MT-")][: len(symbols) - 1]
    prefix = "GRCh38_" if name.startswith("GRCh38") else ""
    names = [name, *(f"{prefix}{symbol}" for symbol in known)]
    names += [f"{prefix}OTHER{i}" for i in range(len(symbols) - len(names))]
    path = write("x", names)
    adata = ad.read_h5ad(path)
    share = np.asarray(adata.X[:, 0].todense()).ravel() / np.asarray(adata.X.sum(1)).ravel()
    limit = float(np.median(share))
    store = prepare(path, tmp_path / "s", fitted, quality=Quality(max_mito=limit))
    assert len(store) == (share <= limit).sum() < 50


@pytest.mark.parametrize("name", ["o05_genome_prefix", "o05_genome_prefix_seurat", "o06_make_names"])
def test_reference_cases(shared, fitted_on, tmp_path, name):
    folder = shared / "cases" / "files"
    withdrawn = "ENSG00000269028"  # MTRNR2L12, a symbol that no table has any more
    tokenizer = fitted_on(folder / "o01_float_category.h5ad", leave_out=withdrawn)
    expected = lists(prepare(folder / "o01_float_category.h5ad", tmp_path / "expected", tokenizer))
    assert lists(prepare(folder / f"{name}.h5ad", tmp_path / "got", tokenizer)) == expected
