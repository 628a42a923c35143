"""head=multimodal/protein: from files of two panels to proteins of a new donor, by command and in Python."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import scfm
from scfm.data.packing import pack
from scfm.datasets.synthetic import synthetic_cells
from scfm.head.gene_components import score_matrix
from scfm.head.multimodal.marker_genes import MarkerGenes, correlate
from scfm.metrics.modality.protein import pearson
from scfm.store.token_store import TokenStore
from support import SMALL, command

TRAIN = tuple(part for part in SMALL if "positions" not in part)
WITHOUT_MODEL = tuple(part for part in TRAIN if not part.startswith("model."))
#: The gene that makes each protein.
MADE_BY = {"P1": 3, "P2": 40, "P3": 77}


def stained(cells, panel, seed):
    """Proteins whose counts follow one gene and the cell's type; the control follows nothing."""
    rng = np.random.default_rng(seed)
    genes = np.asarray(cells.X.todense(), dtype=np.float64)
    level = genes / genes.sum(axis=1, keepdims=True) * 1e4
    kind = cells.obs["cell_type"].astype("category").cat.codes.to_numpy()
    table = {}
    for name in panel:
        rate = np.full(len(kind), 5.0)
        if name in MADE_BY:
            rate += 3 * np.log1p(level[:, MADE_BY[name]]) + 8 * (kind == list(MADE_BY).index(name))
        table[name] = rng.poisson(rate)
    return pd.DataFrame(table, index=cells.obs_names)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Cells of seven donors: four with one panel, two with another, and one that is new; a fine-tuned head."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("protein")
    cells = synthetic_cells(n_cells=420, n_genes=120, n_types=3, seed=1)
    cells.obs["donor"] = [f"d{i % 7}" for i in range(420)]
    parts = {"a": ["d0", "d1", "d2", "d3"], "b": ["d4", "d5"], "new": ["d6"]}
    panels = {"a": ["P1", "P2", "IgG1"], "b": ["P2_TotalSeqB", "P3", "IgG1"], "new": ["P1", "P2", "P3"]}
    for name, donors in parts.items():
        part = cells[cells.obs["donor"].isin(donors)].copy()
        truth = stained(part, [one.removesuffix("_TotalSeqB") for one in panels[name]], seed=len(name))
        if name != "new":
            part.obsm["adt"] = truth.set_axis(panels[name], axis=1)
        else:
            truth.to_csv(folder / "truth.csv")
        part.write_h5ad(folder / f"{name}.h5ad")
    files, store = f"input=[{folder / 'a.h5ad'},{folder / 'b.h5ad'}]", f"store={folder / 'store'}"
    command("prepare", files, f"output={folder / 'store'}", "side.protein=auto", "keep_counts=true", "obs=[cell_type]",
            "group=donor", "workers=1")  # fmt: skip
    command("train", store, f"output={folder / 'pre'}", *TRAIN, "trainer.max_steps=4")
    command(
        "finetune", "head=multimodal/protein", store, f"init_from={folder / 'pre/checkpoints/last.ckpt'}",
        f"output={folder / 'run'}", "adapt=frozen", "head.gene_components=16", "head.variable_components=16",
        "head.hidden=8", "trainer.max_steps=6", "validate_every=3", "calibration=0.15", "data.val=0.2", "data.test=0.2",
        *WITHOUT_MODEL,
    )  # fmt: skip
    return folder


def test_proteins_of_a_new_donor(made):
    output, checkpoint = made / "embedded.h5ad", made / "run/checkpoints/best.ckpt"
    command("embed", f"init_from={checkpoint}", f"input={made / 'new.h5ad'}", f"output={output}",
            "trainer.accelerator=cpu", "trainer.enable_progress_bar=false")  # fmt: skip
    written = ad.read_h5ad(output)
    about = written.uns["scfm"]["X_scfm"]["head"]
    assert list(about["proteins"]) == ["P1", "P2", "P3"], "isotype controls are no targets"
    assert about["units"] == "ln(1 + counts)"
    truth = np.log1p(pd.read_csv(made / "truth.csv", index_col=0).to_numpy())
    found, low, high = (written.obsm[f"scfm_protein{end}"] for end in ("", "_low", "_high"))
    assert found.shape == (60, 3)
    for protein in range(3):
        assert pearson(found[:, protein], truth[:, protein]) > 0.4
    assert (low <= high).all()
    assert 0.6 < ((truth >= low) & (truth <= high)).mean() < 0.97
    cells = ad.read_h5ad(made / "new.h5ad")
    model = scfm.load(checkpoint)
    model.project(cells)
    np.testing.assert_allclose(cells.obsm["scfm_protein"], found, atol=1e-4)
    one = cells[7:8].copy()
    model.embed(one)
    np.testing.assert_allclose(one.obsm["scfm_protein"], found[7:8], atol=1e-4)


def test_the_report_has_simple_methods_beside_it(made):
    page = (made / "run/report.html").read_text()
    scores = pd.read_csv(made / "run/proteins.csv")
    for method in ("scfm, this head", "ridge on 50 PCs", "15 nearest on 50 PCs", "ridge on library size"):
        assert method in page
        assert set(scores["protein"][scores["method"] == method]) == {"P1", "P2", "P3"}
    assert "within_r" in page
    r = scores.set_index(["method", "protein"])["r"].unstack().mean(axis=1)
    assert r["scfm, this head"] > r["ridge on library size"] + 0.1


def test_the_genes_that_make_a_protein_are_read_one_by_one(made):
    head = scfm.load(made / "run/checkpoints/best.ckpt").head
    store = TokenStore.open(made / "store")
    genes = list(ad.read_h5ad(made / "a.h5ad").var["gene_id"])
    chosen = {store.vocab.tokens[i] for i in torch.nonzero(head.markers.column >= 0).ravel().tolist()}
    assert {genes[MADE_BY["P1"]], genes[MADE_BY["P2"]]} <= chosen
    rows = np.arange(50)
    tokens, counts = store.gather(rows), store.counts(rows)
    batch = pack(store.gather(rows, None, np.int64), rows, counts=counts)
    np.testing.assert_allclose(head.markers(batch).numpy(), head.markers.transform(tokens, counts), atol=1e-4)
    again = MarkerGenes(store.vocab, 4, "log")
    again.fit(tokens, None, np.full((50, 2), np.nan), 2)
    assert (again.column < 0).all(), "a target without cells chooses nothing"


def test_correlations_are_those_of_numpy(made):
    store = TokenStore.open(made / "store")
    rows = np.arange(120)
    gene = np.zeros(len(store.vocab), dtype=bool)
    gene[store.vocab.gene_ids] = True
    values = score_matrix(store.gather(rows), gene, "counts", store.counts(rows))
    targets = np.random.default_rng(0).normal(size=(120, 2))
    targets[:40, 1] = np.nan
    _, _, found = correlate(values, targets)
    dense = values.toarray()
    for target in range(2):
        known = np.isfinite(targets[:, target])
        for column in np.flatnonzero((dense > 0).sum(axis=0) >= 20)[:10]:
            oracle = np.corrcoef(dense[known, column], targets[known, target])[0, 1]
            assert found[target, column] == pytest.approx(oracle, abs=1e-5)


def test_panels_without_a_common_protein_are_refused(made, tmp_path):
    cells = ad.read_h5ad(made / "a.h5ad")
    for name, donors, protein in (("x", ["d0", "d1"], "P1"), ("y", ["d2", "d3"], "P9")):
        part = cells[cells.obs["donor"].isin(donors)].copy()
        part.obsm["adt"] = part.obsm["adt"][["P1"]].set_axis([protein], axis=1)
        part.obs["site"] = name
        part.write_h5ad(tmp_path / f"{name}.h5ad")
    start = f"init_from={made / 'pre/checkpoints/last.ckpt'}"
    command("prepare", f"input=[{tmp_path / 'x.h5ad'},{tmp_path / 'y.h5ad'}]", f"output={tmp_path / 's'}", start,
            "side.protein=auto", "group=site", "workers=1")  # fmt: skip
    with pytest.raises(ValueError, match=r"no protein in common.*other panels.*side.alias"):
        command("finetune", "head=multimodal/protein", f"store={tmp_path / 's'}", start, f"output={tmp_path / 'run'}",
                "data.val=0.5", "data.test=0", *WITHOUT_MODEL)  # fmt: skip


def test_a_store_without_proteins_is_refused(made, tmp_path):
    start = f"init_from={made / 'pre/checkpoints/last.ckpt'}"
    command("prepare", f"input={made / 'new.h5ad'}", f"output={tmp_path / 's'}", start, "workers=1")
    with pytest.raises(ValueError, match=r"learns from measured proteins.*prepare it again with side.protein=auto"):
        command("finetune", "head=multimodal/protein", f"store={tmp_path / 's'}", start, f"output={tmp_path / 'run'}",
                *WITHOUT_MODEL)  # fmt: skip
