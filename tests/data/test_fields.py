"""A second modality in batches: aligned with its cells by every operation, and absent where no head asks for it."""

import numpy as np
import pytest
import torch

from scfm.data.module import CellData
from scfm.store.fields import Field
from scfm.store.from_cells import write_store
from scfm.store.token_store import TokenStore
from scfm.store.writer import Cells
from scfm.types import Needs, Ragged, field_key
from support import made_vocab, write_made_store

N, P = 60, 4


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fields")
    plain = write_made_store(folder / "plain", n_cells=N)
    rng = np.random.default_rng(0)
    stained = np.arange(N) % 3 > 0
    panel = np.arange(N * P, dtype=np.float32).reshape(N, P)
    panel[::2, 1] = np.nan
    opened = [np.sort(rng.choice(30, rng.integers(0, 9), replace=False)) for _ in range(N)]
    cells = Cells(
        plain.gather(np.arange(N)),
        names=np.array(plain.names(np.arange(N))),
        file=np.zeros(N, dtype=np.int64),
        hashes=plain.hashes,
        obs={"cell_type": plain.obs("cell_type")},
        fields={
            "protein": Ragged(panel[stained].ravel(), np.concatenate([[0], np.cumsum(stained * P)])),
            "peaks": Ragged(
                np.concatenate(opened).astype(np.int32), np.concatenate([[0], np.cumsum([len(one) for one in opened])])
            ),
        },
    )
    fields = {
        "protein": Field(tuple(f"P{i}" for i in range(P))),
        "peaks": Field(tuple(f"chr1:{i}-{i + 1}" for i in range(30)), genome="hg38"),
    }
    tokenizer = {"name": "made_up", "vocab": made_vocab(40).to_dict()}
    made = write_store(
        folder / "s", [cells], tokenizer=tokenizer, columns={"cell_type": ["B", "NK", "T"]}, fields=fields
    )
    panel[~stained] = np.nan
    return made, panel, opened


def test_batches_carry_what_a_head_asks_for(store):
    made, panel, opened = store
    data = CellData(made, tokens_per_batch=200, val=0.2, test=0.2).planned(Needs(fields=("protein", "peaks")))
    assert data.fields() == {kind: field.names for kind, field in made.fields.items()}
    n = 0
    for batch in data.loader(np.arange(N), alone=True):
        pieces = [batch, *batch.split(3), batch.select_cells(torch.arange(batch.n_cells) % 2 == 0)]
        for piece in pieces:
            rows = piece.index.numpy()
            np.testing.assert_array_equal(piece.obs[field_key("protein")], panel[rows])
            for row, peaks in zip(rows, piece.obs[field_key("peaks")].numpy(), strict=True):
                assert peaks[peaks >= 0].tolist() == opened[row].tolist()
        padded = batch.padded_to(512, 64)
        assert padded.obs[field_key("protein")][batch.n_cells :].isnan().all()
        assert (padded.obs[field_key("peaks")][batch.n_cells :] == -1).all()
        n += batch.n_cells
    assert n == N


def test_without_a_request_batches_are_as_before(store):
    data = CellData(store[0], tokens_per_batch=200).planned(Needs(labels=("cell_type",)))
    assert set(next(iter(data.loader(np.arange(9), alone=True))).obs) == {"cell_type"}


def test_a_store_without_it_is_refused(tmp_path):
    data = CellData(write_made_store(tmp_path / "s"))
    with pytest.raises(ValueError, match=r"keeps no protein: prepare it again with side.protein=auto"):
        data.planned(Needs(fields=("protein",)))


def test_a_worker_reads_the_same(store):
    import pickle

    made, panel, _ = store
    again = pickle.loads(pickle.dumps(made))
    assert isinstance(again, TokenStore)
    np.testing.assert_array_equal(again.field("protein", np.array([7, 3])), panel[[7, 3]])
