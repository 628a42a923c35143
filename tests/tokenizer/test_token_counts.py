"""The counts behind tokens, against the plain way; in batches of a store and of a mix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import random as random_matrix

from scfm.datasets.synthetic import synthetic_cells
from scfm.preparation.api import prepare
from scfm.store.mix import open_mix
from scfm.store.token_store import TokenStore
from scfm.tokenizer import RankTokenizer, from_dict
from scfm.tokenizer.token_counts import gather_counts
from scfm.types import Ragged
from support import write_made_store


@given(st.integers(0, 10_000), st.sampled_from([np.int32, np.uint16, np.float32, np.float64]))
@settings(deadline=None, max_examples=40)
def test_equal_to_adding_up_gene_by_gene(seed, dtype):
    rng = np.random.default_rng(seed)
    counts = random_matrix(8, 30, density=0.4, format="csr", random_state=rng)
    counts.data = rng.integers(1, 50, counts.nnz).astype(dtype)
    columns = rng.integers(-1, 12, 30).astype(np.int32)  # some genes have no token, some share one
    rows = rng.permutation(8)[:5]
    lists = [rng.permutation(15)[: rng.integers(0, 15)].astype(np.uint16) for _ in rows]
    offsets = np.cumsum([0, *map(len, lists)])
    got = gather_counts(Ragged(np.concatenate(lists), offsets), counts, rows, columns)
    dense = counts.toarray()
    want = [[dense[row, columns == token].sum() for token in tokens] for row, tokens in zip(rows, lists, strict=True)]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, np.concatenate(want))


def test_a_mix_has_counts_where_every_store_has(tmp_path):
    specials = {"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"}
    cells, specials = synthetic_cells(n_cells=40, n_genes=50), {"pad": "<pad>", "mask": "<mask>", "cls": "<cls>"}
    tokenizer, paths = RankTokenizer(name="r", max_length=16, specials={**specials, "eos": "<eos>"}), []
    for name, rows in (("first", slice(0, 20)), ("second", slice(20, 40))):
        cells[rows].write_h5ad(tmp_path / f"{name}.h5ad")
        store = prepare(tmp_path / f"{name}.h5ad", tmp_path / name, tokenizer, keep_counts=True)
        paths, tokenizer = [*paths, str(store.path)], from_dict(store.tokenizer)
    mix, parts = open_mix(paths=paths), [TokenStore.open(path) for path in paths]
    rows = np.arange(40)
    np.testing.assert_array_equal(mix.counts(rows, 8), np.concatenate([part.counts(rows[:20], 8) for part in parts]))
    for name in ("a", "b"):
        write_made_store(tmp_path / name, n_cells=20)
    with pytest.raises(ValueError, match="keep_counts=true"):
        open_mix(paths=[str(tmp_path / "a"), str(tmp_path / "b")]).counts(rows)
