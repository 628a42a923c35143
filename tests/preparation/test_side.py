"""A second modality beside the tokens: through every way in which a store is made."""

import shutil

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import write_elem
from scipy.sparse import csr_matrix

from prepared import lists
from scfm.preparation.api import append, prepare
from scfm.preparation.side import Side
from scfm.store.mix import open_mix
from scfm.store.token_store import TokenStore
from scfm.store.verify import verify
from scfm.types import FIELD
from support import checksums, command

ALL = Side(protein="auto", peaks="auto", min_cells=0.1)
PANELS = {"a": ["CD3_TotalSeqB", "CD4", "CD8"], "b": ["CD19", "CD3", "IgG1"]}
PEAKS = {"a": ["chr1:1-9", "chr1:20-40", "chr2:5-6"], "b": ["chr2:5-6", "chr7:1-2"]}


@pytest.fixture(scope="module")
def made(cells, tmp_path_factory):
    """Two files with different panels and peaks; a fifth of the cells of the second were not stained."""
    folder = tmp_path_factory.mktemp("modalities")
    rng = np.random.default_rng(0)
    truth = {}
    for name, part in (("a", cells[:170].copy()), ("b", cells[170:].copy())):
        stained = np.arange(part.n_obs) if name == "a" else np.flatnonzero(np.arange(part.n_obs) % 5)
        panel = _made(rng.poisson(4.0, (len(stained), 3)), part.obs_names[stained], PANELS[name])
        rates = [0.7, 0.5, 0.01][: len(PEAKS[name])]
        peaks = _made(rng.random((part.n_obs, len(rates))) < rates, part.obs_names, PEAKS[name])
        with h5py.File(folder / f"{name}.h5mu", "w") as file:
            for mod, value in (("rna", part), ("prot", panel), ("atac", peaks)):
                write_elem(file, f"mod/{mod}", value)
        truth[name] = (part, panel, peaks)
    return folder, truth


def _made(values, cells, names):
    return ad.AnnData(csr_matrix(values.astype(np.int32)), obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=names))


def expected(truth, store):
    """(n, P) by cell name, from the files."""
    names = store.fields["protein"].names
    table = pd.DataFrame(np.nan, index=[*truth["a"][0].obs_names, *truth["b"][0].obs_names], columns=list(names))
    for part in ("a", "b"):
        panel = truth[part][1]
        for i, name in enumerate(panel.var_names):
            table.loc[panel.obs_names, name.removesuffix("_TotalSeqB")] = panel.X.toarray()[:, i]
    return table


def check(store, truth):
    """Proteins and peaks of every cell of a store are those of its file."""
    rows = np.arange(len(store))
    cells = store.names(rows)
    np.testing.assert_array_equal(store.field("protein", rows), expected(truth, store).loc[cells].to_numpy(np.float32))
    opened = {name: set() for name in cells}
    for part in ("a", "b"):
        peaks = truth[part][2]
        for cell, peak in zip(*peaks.X.nonzero(), strict=True):
            if peaks.var_names[peak] in store.fields["peaks"].names and peaks.obs_names[cell] in opened:
                opened[peaks.obs_names[cell]].add(peaks.var_names[peak])
    found = store.field("peaks", rows)
    named = np.array([*store.fields["peaks"].names, ""])
    kept = {"a": {"chr1:1-9", "chr1:20-40"}, "b": {"chr2:5-6", "chr7:1-2"}}  # the third of a is rare there
    for cell, row in zip(cells, found, strict=True):
        part = "a" if cell in set(truth["a"][0].obs_names) else "b"
        rare = opened[cell] - kept[part]
        assert set(named[row[row >= 0]]) | rare == opened[cell] | rare


def test_beside_the_tokens(made, fitted, tmp_path):
    folder, truth = made
    files = [folder / "a.h5mu", folder / "b.h5mu"]
    store = prepare(files, tmp_path / "s", fitted, side=ALL, cells_per_part=50, obs=["cell_type"])
    assert store.fields["protein"].names == ("CD3", "CD4", "CD8", "CD19", "IgG1")
    assert store.fields["peaks"].names == ("chr1:1-9", "chr1:20-40", "chr2:5-6", "chr7:1-2")
    check(store, truth)
    plain = prepare(files, tmp_path / "plain", fitted, cells_per_part=50, obs=["cell_type"])
    assert plain.fields == {}
    assert lists(store) == lists(plain)
    assert np.array_equal(store.hashes, plain.hashes)
    assert [file["fields"]["protein"]["cells"] for file in store.files] == [170, 104]
    assert store.files[1]["fields"]["protein"]["isotypes"] == ["IgG1"]
    assert all("fields" not in file for file in plain.files)
    assert verify(store.path) == []
    with pytest.raises(ValueError, match=r"keeps no protein: prepare it again with side.protein=auto"):
        plain.field("protein", np.arange(2))


def test_the_bytes_depend_on_cells_and_options_alone(made, fitted, tmp_path):
    folder, truth = made
    files = [folder / "a.h5mu", folder / "b.h5mu"]
    once = prepare(files, tmp_path / "s", fitted, side=ALL, cells_per_part=50)
    again = prepare(files, tmp_path / "t", fitted, side=ALL, cells_per_part=50, block_size=13, workers=2)
    assert checksums(once.path) == checksums(again.path)
    for number in (2, 1):
        prepare(files, tmp_path / "shared", fitted, side=ALL, cells_per_part=50, share=f"{number}/2")
    assert checksums(prepare(files, tmp_path / "shared", fitted, side=ALL, cells_per_part=50).path) == checksums(
        once.path
    )
    shuffled = prepare(files, tmp_path / "u", fitted, side=ALL, cells_per_part=50, shuffle=True, duplicates="drop")
    assert shuffled.names(np.arange(9)) != once.names(np.arange(9))
    check(shuffled, truth)
    assert verify(shuffled.path) == []


def test_killed_and_resumed(made, fitted, tmp_path, monkeypatch):
    folder, _ = made
    files = [folder / "a.h5mu", folder / "b.h5mu"]
    whole = prepare(files, tmp_path / "s", fitted, side=ALL, cells_per_part=50)
    from scfm.preparation import encode

    for kills in (1, 3, 4):
        calls = []

        def encoded(self, start, rows, calls=calls, kills=kills, call=encode.FieldEncoder.__call__):
            calls.append(start)
            if len(calls) == kills:
                raise KeyboardInterrupt
            return call(self, start, rows)

        with monkeypatch.context() as patch:
            patch.setattr(encode.FieldEncoder, "__call__", encoded)
            with pytest.raises(KeyboardInterrupt):
                prepare(files, tmp_path / "k", fitted, side=ALL, cells_per_part=50, workers=1)
        assert not (tmp_path / "k").exists()
    assert checksums(prepare(files, tmp_path / "k", fitted, side=ALL, cells_per_part=50).path) == checksums(whole.path)


def test_added_files_bring_their_features_after_the_old_ones(made, fitted, tmp_path):
    folder, truth = made
    prepare(folder / "a.h5mu", tmp_path / "s", fitted, side=ALL, cells_per_part=50)
    before = {name: sum for name, sum in checksums(tmp_path / "s").items() if name.endswith("arrow")}
    more = append(folder / "b.h5mu", tmp_path / "s")
    after = checksums(more.path)
    assert {name: after[name] for name in before} == before, "old parts do not change"
    assert more.fields["protein"].names == ("CD3", "CD4", "CD8", "CD19", "IgG1")
    check(more, truth)
    assert verify(more.path) == []


def test_mixed_stores_have_one_panel(made, fitted, cells, tmp_path):
    folder, truth = made
    prepare(folder / "b.h5mu", tmp_path / "b", fitted, side=ALL)
    prepare(folder / "a.h5mu", tmp_path / "a", fitted, side=ALL)
    cells[:20].copy().write_h5ad(tmp_path / "bare.h5ad")
    prepare(tmp_path / "bare.h5ad", tmp_path / "bare", fitted)
    mix = open_mix(paths=[str(tmp_path / name) for name in ("b", "a", "bare")])
    assert mix.fields["protein"].names == ("CD19", "CD3", "IgG1", "CD4", "CD8")
    rows = np.arange(300)
    np.testing.assert_array_equal(
        mix.field("protein", rows), expected(truth, mix).loc[mix.names(rows)].to_numpy(np.float32)
    )
    assert np.isnan(mix.field("protein", np.arange(300, 320))).all()
    assert mix.field("peaks", np.arange(300, 320)).shape == (20, 0)
    names, opened = np.array([*mix.fields["peaks"].names, ""]), mix.field("peaks", np.array([130, 131]))
    one = TokenStore.open(tmp_path / "a")
    alone = np.array([*one.fields["peaks"].names, ""])[one.field("peaks", np.array([0, 1]))]
    assert [set(names[row]) - {""} for row in opened] == [set(row) - {""} for row in alone]


def test_files_that_lack_it(made, fitted, cells, tmp_path):
    folder, _ = made
    cells[:20].copy().write_h5ad(tmp_path / "bare.h5ad")
    files = [folder / "a.h5mu", tmp_path / "bare.h5ad"]
    with pytest.raises(ValueError, match=r"bare.h5ad: has no modality, table in obsm.*missing=allow takes such files"):
        prepare(files, tmp_path / "s", fitted, side=Side(protein="auto"))
    store = prepare(files, tmp_path / "s", fitted, side=Side(protein="auto"), missing="allow")
    assert np.isnan(store.field("protein", np.arange(170, 190))).all()
    assert not np.isnan(store.field("protein", np.arange(170))).any()
    with pytest.raises(ValueError, match="no peak of its mod.*side.min_cells"):
        prepare(folder / "a.h5mu", tmp_path / "t", fitted, side=Side(peaks="atac", min_cells=0.99))
    with pytest.raises(ValueError, match=r"side.min_cells=7.* is a share"):
        Side(peaks="atac", min_cells=7)


def test_what_does_not_go_together_is_refused(made, fitted, tmp_path):
    folder, _ = made
    prepare(folder / "a.h5mu", tmp_path / "hg38", fitted, side=Side(peaks="auto", genome="hg38"))
    prepare(folder / "b.h5mu", tmp_path / "hg19", fitted, side=Side(peaks="auto", genome="hg19", protein="auto"))
    prepare(folder / "a.h5mu", tmp_path / "other", fitted, side=Side(protein="auto", raw=False))
    with pytest.raises(ValueError, match=r"two genome builds \(hg38, hg19\)"):
        open_mix(paths=[str(tmp_path / "hg38"), str(tmp_path / "hg19")])
    with pytest.raises(ValueError, match=r"not alike: counts in one, other values in the other"):
        open_mix(paths=[str(tmp_path / "other"), str(tmp_path / "hg19")])


def test_values_that_are_no_counts(made, fitted, tmp_path):
    _, truth = made
    part, panel, _ = truth["a"]
    scaled = panel.copy()
    scaled.X = csr_matrix(scaled.X.toarray().astype(np.float32) - 7)
    with h5py.File(tmp_path / "clr.h5mu", "w") as file:
        write_elem(file, "mod/rna", part)
        write_elem(file, "mod/prot", scaled)
    with pytest.raises(ValueError, match="clr.h5mu: its mod.*holds negative values.*side.raw=false"):
        prepare(tmp_path / "clr.h5mu", tmp_path / "s", fitted, side=Side(protein="auto"))
    store = prepare(tmp_path / "clr.h5mu", tmp_path / "s", fitted, side=Side(protein="auto", raw=False))
    np.testing.assert_array_equal(store.field("protein", np.arange(170)), scaled.X.toarray())


def test_a_table_of_names(made, fitted, tmp_path):
    folder, _ = made
    (tmp_path / "names.tsv").write_text("# panel\nCD8\tCD8a\ncd4\tT4\n")
    side = Side(protein="prot", alias=str(tmp_path / "names.tsv"))
    assert prepare(folder / "a.h5mu", tmp_path / "s", fitted, side=side).fields["protein"].names == (
        "CD3",
        "T4",
        "CD8a",
    )
    (tmp_path / "names.tsv").write_text("CD8\tCD8a\nCD8\tCD8b\n")
    with pytest.raises(ValueError, match="line 2: 'CD8' means 'CD8b', but before 'CD8a'"):
        prepare(folder / "a.h5mu", tmp_path / "t", fitted, side=side)
    (tmp_path / "names.tsv").write_text("CD8\n")
    with pytest.raises(ValueError, match="expected a name, a tab"):
        prepare(folder / "a.h5mu", tmp_path / "t", fitted, side=side)
    with pytest.raises(FileNotFoundError, match="side.alias"):
        prepare(folder / "a.h5mu", tmp_path / "t", fitted, side=Side(protein="prot", alias=str(tmp_path / "none.tsv")))


def test_damage_is_seen(made, fitted, tmp_path):
    folder, _ = made
    store = prepare(folder / "a.h5mu", tmp_path / "s", fitted, side=ALL)
    import json

    meta = json.loads((store.path / "scfm.json").read_text())
    for kind, keep in (("protein", 2), ("peaks", 1)):
        shutil.copytree(store.path, tmp_path / kind)
        cut = json.loads(json.dumps(meta))
        cut["fields"][kind]["names"] = cut["fields"][kind]["names"][:keep]
        (tmp_path / kind / "scfm.json").write_text(json.dumps(cut))
        with pytest.raises(ValueError, match=f"has {kind} outside of the {keep} that scfm.json names"):
            TokenStore.open(tmp_path / kind).field(kind, np.arange(170))
        assert verify(tmp_path / kind)
    for wrong in ([], {"protein": {"names": "CD3"}}, {"guides": {"names": [], "raw": True}}):
        (tmp_path / "peaks" / "scfm.json").write_text(json.dumps(meta | {"fields": wrong}))
        with pytest.raises(ValueError, match="fields is missing or of a wrong kind"):
            TokenStore.open(tmp_path / "peaks")
    table = store.column(FIELD + "protein")
    assert str(table.type.value_type) == "float"


def test_by_command(made, tmp_path):
    folder, truth = made
    command("prepare", f"input=[{folder / 'a.h5mu'},{folder / 'b.h5mu'}]", f"output={tmp_path / 's'}",
            "side.protein=auto", "side.peaks=atac", "side.min_cells=0.1", "workers=1")  # fmt: skip
    check(TokenStore.open(tmp_path / "s"), truth)
