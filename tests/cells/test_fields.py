"""A second modality of the cells of a file: found, matched by name, read by rows, refused where it is wrong."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import write_elem
from scipy.sparse import csr_matrix

from scfm.cells.fields import FieldRequest, MissingFieldError, peak_names
from scfm.cells.file import open_cells
from scfm.cells.protein_names import is_isotype, protein_name, protein_names

PANEL = ["CD3_TotalSeqB", "CD4_TotalSeqB", "anti-human CD19", "IgG1"]


def stained(cells, names=PANEL, order=None, seed=0):
    """Counts of a panel for some cells, in an order of their own."""
    order = np.arange(cells.n_obs) if order is None else order
    counts = np.random.default_rng(seed).poisson(5.0, (len(order), len(names)))
    return ad.AnnData(csr_matrix(counts), obs=pd.DataFrame(index=cells.obs_names[order]), var=pd.DataFrame(index=names))


def write_h5mu(path, **modalities):
    with h5py.File(path, "w") as file:
        for name, modality in modalities.items():
            write_elem(file, f"mod/{name}", modality)
    return path


def read_all(path, kind="protein", size=7, **options):
    with open_cells(path) as opened:
        reader = opened.open_field(FieldRequest(kind, **options))
        parts = [reader.read(low, min(low + size, opened.n_cells)) for low in range(0, opened.n_cells, size)]
        values = np.concatenate([values.toarray() for values, _ in parts])
        return reader, values, np.concatenate([present for _, present in parts])


def test_a_modality_in_the_same_order(cells, tmp_path):
    panel = stained(cells)
    reader, values, present = read_all(write_h5mu(tmp_path / "x.h5mu", rna=cells, prot=panel))
    assert reader.names == ["CD3", "CD4", "CD19", "IgG1"]
    assert reader.label == "mod['prot']"
    assert present.all()
    np.testing.assert_array_equal(values, panel.X.toarray())


@pytest.mark.parametrize("shuffled", [False, True], ids=["in order", "shuffled"])
def test_cells_are_matched_by_name_and_may_lack_the_modality(cells, tmp_path, shuffled):
    order = np.random.default_rng(1).permutation(50)[:35]
    order = order if shuffled else np.sort(order)
    panel = stained(cells, order=order)
    _, values, present = read_all(write_h5mu(tmp_path / "x.h5mu", rna=cells, adt=panel))
    assert np.array_equal(np.flatnonzero(present), np.sort(order))
    np.testing.assert_array_equal(values[order], panel.X.toarray())
    assert not values[~present].any()


def test_a_table_in_obsm_and_a_feature_type(cells, tmp_path):
    panel = stained(cells).X.toarray()
    with_table = cells.copy()
    with_table.obsm["protein_expression"] = pd.DataFrame(panel, index=cells.obs_names, columns=PANEL)
    with_table.write_h5ad(tmp_path / "table.h5ad")
    kinds = ["Gene Expression"] * cells.n_vars + ["Antibody Capture"] * 4
    var = pd.DataFrame({"feature_types": kinds}, index=[*cells.var_names, *PANEL])
    both = ad.AnnData(csr_matrix(np.hstack([cells.X.toarray(), panel])), obs=cells.obs, var=var)
    both.write_h5ad(tmp_path / "types.h5ad")
    for name, label in (("table", "obsm['protein_expression']"), ("types", "'Antibody Capture' features of X")):
        reader, values, present = read_all(tmp_path / f"{name}.h5ad")
        assert reader.names == ["CD3", "CD4", "CD19", "IgG1"]
        assert reader.label == label
        assert present.all()
        np.testing.assert_array_equal(values, panel)
        with open_cells(tmp_path / f"{name}.h5ad") as opened:
            assert len(opened.genes) == cells.n_vars, "the genes are as without the proteins"
            assert (next(opened.blocks(0, 50, 50)).counts != cells.X).nnz == 0
    with open_cells(with_table) as opened:  # in memory
        np.testing.assert_array_equal(opened.open_field(FieldRequest("protein")).read(3, 9)[0].toarray(), panel[3:9])


def test_what_is_not_there_is_said(cells, tmp_path):
    path = write_h5mu(tmp_path / "x.h5mu", rna=cells, antibodies_raw=stained(cells))
    with open_cells(path) as opened:
        with pytest.raises(MissingFieldError, match=r"usual for protein; it has 'antibodies_raw': name one"):
            opened.open_field(FieldRequest("protein"))
        with pytest.raises(MissingFieldError, match=r"feature type 'antibodies'; .*did you mean 'antibodies_raw'"):
            opened.open_field(FieldRequest("protein", "antibodies"))
        assert opened.open_field(FieldRequest("protein", "antibodies_raw")).names[0] == "CD3"


@pytest.mark.parametrize(("value", "word"), [(-0.7, "negative"), (0.25, "fractions"), (np.nan, "NaN")])
def test_values_that_are_no_counts_are_refused_unless_told(cells, tmp_path, value, word):
    panel = stained(cells)
    panel.X = panel.X.astype(np.float32)
    panel.X[4, 1] = value
    path = write_h5mu(tmp_path / "x.h5mu", rna=cells, prot=panel)
    refusal = rf"mod\['prot'\] holds {word}.*expected counts of proteins.*side.raw=false"
    with open_cells(path) as opened, pytest.raises(ValueError, match=refusal):
        opened.open_field(FieldRequest("protein"))
    if np.isfinite(value):
        assert read_all(path, raw=False)[1][4, 1] == np.float32(value)
    else:
        with pytest.raises(ValueError, match="NaN.*expected finite values"):
            read_all(path, raw=False)


def test_a_bad_value_that_the_sample_missed_is_found_where_it_is_read(cells, tmp_path, monkeypatch):
    panel = stained(cells)
    panel.X = panel.X.astype(np.float32)
    panel.X[31, 2] = 0.5
    monkeypatch.setattr("scfm.cells.counts.SAMPLE", 8)
    path = write_h5mu(tmp_path / "x.h5mu", rna=cells, prot=panel)
    with open_cells(path) as opened:
        monkeypatch.setattr("scfm.cells.fields.judge", lambda source, place: _blind(source, place))
        with pytest.raises(ValueError, match=r"0.5 in row 31 at 'CD19'"):
            opened.open_field(FieldRequest("protein")).read(28, 35)


def _blind(source, place):
    from scfm.cells.counts import Candidate

    return Candidate(place, place.matrix(), "counts", "counts")


def test_modalities_that_cannot_be_matched_are_refused(cells, tmp_path):
    twice = stained(cells)
    twice.obs_names = ["cell-1"] * 50
    other = stained(cells)
    other.obs_names = [f"barcode-{i}" for i in range(50)]
    names = stained(cells, names=["CD3", "CD3_TotalSeqB", "CD4"])
    for panel, message in (
        (twice, "several cells called 'cell-1'"),
        (other, "no cell in common"),
        (names, r"two columns of the protein 'CD3': 'CD3' and 'CD3_TotalSeqB'.*side.alias"),
        (stained(cells)[:, :0].copy(), r"its mod\['prot'\] has no features"),
    ):
        path = write_h5mu(tmp_path / "x.h5mu", rna=cells, prot=panel)
        with open_cells(path) as opened, pytest.raises(ValueError, match=message):
            opened.open_field(FieldRequest("protein"))


def test_peaks(cells, tmp_path):
    peaks = stained(cells, names=["chr1:100-600", "chr1_700_900", "chrX-5-90"])
    peaks.var["genome"] = "hg38"
    reader, values, _ = read_all(write_h5mu(tmp_path / "x.h5mu", rna=cells, atac=peaks), "peaks")
    assert reader.names == ["chr1:100-600", "chr1:700-900", "chrX:5-90"]
    assert reader.genome == "hg38"
    np.testing.assert_array_equal(values, peaks.X.toarray())
    with open_cells(tmp_path / "x.h5mu") as opened, pytest.raises(ValueError, match="build 'hg38'.*side.genome='hg19'"):
        opened.open_field(FieldRequest("peaks", genome="hg19"))
    peaks.var["genome"] = ["hg38", "hg19", "hg38"]
    write_h5mu(tmp_path / "y.h5mu", rna=cells, atac=peaks)
    with (
        open_cells(tmp_path / "y.h5mu") as opened,
        pytest.raises(ValueError, match=r"several genome builds \(hg19, hg38"),
    ):
        opened.open_field(FieldRequest("peaks"))
    for names, message in ((["chr1"], "expected CHROMOSOME:START-END"), (["chr1:9-5"], "expected CHROMOSOME")):
        with pytest.raises(ValueError, match=message):
            peak_names(names)
    with pytest.raises(ValueError, match="chr1:1-2 twice"):
        peak_names(["chr1:1-2", "chr1_1_2"])


def test_names_of_proteins():
    same = {
        "CD3": [
            "CD3",
            "CD3_TotalSeqB",
            "CD3-TotalSeqC0034",
            "anti-human CD3",
            "anti-human/mouse CD3",
            "adt_CD3",
            "cd3",
        ],
        "CD127": ["IL7Ralpha (CD127)", "CD127 (IL7Ralpha)"],
        "HLA-DR": ["MHCII (HLA-DR)", "HLA-DR"],
        "CD4": ["CD4 (RPA-T4)", "CD4 TotalSeq-B"],
        "PD-1": ["PD-1"],
        "PD1": ["PD1"],
        "PD-L1": ["PD-L1"],
    }
    for name, spellings in same.items():
        assert {protein_name(spelling) for spelling in spellings} == {name}
    assert protein_name("PD1", {"PD1": "PD-1"}) == "PD-1"
    assert protein_name("PD1_TotalSeqB", {"PD1": "PD-1"}) == "PD-1"
    with pytest.raises(ValueError, match="two columns of the protein 'PD-1'"):
        protein_names(["PD-1", "PD1"], {"PD1": "PD-1"})
    assert all(map(is_isotype, ["IgG1", "IgG2a_control", "Mouse IgG1 isotype", "isotype_IgM"]))
    assert not any(map(is_isotype, ["CD16", "IgD", "FceRIa"]))
