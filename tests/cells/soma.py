"""What test_read_soma.py runs in a process of its own."""

import pytest
import tiledbsoma.io

from scfm.cells.file import open_cells
from tests.cells.test_formats import OBS, require_same

#: Buffers of 1 MB instead of 1 GB, and one thread.
SMALL = {"soma.init_buffer_bytes": 1 << 20, "sm.compute_concurrency_level": 1, "sm.io_concurrency_level": 1}


@pytest.fixture
def context():
    return tiledbsoma.SOMATileDBContext(tiledb_config=SMALL)


def test_an_experiment(cells, tmp_path, context):
    tiledbsoma.io.from_anndata(str(tmp_path / "census"), cells, measurement_name="RNA", context=context)
    require_same(tmp_path / "census", cells, tmp_path, obs=OBS)
    with pytest.raises(ValueError, match=r"no measurement 'RNB'.*did you mean 'RNA'"):
        open_cells(tmp_path / "census", mod="RNB")


def test_a_folder_that_is_no_experiment(tmp_path, context):
    tiledbsoma.Collection.create(str(tmp_path / "other"), context=context).close()
    with pytest.raises(ValueError, match="other.*not a SOMA experiment"):
        open_cells(tmp_path / "other")
