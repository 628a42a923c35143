"""A store as the published tools' dataset: the same cells, readable by every release of the library ``datasets``."""

import json

import numpy as np
import pyarrow as pa
import pytest
from datasets import load_from_disk

from scfm.store.token_store import TokenStore
from support import command


def test_a_store_as_a_published_dataset(made_store, tmp_path):
    store, output = TokenStore.open(made_store), tmp_path / "x.dataset"
    command("export", f"store={made_store}", f"output={output}")
    made = load_from_disk(str(output))
    assert made.features["input_ids"].feature.dtype == "int32"
    assert made.features["length"].dtype == "int64"
    assert made.features["cell_type"].dtype == "string"
    assert len(set(made["unique_cell_id"])) == len(store) == len(made)
    ids = store.gather(np.arange(len(store)))
    assert all(made[i]["input_ids"] == ids[i].tolist() for i in range(0, len(store), 17))
    assert list(made["length"]) == store.lengths.tolist()
    names = np.array(store.categories("cell_type"))
    assert list(made["cell_type"]) == names[store.obs("cell_type")].tolist()
    again = TokenStore.open(output, store.tokenizer)
    assert np.array_equal(again.gather(np.arange(len(again))).values, ids.values)
    with pytest.raises(FileExistsError, match="choose another output"):
        command("export", f"store={made_store}", f"output={output}")


def test_releases_before_4_know_its_types(made_store, tmp_path):
    """They have no ``List``, neither in the description nor in what ``datasets`` notes inside an Arrow file."""
    command("export", f"store={made_store}", f"output={tmp_path / 'x.dataset'}")
    features = json.loads((tmp_path / "x.dataset/dataset_info.json").read_text())["features"]
    assert {part["_type"] for part in features.values()} == {"Sequence", "Value"}
    (path,) = (tmp_path / "x.dataset").glob("*.arrow")
    with pa.memory_map(str(path)) as file:
        assert not pa.ipc.open_stream(file).schema.metadata
