"""What a run says of its cells and genes; dry runs."""

import pandas as pd
import pytest

from scfm.preparation import api
from scfm.preparation.api import prepare


def test_the_report_accounts_for_every_gene_and_count(tmp_path, fitted, cells):
    adata = cells[:50].copy()
    names = list(adata.var_names)
    names[3] = "not a gene"
    adata.var = pd.DataFrame(index=names)
    adata.write_h5ad(tmp_path / "x.h5ad")
    genes = prepare(tmp_path / "x.h5ad", tmp_path / "s", fitted).files[0]["genes"]
    assert genes["n_genes"] == 200
    assert genes["n_dropped"] == 1
    assert genes["counts"] == adata.X.sum()
    assert genes["counts_dropped"] == adata.X[:, 3].sum()


def test_the_report_is_one_page_with_pictures(store):
    page = (store.path / "report.html").read_text()
    assert page.count("<svg") >= 5
    assert "one cell.h5ad" in page
    assert "http" not in page
    assert '<section class="summary"><p>' in page, "the template of all reports"
    assert page.count("<th>one cell.h5ad</th>") == 1
    assert "<th>all</th>" in page


def test_a_dry_run_writes_only_its_report(files, fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "SAMPLE_CELLS", 30)
    report = api.check_sample(files, tmp_path / "s", fitted, obs=["cell_type"])
    assert report.name == "s.dry_run.html"
    assert "60 of 60 cells" in report.read_text()
    assert [path.name for path in tmp_path.iterdir()] == [report.name]
    with pytest.raises(ValueError, match="no column"):
        api.check_sample(files, tmp_path / "s", fitted, obs=["nosuch"])
