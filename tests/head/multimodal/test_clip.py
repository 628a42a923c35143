"""head=multimodal/clip: pairs of genes and peaks, to new cells that have both, or genes alone."""

from dataclasses import replace

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from anndata.io import write_elem
from scipy.sparse import csr_matrix
from sklearn.metrics import roc_auc_score

import scfm
from scfm.datasets.synthetic import synthetic_cells
from scfm.head.multimodal.clip import Clip
from scfm.metrics.denoising import explained_deviance
from scfm.metrics.modality.alignment import foscttm
from support import SMALL, command

TRAIN = tuple(part for part in SMALL if "positions" not in part)
WITHOUT_MODEL = tuple(part for part in TRAIN if not part.startswith("model."))
EMBED = ("trainer.accelerator=cpu", "trainer.enable_progress_bar=false")


def with_peaks(cells, path, n_peaks=60, drop=0, names=None):
    """Peaks that open at a pseudotime; the last ``drop`` cells have none, the cells are in another order."""
    rng = np.random.default_rng(0)
    place = np.linspace(0, 1, n_peaks)
    time = cells.obs["pseudotime"].to_numpy()
    opened = rng.random((cells.n_obs, n_peaks)) < 0.7 * np.exp(-(((place - time[:, None]) / 0.15) ** 2)) + 0.02
    order = rng.permutation(cells.n_obs - drop)
    names = names or [f"chr1:{100 * i}-{100 * i + 50}" for i in range(n_peaks)]
    atac = ad.AnnData(csr_matrix(opened[order].astype(np.int8)), obs=cells.obs[[]].iloc[order],
                      var=pd.DataFrame(index=names))  # fmt: skip
    with h5py.File(path, "w") as file:
        write_elem(file, "mod/rna", cells)
        write_elem(file, "mod/atac", atac)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("clip")
    cells = synthetic_cells(n_cells=420, n_genes=100, n_types=3, seed=2)
    with_peaks(cells[:330].copy(), folder / "pairs.h5mu")
    with_peaks(cells[330:].copy(), folder / "new.h5mu", drop=10)
    cells[330:].copy().write_h5ad(folder / "genes.h5ad")
    store = f"store={folder / 'store'}"
    command("prepare", f"input={folder / 'pairs.h5mu'}", f"output={folder / 'store'}", "side.peaks=atac",
            "obs=[cell_type]", "keep_counts=true", "workers=1")  # fmt: skip
    command("train", store, f"output={folder / 'pre'}", *TRAIN, "trainer.max_steps=3")
    command(
        "finetune", "head=multimodal/clip", store, f"init_from={folder / 'pre/checkpoints/last.ckpt'}",
        f"output={folder / 'run'}", "adapt=frozen", "head.gene_components=16", "head.variable_components=16",
        "head.components=12", "head.width=8", "head.hidden=8", "head.decode=50",
        "trainer.max_steps=6", "validate_every=3",
        "data.val=0.1", "data.test=0.2", *(part for part in WITHOUT_MODEL if "tokens_per_batch" not in part),
        "data.tokens_per_batch=4096",
    )  # fmt: skip
    return folder


def test_new_cells_find_themselves(made):
    checkpoint = made / "run/checkpoints/best.ckpt"
    command("embed", f"init_from={checkpoint}", f"input={made / 'new.h5mu'}", f"output={made / 'e.h5ad'}", *EMBED)
    written = ad.read_h5ad(made / "e.h5ad")
    genes, peaks = written.obsm["X_scfm_shared"], written.obsm["X_scfm_shared_peaks"]
    assert genes.shape == peaks.shape == (90, 8)
    assert np.isfinite(genes).all()
    assert np.isfinite(peaks[:80]).all()
    assert np.isnan(peaks[80:]).all(), "these cells have no peaks"
    assert foscttm(genes[:80], peaks[:80]) < 0.3
    command("embed", f"init_from={checkpoint}", f"input={made / 'genes.h5ad'}", f"output={made / 'g.h5ad'}", *EMBED)
    alone = ad.read_h5ad(made / "g.h5ad")
    np.testing.assert_allclose(alone.obsm["X_scfm_shared"], genes, atol=1e-5)
    assert "X_scfm_shared_peaks" not in alone.obsm
    table = ad.read_h5ad(made / "genes.h5ad")
    with h5py.File(made / "new.h5mu") as file:
        atac = ad.io.read_elem(file["mod/atac"])
    measured = pd.DataFrame(atac.X.toarray(), index=atac.obs_names, columns=atac.var_names)
    table.obsm["peaks"] = measured.reindex(table.obs_names).fillna(0)
    scfm.load(checkpoint).project(table)
    np.testing.assert_allclose(table.obsm["X_scfm_shared_peaks"][:80], peaks[:80], atol=1e-5)


def test_each_modality_is_decoded_from_the_other_better_than_by_its_mean(made):
    """Peaks from genes alone, for cells that have none, and genes from peaks."""
    checkpoint = made / "run/checkpoints/best.ckpt"
    command("embed", f"init_from={checkpoint}", f"input={made / 'new.h5mu'}", f"output={made / 'd.h5ad'}", *EMBED)
    written = ad.read_h5ad(made / "d.h5ad")
    about = written.uns["scfm"]["X_scfm"]["head"]
    peaks, genes = written.obsm["scfm_peaks_from_genes"], written.obsm["scfm_genes_from_peaks"]
    assert peaks.shape == (90, 50) == genes.shape
    assert ((peaks >= 0) & (peaks <= 1)).all()
    with h5py.File(made / "new.h5mu") as file:
        atac = ad.io.read_elem(file["mod/atac"])
    opened = pd.DataFrame(atac.X.toarray(), index=atac.obs_names, columns=atac.var_names)
    truth = opened.loc[written.obs_names[:80], list(about["features"])].to_numpy() > 0
    frequency = np.tile(truth.mean(axis=0), (80, 1))
    assert roc_auc_score(truth.ravel(), peaks[:80].ravel()) > roc_auc_score(truth.ravel(), frequency.ravel()) + 0.05
    assert np.isnan(genes[80:]).all(), "these cells have no peaks"
    source = ad.read_h5ad(made / "genes.h5ad")
    places = [pd.Index(names).get_indexer(about["genes"]) for names in (source.var_names, source.var["gene_id"])]
    counts = source[written.obs_names[:80], np.maximum(*places)].X.toarray()
    means = counts.sum(axis=0) / counts.sum()
    assert explained_deviance(counts, genes[:80], means) > 0.05


def test_without_decoders_nothing_is_decoded(spec_of_peaks):
    head = Clip(spec_of_peaks, gene_components=4, components=4)
    assert not any("cross" in name or "decoded" in name for name in head.state_dict())
    assert not head.requirements().counts
    assert Clip(spec_of_peaks, gene_components=4, components=4, decode=3).requirements().counts
    with pytest.raises(ValueError, match="head.decode=-1"):
        Clip(spec_of_peaks, decode=-1)


@pytest.fixture
def spec_of_peaks(spec):
    return replace(spec, fields={"peaks": ("chr1:0-5", "chr1:7-9", "chr2:0-5")})


def test_the_report_has_canonical_correlation_beside_it(made):
    page = (made / "run/report.html").read_text()
    scores = pd.read_csv(made / "run/alignment.csv", index_col="method")
    assert "Genes and peaks in one space" in page
    assert scores.loc["scfm, this head", "foscttm"] < 0.3 < scores.loc["shuffled pairs", "foscttm"]
    assert abs(scores.loc["shuffled pairs", "foscttm"] - 0.5) < 0.12
    assert scores.loc["PCA + CCA", "foscttm"] < 0.4
    assert scores.loc["scfm, this head", "cell_type carried over"] > 0.6


def test_other_peaks_are_refused(made, tmp_path):
    cells = ad.read_h5ad(made / "genes.h5ad")
    other = with_peaks(cells, tmp_path / "x.h5mu", names=[f"chr9:{7 * i}-{7 * i + 5}" for i in range(60)])
    with pytest.raises(
        ValueError, match=r"none of the 60 peaks of its mod\['atac'\] \(chr9:0-5, ...\) is among the 60"
    ):
        command("embed", f"init_from={made / 'run/checkpoints/best.ckpt'}", f"input={other}",
                f"output={tmp_path / 'e.h5ad'}", *EMBED)  # fmt: skip


def test_a_store_without_the_modality_is_refused(made, tmp_path):
    start = (f"init_from={made / 'pre/checkpoints/last.ckpt'}", f"store={made / 'store'}", f"output={tmp_path / 'run'}")
    for other in ("protein", "guides"):
        message = "keeps no protein: prepare it again with side.protein=auto" if other == "protein" else "head.other="
        with pytest.raises(ValueError, match=message):
            command("finetune", "head=multimodal/clip", f"head.other={other}", *start, *WITHOUT_MODEL)
