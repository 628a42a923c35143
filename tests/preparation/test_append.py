"""Files added to a store."""

import numpy as np
import pytest

from prepared import lists
from scfm.preparation.api import append, prepare
from scfm.store.verify import verify
from support import checksums


def test_added_files_are_as_if_prepared_together(files, fitted, tmp_path, store):
    together = prepare(files, tmp_path / "t", fitted, obs=["cell_type"], cells_per_part=50, duplicates="report")
    first = prepare(files[0], tmp_path / "s", fitted, obs=["cell_type"], cells_per_part=50, duplicates="report")
    before = {name: sum for name, sum in checksums(first.path).items() if name.endswith("arrow")}
    more = append(files[1], tmp_path / "s", block_size=9)
    assert lists(more) == lists(together)
    assert more.names(np.arange(300)) == together.names(np.arange(300))
    assert [f["name"] for f in more.files] == [f["name"] for f in together.files]
    assert more.report == together.report
    after = checksums(more.path)
    assert {name: after[name] for name in before} == before
    assert after == checksums(together.path)
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
