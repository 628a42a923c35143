"""Preparing: the same bytes however the work is cut, nothing lost, everything counted, bad input refused."""

import hashlib
import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_matrix, csr_matrix

from scfm.data import execute as module
from scfm.data import rehearse as rehearse_module
from scfm.data.fingerprint import cell_hashes
from scfm.data.options import Genes
from scfm.data.pool import Local
from scfm.data.prepare import append, prepare
from scfm.data.quality import Quality
from scfm.data.store import TokenStore
from scfm.data.synthetic import synthetic_cells
from scfm.data.verify import verify
from scfm.tokenizer import GeneStatistics, MedianTokenizer, RankTokenizer

SPECIALS = {"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"}


def median_tokenizer(**options):
    return MedianTokenizer(name="geneformer_v2", max_length=64, specials=SPECIALS, **options)


def rank_tokenizer(**options):
    return RankTokenizer(name="ranks", max_length=32, specials=SPECIALS, **options)


def contents(folder):
    """Checksum of every file of a store."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(Path(folder).iterdir())}


def lists(store):
    got = store.gather(np.arange(len(store)))
    return [got[i].tolist() for i in range(len(got))]


@pytest.fixture(scope="module")
def cells():
    return synthetic_cells(n_cells=300, n_genes=200, seed=1)


@pytest.fixture(scope="module")
def files(cells, tmp_path_factory):
    """Two files with spaces and other letters in their names."""
    folder = tmp_path_factory.mktemp("in put ä")
    paths = [folder / "one cell.h5ad", folder / "zwei.h5ad"]
    cells[:170].write_h5ad(paths[0], compression="gzip")
    cells[170:].write_h5ad(paths[1])
    return paths


@pytest.fixture(scope="module")
def fitted(files):
    statistics = GeneStatistics()
    for path in files:
        adata = ad.read_h5ad(path)
        statistics.update(csr_matrix(adata.X), list(adata.var["gene_id"]))
    return median_tokenizer().fit(statistics)


@pytest.fixture(scope="module")
def store(files, fitted, tmp_path_factory):
    return prepare(files, tmp_path_factory.mktemp("out") / "s", fitted, obs=["cell_type", "pseudotime"], group="donor")


def test_every_cell_is_what_the_tokenizer_says(store, files, fitted, cells):
    columns = fitted.harmonise(list(cells.var_names)).columns
    expected = fitted.encode(csr_matrix(cells.X), columns)
    assert lists(store) == [expected[i].tolist() for i in range(cells.n_obs)]
    assert store.names(np.arange(cells.n_obs)) == list(cells.obs_names)
    assert store.columns == ("cell_type", "pseudotime", "donor")
    assert store.group == "donor"
    assert [store.categories("cell_type")[code] for code in store.obs("cell_type")] == list(cells.obs["cell_type"])
    np.testing.assert_allclose(store.obs("pseudotime"), cells.obs["pseudotime"].to_numpy(), rtol=1e-6)
    assert store.categories("file") == ("one cell.h5ad", "zwei.h5ad")
    assert np.bincount(store.obs("file")).tolist() == [170, 130]
    assert store.vocab.hash == fitted.vocab.hash
    hashes = cell_hashes(csr_matrix(cells.X), columns, fitted.vocab)
    assert store.overlap(hashes).all()


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("block_size", [1, 37, 1000])
def test_bytes_do_not_depend_on_workers_and_blocks(files, fitted, tmp_path, workers, block_size, reference):
    prepare(files, tmp_path / "s", fitted, cells_per_part=50, workers=workers, block_size=block_size, obs=["donor"])
    assert contents(tmp_path / "s") == reference


def test_bytes_do_not_depend_on_processes(files, fitted, tmp_path, reference):
    options = {"workers": 2, "executor": Local(threads=0)}
    prepare(files, tmp_path / "s", fitted, cells_per_part=50, obs=["donor"], **options)
    assert contents(tmp_path / "s") == reference


@pytest.fixture(scope="module")
def reference(files, fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "s"
    prepare(files, folder, fitted, cells_per_part=50, obs=["donor"])
    return contents(folder)


@pytest.mark.parametrize("kind", ["lzf", "csc", "dense", "float64", "layer"])
def test_bytes_do_not_depend_on_compression_and_layout(files, fitted, tmp_path, kind, reference):
    paths = []
    for path in files:
        adata, options = ad.read_h5ad(path), {}
        if kind == "lzf":
            options["compression"] = "lzf"
        if kind == "csc":
            adata.X = csc_matrix(adata.X)
        if kind == "dense":
            adata.X = adata.X.toarray()
        if kind == "float64":
            adata.X = adata.X.astype(np.float64)
        if kind == "layer":
            adata.layers["counts"] = adata.X.copy()
            adata.X = np.log1p(adata.X)
        paths.append(tmp_path / path.name)
        adata.write_h5ad(paths[-1], **options)
    prepare(paths, tmp_path / "s", fitted, cells_per_part=50, obs=["donor"])
    got = contents(tmp_path / "s")
    same = [name for name in reference if name.endswith("arrow")]
    assert {name: got[name] for name in same} == {name: reference[name] for name in same}
    if kind != "layer":  # there, scfm.json tells where the counts were found
        assert got == reference


def test_columns_in_another_order_give_the_same_tokens(files, fitted, tmp_path, store):
    paths = []
    for path in files:
        adata = ad.read_h5ad(path)
        paths.append(tmp_path / path.name)
        adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy().write_h5ad(paths[-1])
    again = prepare(paths, tmp_path / "s", fitted)
    assert lists(again) == lists(store)
    assert (again.hashes == store.hashes).all()


def test_an_unfitted_tokenizer_is_fitted_on_the_corpus(files, fitted, tmp_path, cells):
    store = prepare(files, tmp_path / "s", median_tokenizer(), cells_per_part=40)
    assert store.vocab.hash == fitted.vocab.hash
    np.testing.assert_allclose(store.tokenizer["medians"], fitted.to_dict()["medians"], rtol=0)
    assert prepare(files, tmp_path / "r", rank_tokenizer(), counts="lognorm_ok").vocab.specials


def test_shuffled_is_a_permutation_that_mixes_the_files(files, fitted, store, tmp_path):
    options = {"obs": ["cell_type"], "cells_per_part": 64, "shuffle": True}
    first = prepare(files, tmp_path / "a", fitted, **options)
    prepare(files, tmp_path / "b", fitted, block_size=7, **options)
    other = prepare(files, tmp_path / "c", fitted, **{**options, "seed": 1})
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert sorted(map(tuple, lists(first))) == sorted(map(tuple, lists(store)))
    assert first.names(np.arange(300)) != other.names(np.arange(300))
    by_name = dict(zip(store.names(np.arange(300)), lists(store), strict=True))
    assert [by_name[name] for name in first.names(np.arange(300))] == lists(first)
    half = first.obs("file")[:150]
    assert 40 < half.sum() < 90  # 65 expected, sd 5


def test_repeated_cells_are_reported_or_dropped(files, fitted, tmp_path, store):
    extra = tmp_path / "again.h5ad"
    adata = ad.read_h5ad(files[0])[:20].copy()
    adata.obs_names = [f"new{i}" for i in range(20)]
    adata.write_h5ad(extra)
    told = prepare([*files, extra], tmp_path / "a", fitted, duplicates="report", cells_per_part=64)
    assert [file["repeated"] for file in told.files] == [0, 0, 20]
    assert len(told) == 320
    for shuffle in (False, True):
        left = prepare(
            [*files, extra], tmp_path / f"{shuffle}", fitted, duplicates="drop", cells_per_part=64, shuffle=shuffle
        )
        assert len(left) == 300
        assert left.files[2]["dropped"] == {"occurred before": 20}
        assert sorted(left.hashes) == sorted(store.hashes)


def test_quality_rules_drop_and_count(files, fitted, tmp_path):
    adata = ad.read_h5ad(files[0])
    totals = np.asarray(adata.X.sum(1)).ravel()
    adata.obs["is_primary_data"] = np.arange(adata.n_obs) % 2 == 0
    adata.write_h5ad(tmp_path / "x.h5ad")
    cut = float(np.median(totals))
    quality = Quality(min_counts=cut, is_primary_data=True, expression="batch != 'batch 1'")
    store = prepare(tmp_path / "x.h5ad", tmp_path / "s", fitted, quality=quality)
    kept = (totals >= cut) & adata.obs["is_primary_data"].to_numpy() & (adata.obs["batch"] != "batch 1").to_numpy()
    assert store.names(np.arange(len(store))) == list(adata.obs_names[kept])
    report = store.files[0]
    assert report["dropped"]["min_counts"] == (totals < cut).sum()
    assert report["kept"] == kept.sum() == report["cells"] - sum(report["dropped"].values())
    with pytest.raises(ValueError, match="cannot be evaluated"):
        prepare(tmp_path / "x.h5ad", tmp_path / "t", fitted, quality=Quality(expression="nosuch > 1"))
    with pytest.raises(ValueError, match="only obs columns"):
        Quality(expression="@pd.io")
    with pytest.raises(ValueError, match="filter_pass"):
        prepare(tmp_path / "x.h5ad", tmp_path / "t", fitted, quality=Quality(filter_pass=True))


def test_mitochondrial_share(tmp_path):
    genes = ["MT-CO1", "MT-ND1", "CD3E", "ACTB"]
    counts = csr_matrix(np.array([[5, 0, 3, 2], [0, 1, 5, 4], [0, 0, 5, 5]], dtype=np.int32))
    ad.AnnData(counts, var=pd.DataFrame(index=genes)).write_h5ad(tmp_path / "x.h5ad")
    store = prepare(tmp_path / "x.h5ad", tmp_path / "s", rank_tokenizer(), quality=Quality(max_mito=0.2))
    assert store.names(np.arange(len(store))) == ["1", "2"]
    assert store.files[0]["dropped"] == {"max_mito": 1}


def test_cells_without_counts(cells, fitted, tmp_path):
    adata = cells[:30].copy()
    dense = adata.X.toarray()
    dense[7] = 0
    adata.X = csr_matrix(dense)
    adata.write_h5ad(tmp_path / "x.h5ad")
    with pytest.raises(ValueError, match=rf"x\.h5ad: cell '{adata.obs_names[7]}' \(row 7\) has no counts"):
        prepare(tmp_path / "x.h5ad", tmp_path / "s", fitted)
    assert not (tmp_path / "s").exists()
    store = prepare(tmp_path / "x.h5ad", tmp_path / "s", fitted, empty="drop", overwrite=True)
    assert len(store) == 29
    assert store.files[0]["dropped"] == {"no counts": 1}


def test_counts_beside_the_tokens(cells, fitted, tmp_path):
    cells[:20].write_h5ad(tmp_path / "x.h5ad")
    store = prepare(tmp_path / "x.h5ad", tmp_path / "s", fitted, keep_counts=True)
    import datasets

    rows = datasets.load_from_disk(str(store.path))
    counts, columns = cells.X.toarray()[:20], fitted.harmonise(list(cells.var_names)).columns
    for i in (0, 19):
        by_token = {int(columns[g]): counts[i, g] for g in range(cells.n_vars)}
        expected = [by_token.get(token, 0.0) for token in rows[i]["input_ids"]]
        np.testing.assert_allclose(rows[i]["counts"], expected, rtol=1e-6)


def test_given_totals(cells, fitted, tmp_path):
    adata = cells[:20].copy()
    adata.obs["n_counts"] = np.asarray(adata.X.sum(1)).ravel() * 2.0
    adata.write_h5ad(tmp_path / "x.h5ad")
    store = prepare(tmp_path / "x.h5ad", tmp_path / "s", fitted, n_counts="n_counts")
    assert json.loads((store.path / "manifest.json").read_text())["options"]["n_counts"] == "n_counts"
    with pytest.raises(ValueError, match="n_counts='other' is no column of obs"):
        prepare(tmp_path / "x.h5ad", tmp_path / "t", fitted, n_counts="other")


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


def test_labels_of_many_files(cells, fitted, tmp_path):
    one, two = cells[:40].copy(), cells[40:80].copy()
    one.obs["donor"], two.obs["donor"] = 7, 11.0
    one.obs["site"] = "lung"
    two.obs["cell_type"] = two.obs["cell_type"].astype(str).replace("type 1", np.nan)
    one.write_h5ad(tmp_path / "1.h5ad")
    two.write_h5ad(tmp_path / "2.h5ad")
    both = [tmp_path / "1.h5ad", tmp_path / "2.h5ad"]
    store = prepare(both, tmp_path / "s", fitted, obs=["cell_type"], group="donor")
    assert store.categories("donor") == ("11", "7")
    assert (store.obs("cell_type") == -1).sum() == (cells.obs["cell_type"][40:80] == "type 1").sum()
    with pytest.raises(ValueError, match=r"2\.h5ad: obs has no column 'site'.*missing=allow"):
        prepare(both, tmp_path / "t", fitted, obs=["site"])
    allowed = prepare(both, tmp_path / "t", fitted, obs=["site"], missing="allow", overwrite=True)
    assert allowed.obs("site").tolist() == [0] * 40 + [-1] * 40
    two.obs["site"] = 3.0
    two.write_h5ad(tmp_path / "2.h5ad")
    with pytest.raises(ValueError, match="holds numbers in .*2.h5ad but names in .*1.h5ad"):
        prepare(both, tmp_path / "u", fitted, obs=["site"])


def test_bad_files_are_refused_or_skipped(files, fitted, tmp_path, caplog):
    bad = tmp_path / "bad.h5ad"
    bad.write_bytes(files[0].read_bytes()[:20_000])
    with pytest.raises(ValueError, match=r"bad\.h5ad"):
        prepare([files[0], bad, files[1]], tmp_path / "s", fitted)
    store = prepare([files[0], bad, files[1]], tmp_path / "s", fitted, on_error="skip")
    assert len(store) == 300
    assert "bad.h5ad" in store.files[1]["skipped"]
    assert str(tmp_path) not in store.files[1]["skipped"]
    assert "Skipped" in caplog.text
    with pytest.raises(ValueError, match="every input was skipped"):
        prepare([bad], tmp_path / "t", fitted, on_error="skip")


def test_a_nan_deep_in_a_file_names_it(files, fitted, tmp_path, cells):
    adata = cells.copy()
    adata.X = adata.X.astype(np.float32)
    adata.X.data[adata.X.indptr[257] + 3] = np.nan
    adata.write_h5ad(tmp_path / "x.h5ad")
    with pytest.raises(ValueError, match=r"x\.h5ad.*(cell257.*NaN|NaN.*cell257)"):
        prepare(tmp_path / "x.h5ad", tmp_path / "s", fitted, block_size=16)
    assert not (tmp_path / "s").exists()


def test_a_foreign_species_is_refused_before_anything_is_written(fitted, tmp_path, cells):
    adata = cells[:20].copy()
    adata.var = pd.DataFrame(index=[f"ENSMUSG{i:011d}" for i in range(adata.n_vars)])
    adata.write_h5ad(tmp_path / "x.h5ad")
    with pytest.raises(ValueError, match=r"x\.h5ad.*mouse"):
        prepare(tmp_path / "x.h5ad", tmp_path / "s", fitted)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"obs": ["nosuch"]}, ValueError, "no column 'nosuch'; it has"),
        ({"obs": ["length"]}, ValueError, "a store has a column of this name"),
        ({"layer": "nosuch"}, ValueError, "nosuch"),
        ({"empty": "maybe"}, ValueError, "empty='maybe'; expected refuse or drop"),
        ({"duplicates": "x"}, ValueError, "keep or report or drop"),
        ({"cells_per_part": 0}, ValueError, "at least one cell"),
        ({"workers": 0}, ValueError, "at least 1"),
        ({"counts": "lognorm_ok"}, ValueError, "needs counts"),
        ({"quality": Quality(min_counts=1e9)}, ValueError, "no cell is left of 300: 300 min_counts"),
        ({"genes": Genes(alias="nosuch.tsv")}, FileNotFoundError, "nosuch"),
        ({"genes": Genes(policy="sum")}, ValueError, "collapse or first or refuse"),
    ],
)
def test_refusals(files, fitted, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        prepare(files, tmp_path / "s", fitted, **options)
    assert not (tmp_path / "s").exists()


def test_inputs(files, fitted, tmp_path, monkeypatch):
    monkeypatch.chdir(files[0].parent)
    store = prepare("*.h5ad", tmp_path / "s", fitted)
    assert store.categories("file") == ("one cell.h5ad", "zwei.h5ad")
    with pytest.raises(FileNotFoundError, match="no file matches"):
        prepare("*.loom", tmp_path / "t", fitted)
    with pytest.raises(FileNotFoundError, match="there is no input"):
        prepare("nosuch.h5ad", tmp_path / "t", fitted)
    with pytest.raises(ValueError, match="twice"):
        prepare([files[0], files[0]], tmp_path / "t", fitted)
    with pytest.raises(ValueError, match="no input"):
        prepare([], tmp_path / "t", fitted)
    with pytest.raises(ValueError, match="share of counts"):
        Genes(max_dropped=2)


def test_an_existing_output_is_kept_unless_told(files, fitted, tmp_path):
    prepare(files[0], tmp_path / "s", fitted)
    before = contents(tmp_path / "s")
    with pytest.raises(FileExistsError, match="overwrite=true"):
        prepare(files[1], tmp_path / "s", fitted)
    assert contents(tmp_path / "s") == before
    assert len(prepare(files[1], tmp_path / "s", fitted, overwrite=True)) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def _stopped(files, fitted, output, monkeypatch, **options):
    """A run that ends by an error in its third part."""
    calls = []

    def failing(*args):
        calls.append(args[2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)

    original = module.encode_part
    monkeypatch.setattr(module, "encode_part", failing)
    with pytest.raises(KeyboardInterrupt):
        prepare(files, output, fitted, cells_per_part=50, **options)
    monkeypatch.setattr(module, "encode_part", original)
    return calls


def test_a_stopped_run_does_only_the_rest(files, fitted, tmp_path, monkeypatch, reference):
    done = _stopped(files, fitted, tmp_path / "s", monkeypatch, obs=["donor"])[:2]
    again = []
    original = module.encode_part
    monkeypatch.setattr(module, "encode_part", lambda *args: (again.append(args[2]), original(*args))[1])
    prepare(files, tmp_path / "s", fitted, cells_per_part=50, obs=["donor"])
    assert not set(done) & set(again)
    assert contents(tmp_path / "s") == reference


def test_unfinished_work_with_other_options_or_inputs(files, fitted, tmp_path, monkeypatch, cells):
    _stopped(files, fitted, tmp_path / "s", monkeypatch)
    with pytest.raises(ValueError, match=r"other options: obs was \[\], is now \[.donor.\]"):
        prepare(files, tmp_path / "s", fitted, cells_per_part=50, obs=["donor"])
    with pytest.raises(ValueError, match="zwei.h5ad was among them"):
        prepare(files[:1], tmp_path / "s", fitted, cells_per_part=50)
    assert len(prepare(files[:1], tmp_path / "s", fitted, cells_per_part=50, overwrite=True)) == 170


def test_two_runs_at_once(files, fitted, tmp_path):
    from scfm.data.work import Work

    with Work(tmp_path / "s").locked(), pytest.raises(BlockingIOError, match="another scfm-prepare is writing"):
        prepare(files, tmp_path / "s", fitted)


def test_a_lost_part_is_made_again(files, fitted, tmp_path, monkeypatch, reference):
    _stopped(files, fitted, tmp_path / "s", monkeypatch, obs=["donor"])
    part = tmp_path / ".s.partial" / "store" / "data-00000-00000.arrow"
    part.write_bytes(part.read_bytes()[:-100])
    prepare(files, tmp_path / "s", fitted, cells_per_part=50, obs=["donor"])
    assert contents(tmp_path / "s") == reference


def test_a_full_disk_is_resumable(files, fitted, tmp_path, monkeypatch, reference):
    import errno

    original = module.encode_part

    def full(*args):
        if args[2] == "00001-00001":
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args)

    monkeypatch.setattr(module, "encode_part", full)
    for on_error in ("stop", "skip"):
        with pytest.raises(OSError, match="disk of .* is full; free some space"):
            prepare(files, tmp_path / "s", fitted, cells_per_part=50, obs=["donor"], on_error=on_error)
    monkeypatch.setattr(module, "encode_part", original)
    prepare(files, tmp_path / "s", fitted, cells_per_part=50, obs=["donor"])
    assert contents(tmp_path / "s") == reference


def test_added_files_are_as_if_prepared_together(files, fitted, tmp_path, store):
    together = prepare(files, tmp_path / "t", fitted, obs=["cell_type"], cells_per_part=50, duplicates="report")
    first = prepare(files[0], tmp_path / "s", fitted, obs=["cell_type"], cells_per_part=50, duplicates="report")
    before = {name: sum for name, sum in contents(first.path).items() if name.endswith("arrow")}
    more = append(files[1], tmp_path / "s", block_size=9)
    assert lists(more) == lists(together)
    assert more.names(np.arange(300)) == together.names(np.arange(300))
    assert [f["name"] for f in more.files] == [f["name"] for f in together.files]
    assert more.report == together.report
    after = contents(more.path)
    assert {name: after[name] for name in before} == before
    assert after == contents(together.path)
    assert verify(more.path) == []
    with pytest.raises(ValueError, match="a file of this name already"):
        append(files[1], tmp_path / "s")
    with pytest.raises(FileNotFoundError, match="no store"):
        append(files[1], tmp_path / "nowhere")
    prepare(files[0], tmp_path / "x", fitted, shuffle=True)
    with pytest.raises(ValueError, match="shuffled over its whole corpus"):
        append(files[1], tmp_path / "x")


def test_added_categories_come_after_the_old_ones(cells, fitted, tmp_path):
    for name, kind in (("1", "m"), ("2", "a"), ("3", "m")):
        part = cells[:20].copy()
        part.obs["kind"] = kind
        part.write_h5ad(tmp_path / f"{name}.h5ad")
    store = prepare(tmp_path / "1.h5ad", tmp_path / "s", fitted, obs=["kind"], duplicates="drop")
    assert store.categories("kind") == ("m",)
    prepare(tmp_path / "1.h5ad", tmp_path / "k", fitted, obs=["kind"])
    store = append([tmp_path / "2.h5ad", tmp_path / "3.h5ad"], tmp_path / "k")
    assert store.categories("kind") == ("m", "a")
    assert store.obs("kind").tolist() == [0] * 20 + [1] * 20 + [0] * 20
    same = append([tmp_path / "2.h5ad"], tmp_path / "s")
    assert len(same) == 20
    assert same.files[1]["dropped"] == {"occurred before": 20}


def test_inputs_are_not_touched(files, fitted, tmp_path):
    before = [(path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]
    prepare(files, tmp_path / "s", fitted)
    assert [(path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files] == before
    assert TokenStore.open(tmp_path / "s").files[0]["counts_from"]


def test_the_report_is_one_page_with_pictures(store):
    page = (store.path / "report.html").read_text()
    assert page.count("<svg") >= 5
    assert "one cell.h5ad" in page
    assert "http" not in page


def test_a_dry_run_writes_only_its_report(files, fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(rehearse_module, "CELLS", 30)
    report = rehearse_module.rehearse(files, tmp_path / "s", fitted, obs=["cell_type"])
    assert report.name == "s.dry_run.html"
    assert "60 of 60 cells" in report.read_text()
    assert [path.name for path in tmp_path.iterdir()] == [report.name]
    with pytest.raises(ValueError, match="no column"):
        rehearse_module.rehearse(files, tmp_path / "s", fitted, obs=["nosuch"])


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 3), st.integers(1, 30))
def test_any_cut_of_any_cells_gives_the_same_tokens(
    fitted, tmp_path_factory, seed, block_size, workers, cells_per_part
):
    """Random counts with cells that tie, columns in random order: ranks are the kept genes, best first."""
    generator = np.random.default_rng(seed)
    genes = generator.permutation(np.array(fitted.vocab.tokens)[fitted.vocab.gene_ids])
    counts = generator.poisson(generator.gamma(0.3, 3, (30, len(genes)))).astype(np.int32)
    counts[:, 0] += 1
    folder = tmp_path_factory.mktemp("any")
    var = pd.DataFrame(index=genes)
    ad.AnnData(csr_matrix(counts), var=var).write_h5ad(folder / "x.h5ad")
    options = {"block_size": block_size, "workers": workers, "cells_per_part": cells_per_part}
    store = prepare(folder / "x.h5ad", folder / "s", fitted, **options)
    medians = fitted.medians[[fitted.vocab.ids[gene] for gene in genes]]
    ids = np.array([fitted.vocab.ids[gene] for gene in genes])
    for row, got in zip(counts.astype(np.float64), lists(store), strict=True):
        values = row / row.sum() * 10_000 / medians
        order = np.lexsort((ids, -values))[: int((values > 0).sum())]
        assert got == [2, *ids[order][:62].tolist(), 3]
