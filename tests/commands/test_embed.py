"""scfm-embed: every cell, in the input's order, beside all that was in the file."""

import resource
import signal

import anndata as ad
import h5py
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scfm.checkpoint import read
from scfm.data.packing import pack
from scfm.datasets.synthetic import synthetic_cells
from scfm.genes import resolve
from scfm.genes.table import orthologs
from scfm.inference.load import restore_predictor
from scfm.inference.write import warn_of_unknown
from scfm.model.pooling import embed as pooled_embedding
from scfm.store.token_store import TokenStore
from support import SMALL, command

FAST = ("trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
TRAIN = (*(part for part in SMALL if "tokens_per_batch" not in part and "positions" not in part),)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A file of cells, and checkpoints pretrained and fine-tuned on them."""
    folder = tmp_path_factory.mktemp("embed")
    cells = synthetic_cells(n_cells=160, n_genes=300, n_types=3, seed=1)
    cells.uns["kept"] = {"a": 1}
    cells.write_h5ad(folder / "cells.h5ad")
    store = folder / "store"
    command("prepare", f"input={folder / 'cells.h5ad'}", f"output={store}", "obs=[cell_type]", "workers=1")
    common = ("trainer.max_steps=8", "data.max_length=64", "data.tokens_per_batch=1024", f"store={store}")
    command("train", f"output={folder / 'pre'}", *TRAIN, *common)
    without_model = [part for part in TRAIN if not part.startswith("model.")]
    command(
        "finetune", f"output={folder / 'fine'}", "head.label=cell_type", "validate_every=4",
        f"init_from={folder / 'pre/checkpoints/last.ckpt'}", *without_model, *common,
    )  # fmt: skip
    return folder


def embed(made, checkpoint, source, output, *overrides):
    path = made / f"{checkpoint}/checkpoints/last.ckpt"
    command("embed", f"init_from={path}", f"input={source}", f"output={output}", *FAST, *overrides)
    return ad.read_h5ad(output)


@pytest.fixture(scope="module")
def embedded(made):
    return embed(made, "pre", made / "cells.h5ad", made / "embedded.h5ad")


def test_everything_else_is_kept(made, embedded):
    before = ad.read_h5ad(made / "cells.h5ad")
    assert embedded.obs_names.equals(before.obs_names)
    assert embedded.var.equals(before.var)
    assert embedded.obs.equals(before.obs)
    assert (embedded.X != before.X).nnz == 0
    assert embedded.uns["kept"]["a"] == 1
    assert embedded.uns["scfm"]["X_scfm"]["tokenizer"] == "geneformer_v2"
    assert embedded.obsm["X_scfm"].shape == (160, 32)
    assert np.isfinite(embedded.obsm["X_scfm"]).all()


@pytest.mark.parametrize(
    "overrides", [("block_size=7",), ("tokens_per_batch=200",), ("block_size=50", "tokens_per_batch=5000")]
)
def test_a_cells_embedding_does_not_depend_on_how_it_is_batched(made, embedded, tmp_path, overrides):
    other = embed(made, "pre", made / "cells.h5ad", tmp_path / "other.h5ad", *overrides)
    np.testing.assert_allclose(other.obsm["X_scfm"], embedded.obsm["X_scfm"], atol=1e-5)


def test_rows_follow_the_input(made, embedded, tmp_path):
    order = np.random.default_rng(0).permutation(160)[:90]
    ad.read_h5ad(made / "cells.h5ad")[order].copy().write_h5ad(tmp_path / "some cells ä.h5ad")
    some = embed(made, "pre", tmp_path / "some cells ä.h5ad", tmp_path / "out.h5ad")
    np.testing.assert_allclose(some.obsm["X_scfm"], embedded.obsm["X_scfm"][order], atol=1e-5)


def test_a_fine_tuned_checkpoint_names_cells_without_labels(made, tmp_path):
    cells = ad.read_h5ad(made / "cells.h5ad")
    del cells.obs["cell_type"]
    cells.write_h5ad(tmp_path / "new.h5ad")
    named = embed(made, "fine", tmp_path / "new.h5ad", tmp_path / "named.h5ad")
    assert set(named.obs["scfm_cell_type"]) <= set(ad.read_h5ad(made / "cells.h5ad").obs["cell_type"])
    assert named.obs["scfm_cell_type_confidence"].between(0, 1).all()
    task = restore_predictor(read(made / "fine/checkpoints/last.ckpt")).task
    assert named.obsm["X_scfm_state"].shape[1] == task.state.width > task.state.deep


def test_a_head_that_reads_counts_says_the_same_of_a_file_as_of_a_store(made, tmp_path):
    source = f"input={made / 'cells.h5ad'}"
    command("prepare", source, f"output={tmp_path / 'store'}", "obs=[cell_type]", "workers=1", "keep_counts=true",
            f"init_from={made / 'pre/checkpoints/last.ckpt'}")  # fmt: skip
    command(
        "finetune", f"output={tmp_path / 'fine'}", "head.label=cell_type", "head.counts=true", "validate_every=4",
        f"init_from={made / 'pre/checkpoints/last.ckpt'}", f"store={tmp_path / 'store'}", "trainer.max_steps=8",
        "data.max_length=64", "data.tokens_per_batch=1024", *(p for p in TRAIN if not p.startswith("model.")),
    )  # fmt: skip
    best = tmp_path / "fine/checkpoints/best.ckpt"
    command("embed", f"init_from={best}", source, f"output={tmp_path / 'named.h5ad'}", "block_size=50", *FAST)
    store = TokenStore.open(tmp_path / "store")
    rows, module = np.arange(len(store)), restore_predictor(read(best))
    batch = pack(store.gather(rows, 64), rows, counts=store.counts(rows, 64))
    found = module.task.predict(module.backbone, batch)["state"]
    assert found[:, module.task.state.deep :].std() > 0.1
    named = ad.read_h5ad(tmp_path / "named.h5ad")
    np.testing.assert_allclose(named.obsm["X_scfm_state"], found, atol=1e-4)
    own = pooled_embedding(module.backbone, batch, store.vocab)
    np.testing.assert_allclose(named.obsm["X_scfm"], own.detach(), atol=1e-4)
    with pytest.raises(ValueError, match="keep_counts=true"):
        command("finetune", f"output={tmp_path / 'ranks'}", "head.label=cell_type", "head.counts=true",
                f"init_from={made / 'pre/checkpoints/last.ckpt'}", f"store={made / 'store'}", *FAST)  # fmt: skip


def test_cells_that_the_model_cannot_read_are_nan_and_said(made, tmp_path, caplog):
    cells = ad.read_h5ad(made / "cells.h5ad")
    counts = cells.X.tolil()
    counts[3] = 0
    cells.X = counts.tocsr()
    cells.write_h5ad(tmp_path / "holed.h5ad")
    out = embed(made, "pre", tmp_path / "holed.h5ad", tmp_path / "out.h5ad")
    assert np.flatnonzero(np.isnan(out.obsm["X_scfm"]).any(axis=1)).tolist() == [3]
    assert "1 cell(s)" in caplog.text
    named = embed(made, "fine", tmp_path / "holed.h5ad", tmp_path / "named.h5ad").obs
    assert (named[["scfm_cell_type", "scfm_cell_type_guess"]].iloc[3] == "unknown").all()
    assert named[["scfm_cell_type_confidence", "scfm_cell_type_novelty"]].iloc[3].isna().all()
    assert (named["scfm_cell_type_guess"] != "unknown").sum() == 159


def test_many_unknown_cells_are_said_with_where_the_guess_is(caplog):
    names = np.array(["T", "unknown", "unknown"], dtype=object)
    warn_of_unknown({"scfm_kind": names, "scfm_kind_guess": names, "scfm_stage": names})
    assert "67% of the cells are 'unknown' in obs['scfm_kind']" in caplog.text
    assert "obs['scfm_kind_guess']" in caplog.text
    caplog.clear()
    warn_of_unknown({"scfm_kind": np.array(["T"] * 9 + ["unknown"], dtype=object), "scfm_kind_guess": names})
    assert not caplog.text


class TestRefusals:
    def test_the_input_is_never_overwritten(self, made):
        with pytest.raises(ValueError, match="never modified"):
            embed(made, "pre", made / "cells.h5ad", made / "cells.h5ad", "overwrite=true")

    def test_an_output_that_exists(self, made, embedded):
        with pytest.raises(FileExistsError, match="overwrite=true"):
            embed(made, "pre", made / "cells.h5ad", made / "embedded.h5ad")

    def test_a_folder_and_the_checkpoint_are_never_overwritten(self, made, tmp_path):
        (tmp_path / "mine.txt").touch()
        with pytest.raises(FileExistsError, match=r"is a folder; give the file to write, as output=.*cells_scfm.h5ad"):
            embed(made, "pre", made / "cells.h5ad", tmp_path, "overwrite=true")
        assert (tmp_path / "mine.txt").exists()
        checkpoint = made / "pre/checkpoints/last.ckpt"
        with pytest.raises(ValueError, match="is the checkpoint"):
            embed(made, "pre", made / "cells.h5ad", checkpoint, "overwrite=true")

    def test_a_file_of_other_genes(self, made, tmp_path):
        cells = ad.read_h5ad(made / "cells.h5ad")
        cells.var_names = [f"Unknown{i}" for i in range(cells.n_vars)]
        cells.var = cells.var[[]]
        cells.write_h5ad(tmp_path / "foreign.h5ad")
        with pytest.raises(ValueError, match=r"foreign.h5ad"):
            embed(made, "pre", tmp_path / "foreign.h5ad", tmp_path / "out.h5ad")
        assert list(tmp_path.iterdir()) == [tmp_path / "foreign.h5ad"]

    def test_no_such_input(self, made, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            embed(made, "pre", tmp_path / "nowhere.h5ad", tmp_path / "out.h5ad")


def test_names_of_another_species_and_ones_own(made, tmp_path):
    by_id, _ = orthologs()
    mouse_of = {human: mouse for mouse, human in by_id.items()}
    cells = ad.read_h5ad(made / "cells.h5ad")
    cells = cells[:, [gene in mouse_of for gene in resolve(list(cells.var_names))]].copy()
    assert cells.n_vars > 100
    names, genes = list(cells.var_names), resolve(list(cells.var_names))
    expected = embed_named(made, cells, names, tmp_path, "human")
    of_mice = embed_named(made, cells, [mouse_of[gene] for gene in genes], tmp_path, "mouse", "species=mouse")
    np.testing.assert_array_equal(of_mice, expected)
    (tmp_path / "names.tsv").write_text("".join(f"clone{i}\t{gene}\n" for i, gene in enumerate(genes)))
    own = [f"clone{i}" for i in range(len(genes))]
    aliased = embed_named(made, cells, own, tmp_path, "own", f"alias={tmp_path / 'names.tsv'}")
    np.testing.assert_array_equal(aliased, expected)
    scores = [untrained_scores(tmp_path / f"{name}_out.h5ad", tmp_path / name) for name in ("human", "mouse", "own")]
    assert scores[0]["bio"] == scores[1]["bio"] == scores[2]["bio"]  # read as scfm-embed read them


def untrained_scores(path, output):
    options = ("embedding=X_scfm", "label=cell_type", "baselines=[]", "max_cells=160")
    found = command("evaluate", f"input={path}", f"output={output}", *options)
    return found["integration"]["random weights"]


def embed_named(made, cells, names, folder, name, *overrides):
    cells = cells.copy()
    cells.var = cells.var[[]].set_axis(names)
    cells.write_h5ad(folder / f"{name}.h5ad")
    return embed(made, "pre", folder / f"{name}.h5ad", folder / f"{name}_out.h5ad", *overrides).obsm["X_scfm"]


def test_any_input_that_can_be_read_gives_an_h5ad(made, tmp_path):
    cells = ad.read_h5ad(made / "cells.h5ad")
    cells.write_zarr(tmp_path / "cells.zarr")
    cells.write_loom(tmp_path / "cells.loom")
    with h5py.File(tmp_path / "cells.h5", "w") as file:  # Cell Ranger's
        counts, matrix = csr_matrix(cells.X), file.create_group("matrix")
        matrix["barcodes"] = np.array([name.encode() for name in cells.obs_names])
        matrix["features/id"] = np.array([name.encode() for name in cells.var["gene_id"]])
        matrix["shape"] = np.array(cells.shape[::-1])
        matrix["data"], matrix["indices"], matrix["indptr"] = counts.data.astype("i4"), counts.indices, counts.indptr
    wanted = embed(made, "pre", made / "cells.h5ad", tmp_path / "out.h5ad")
    for name in ("cells.zarr", "cells.loom", "cells.h5"):
        found = embed(made, "pre", tmp_path / name, tmp_path / f"{name}.h5ad")
        np.testing.assert_array_equal(found.obsm["X_scfm"], wanted.obsm["X_scfm"])
        assert (found.X != cells.X).nnz == 0
        assert list(found.obs_names) == list(cells.obs_names)


def test_a_file_of_before_anndata_07_gives_one_of_today(made, tmp_path):
    """Its tables are compound arrays: it is read whole, and all that it holds is kept."""
    cells = ad.read_h5ad(made / "cells.h5ad")
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        for name, index, values in (("obs", cells.obs_names, cells.obs["donor"]), ("var", cells.var_names, None)):
            table = np.zeros(len(index), [("index", "S40"), ("text", "S40")])
            table["index"] = [word.encode() for word in index]
            table["text"] = [str(word).encode() for word in (index if values is None else values)]
            file[name] = table
        counts = csr_matrix(cells.X)
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", counts.shape
        group["data"], group["indices"], group["indptr"] = counts.data, counts.indices, counts.indptr
        file["obsm"] = np.zeros(cells.n_obs, [("X_pca", "f4", (5,))])
    wanted = embed(made, "pre", made / "cells.h5ad", tmp_path / "wanted.h5ad")
    found = embed(made, "pre", tmp_path / "old.h5ad", tmp_path / "out.h5ad")
    np.testing.assert_array_equal(found.obsm["X_scfm"], wanted.obsm["X_scfm"])
    assert found.obsm["X_pca"].shape == (cells.n_obs, 5)
    assert list(found.obs["text"].astype(str)) == list(cells.obs["donor"].astype(str))


def test_what_cannot_be_written_is_refused_before_the_work(made, tmp_path, caplog):
    cells = ad.read_h5ad(made / "cells.h5ad")
    cells.uns["scfm"] = "a note of my own"
    cells.write_h5ad(tmp_path / "note.h5ad")
    with pytest.raises(ValueError, match=r"uns\['scfm'\] of the cells holds something of your own"):
        embed(made, "pre", tmp_path / "note.h5ad", tmp_path / "out.h5ad")
    with pytest.raises(ValueError, match="key='a/b'; expected a name without a slash"):
        embed(made, "pre", made / "cells.h5ad", tmp_path / "out.h5ad", "key=a/b")
    with pytest.raises(ValueError, match="torch sees no GPU here"):
        embed(made, "pre", made / "cells.h5ad", tmp_path / "out.h5ad", "trainer.accelerator=gpu")
    assert not (tmp_path / "out.h5ad").exists()
    del cells.uns["scfm"]
    cells.obsm["X_pca"] = np.zeros((cells.n_obs, 2))
    cells.write_h5ad(tmp_path / "pca.h5ad")
    embed(made, "pre", tmp_path / "pca.h5ad", tmp_path / "out.h5ad", "key=X_pca")
    assert "obsm['X_pca'] was there already: it is replaced" in caplog.text


def test_names_that_occur_twice_are_no_matter(made, tmp_path):
    cells = ad.read_h5ad(made / "cells.h5ad")
    wanted = embed(made, "pre", made / "cells.h5ad", tmp_path / "wanted.h5ad")
    cells.obs_names = ["same"] * cells.n_obs
    cells.write_h5ad(tmp_path / "twice.h5ad")
    found = embed(made, "pre", tmp_path / "twice.h5ad", tmp_path / "out.h5ad")
    np.testing.assert_array_equal(found.obsm["X_scfm"], wanted.obsm["X_scfm"])


@pytest.mark.parametrize("kind", ["h5ad", "loom"])
def test_an_output_that_cannot_grow_is_a_sentence_and_not_the_end_of_the_process(made, tmp_path, kind):
    cells = ad.read_h5ad(made / "cells.h5ad")
    cells.write_h5ad(tmp_path / "in.h5ad") if kind == "h5ad" else cells.write_loom(tmp_path / "in.loom")
    limit = (tmp_path / f"in.{kind}").stat().st_size + 4096
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match="may not become so large"):
            embed(made, "pre", tmp_path / f"in.{kind}", tmp_path / "out.h5ad")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not (tmp_path / "out.h5ad").exists()
    assert len(embed(made, "pre", tmp_path / f"in.{kind}", tmp_path / "out.h5ad").obsm["X_scfm"]) == 160


def test_a_stop_between_the_result_and_the_end_is_no_refusal(made, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("scfm.commands.embed.shutil", None)  # no attribute rmtree: the parts stay
    with pytest.raises(AttributeError):
        embed(made, "pre", made / "cells.h5ad", tmp_path / "out.h5ad")
    monkeypatch.undo()
    caplog.set_level("INFO")
    before = (tmp_path / "out.h5ad").read_bytes()
    with pytest.raises(FileExistsError, match="exists"):
        embed(made, "pre", made / "cells.h5ad", tmp_path / "out.h5ad", "key=X_other")
    embed(made, "pre", made / "cells.h5ad", tmp_path / "out.h5ad")
    assert "was finished by the run that was stopped" in caplog.text
    assert (tmp_path / "out.h5ad").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5ad"]
    with pytest.raises(FileExistsError, match="exists; choose another output"):
        embed(made, "pre", made / "cells.h5ad", tmp_path / "out.h5ad")
