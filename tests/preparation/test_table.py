"""The table that closes scfm-prepare: 80 columns, whatever files are called, and no sum that means nothing."""

import pytest

from scfm.preparation.summary import LEGEND, format_table


def summary(cells: int, name: str = "a.h5ad", **more):
    genes = {
        "n_genes": 58_828, "n_mapped": 20_104, "n_merged": 440, "n_dropped": 38_284, "share_dropped": 0.055,
        "counts": 1000.0, "counts_dropped": 55.0,
    }  # fmt: skip
    return {
        "name": name,
        "cells": cells,
        "kept": cells - 3,
        "genes": genes,
        "median_tokens": 4096,
        "truncated": 7,
        **more,
    }


@pytest.fixture(autouse=True)
def _nothing_rescued(monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr("scfm.preparation.summary._gene_report", lambda state: SimpleNamespace(n_rescued=0))


def lines(*files):
    return format_table(files, {**summary(sum(file["cells"] for file in files)), "dropped": {}}).splitlines()


@pytest.mark.parametrize("name", ["a", "study_one_patient_17_timepoint_2_filtered_feature_bc_matrix.h5", "x" * 300])
def test_it_fits_80_columns(name):
    found = lines(summary(1_234_567, name), summary(9_999_999, "b.h5ad"))
    assert max(map(len, found)) <= 80
    assert len({len(line) for line in found[:4]}) == 1, "columns are aligned"


def test_names_that_begin_alike_stay_apart():
    found = lines(*(summary(100_000, f"GSE123456_atlas_of_the_human_lung_donor_{i}.h5ad") for i in (1, 2)))
    assert found[1].endswith(found[2][-20:]) and found[1] != found[2]
    assert "donor_1.h5ad" in found[1] and "donor_2.h5ad" in found[2]


def test_a_short_name_stays_as_it_is():
    assert lines(summary(10, "pbmc.h5ad"))[1].split() == [
        "pbmc.h5ad", "10", "7", "58,828", "20,104", "5.5%", "4,096", "100.0%",
    ]  # fmt: skip


def test_genes_of_several_files_are_not_added_up():
    total = lines(summary(10), summary(20))[3].split()
    assert total == ["all", "30", "27", "5.5%", "4,096", "25.9%"]


def test_every_head_that_is_no_plain_word_is_explained():
    found = lines(summary(10))
    assert found[2:4] == list(LEGEND)
    assert all(f"{head}:" in " ".join(LEGEND) for head in found[0].split()[3:])
