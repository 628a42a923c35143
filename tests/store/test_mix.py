"""Several stores as one: their cells and labels, the weights in training, the same for any ranks and workers."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from scfm.checkpoint import read
from scfm.data.loader import CellLoader, PackedCells
from scfm.data.module import CellData
from scfm.store.mix import MixedStore, open_mix
from scfm.store.token_store import TokenStore
from scfm.types import Needs, Sampling
from support import command, write_made_store


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """A large store and a small one; their types overlap."""
    folder = tmp_path_factory.mktemp("mix")
    write_made_store(folder / "large", n_cells=240, seed=1)
    write_made_store(folder / "small", n_cells=80, seed=2, types=("T", "Mono", "B"))
    return [str(folder / "large"), str(folder / "small")]


@pytest.fixture(scope="module")
def mix(paths):
    return open_mix(paths=paths, weights=[1, 3])


def data(mix, **options):
    return CellData(mix, tokens_per_batch=256, tokens_per_step=1024, seed=3, **options)


def test_cells_and_labels_are_those_of_the_stores(mix, paths):
    parts = [TokenStore.open(path) for path in paths]
    assert len(mix) == 320
    assert mix.columns == ("cell_type", "donor", "age")
    assert mix.group == "donor"
    rows = np.array([310, 5, 239, 240])
    got = mix.gather(rows)
    for i, row in enumerate(rows):
        part, at = (parts[0], row) if row < 240 else (parts[1], row - 240)
        assert got[i].tolist() == part.gather(np.array([at]))[0].tolist()
    assert mix.categories("cell_type") == ("B", "NK", "T", "Mono")
    for column in ("cell_type", "donor"):
        named = [mix.categories(column)[code] for code in mix.obs(column)]
        assert named == [part.categories(column)[code] for part in parts for code in part.obs(column)]
    np.testing.assert_array_equal(mix.obs("age"), np.concatenate([part.obs("age") for part in parts]))
    assert mix.categories("file") == (f"{paths[0]}/cells", f"{paths[1]}/cells")
    assert np.bincount(mix.obs("file")).tolist() == np.bincount(mix.sources).tolist() == [240, 80]
    assert mix.lengths.tolist() == [n for part in parts for n in part.lengths]
    again = pickle.loads(pickle.dumps(mix))
    assert (again.weights, len(again), again.fingerprint) == (mix.weights, 320, mix.fingerprint)


def test_donors_of_one_name_stay_on_one_side(mix):
    split = data(mix, val=0.25, test=0.25).split
    donors = [set(mix.obs("donor")[rows]) for rows in (split.train, split.val, split.test)]
    assert all(donors)
    assert not (donors[0] & donors[1] or donors[0] & donors[2] or donors[1] & donors[2])


@pytest.mark.parametrize("group", ["auto", None])
def test_weights_are_shares_of_the_training_tokens_and_nothing_else(mix, group):
    cells = data(mix, group=group, val=0.25)
    rows = cells.order(cells.split.train, multiple=4, shuffle=True).epoch(0).rows
    assert set(rows) <= set(cells.split.train)
    tokens = np.bincount(mix.sources[rows], mix.lengths[rows])
    assert tokens[1] / tokens.sum() == pytest.approx(0.75, abs=0.01)
    held_out = cells.order(cells.split.val, multiple=1, shuffle=False).epoch(0).rows
    np.testing.assert_array_equal(held_out, cells.split.val)


def loader(mix, rank=0, world=1, workers=0, **options):
    cells = data(mix, val=0.25, test=0.25, **options)
    order = cells.order(cells.split.train, multiple=cells.micro_batches(world), shuffle=True)
    return CellLoader(PackedCells(mix, ["cell_type"]), order, rank=rank, world=world, workers=workers)


def steps(mix, world, workers, **options):
    """Cells and seeds of each optimizer step of 4 micro-batches, two epochs, whatever the ranks."""
    found = []
    for rank in range(world):
        one = loader(mix, rank, world, workers, **options)
        found.append([(batch.seed, *batch.index.tolist()) for _ in range(2) for batch in one])
    per_step = 4 // world
    return [
        sorted(batch for rank in found for batch in rank[step : step + per_step])
        for step in range(0, len(found[0]), per_step)
    ]


@pytest.mark.parametrize("shuffle", ["cells", "blocks"])
@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 0), (2, 2), (4, 0), (4, 2)])
def test_the_steps_are_the_same_for_any_ranks_and_workers(mix, world, workers, shuffle):
    options = {"shuffle": shuffle, "shuffle_block": 4, "shuffle_pool": 32}
    assert steps(mix, world, workers, **options) == steps(mix, 1, 0, **options)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 5, 30])
def test_resume_continues_with_the_very_next_cell(mix, workers, stop):
    uninterrupted = [(batch.seed, *batch.index.tolist()) for one in [loader(mix)] for _ in range(3) for batch in one]
    one, taken = loader(mix, workers=workers), []
    while len(taken) < stop:
        for batch in one:
            taken.append((batch.seed, *batch.index.tolist()))
            if len(taken) == stop:
                break
    other = loader(mix, workers=workers)
    other.load_state_dict(one.state_dict())
    rest = [(batch.seed, *batch.index.tolist()) for _ in range(3) for batch in other]
    whole = taken + rest
    assert whole[: len(uninterrupted)] == uninterrupted


def test_another_order_is_no_resume(mix, paths):
    state = loader(mix).state_dict()
    for other in (loader(open_mix(paths=paths, weights=[1.1, 3])), loader(mix, shuffle="blocks")):
        other.place.order.n_batches = state["n_batches"]
        with pytest.raises(ValueError, match=r"another order of the cells .*resume with the same"):
            other.load_state_dict(state)


def test_without_weights_every_cell_is_read_once(paths):
    cells = data(open_mix(paths=paths), val=0, test=0)
    assert sorted(cells.order(cells.split.train, multiple=4, shuffle=True).epoch(1).rows) == list(range(320))


def test_a_run_on_a_mix(paths, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from support import SMALL

    stores = f"store.paths=['{paths[0]}','{paths[1]}']"
    steps = ("trainer.max_steps=3", "validate_every=3")
    loss = command("train", "data=mix", stores, "store.weights=[1,3]", "output=run", *steps, *SMALL)
    assert np.isfinite(loss)
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert [str(path) for path in read(last).stores] == [str(Path(path).resolve()) for path in paths]
    options = ("data.unseen=ignore", *steps, *(part for part in SMALL if not part.startswith("model.")))
    command("finetune", f"init_from={last}", f"store={paths[1]}", "output=fine", *options)
    page = (tmp_path / "fine/report.html").read_text()
    assert f"100.0% of the test cells are in {Path(paths[1]).resolve()}" in page


def test_refusals(paths, mix, tmp_path):
    write_made_store(tmp_path / "other", n_cells=20, n_genes=30)
    with pytest.raises(ValueError, match=r"large has vocabulary .* but the store .*other has"):
        open_mix(paths=[paths[0], str(tmp_path / "other")])
    with pytest.raises(ValueError, match=r"weights=\[1\] for 2 stores"):
        open_mix(paths=paths, weights=[1])
    with pytest.raises(ValueError, match="one number above 0"):
        open_mix(paths=paths, weights=[1, 0])
    with pytest.raises(ValueError, match="store.paths is empty"):
        open_mix(paths=[])
    with pytest.raises(FileNotFoundError, match="there is no store"):
        open_mix(paths=[paths[0], "nowhere"])
    cells = data(mix).planned(Needs(sampling=Sampling("cell_type")))
    with pytest.raises(ValueError, match="store.weights=null"):
        cells.order(cells.split.train, multiple=1, shuffle=True)
    with pytest.raises(ValueError, match="not written with scfm-prepare shuffle=true"):
        data(mix, shuffle="stored")


def test_stores_that_rank_differently_or_group_differently_are_told(paths, caplog):
    one, two = (TokenStore.open(path) for path in paths)
    two.tokenizer, two.group = {**two.tokenizer, "name": "another"}, None
    mixed = MixedStore([one, two])
    assert mixed.group is None
    assert "their tokenizers differ in name" in caplog.text
    assert "different groups together (donor, None)" in caplog.text


def test_stored_reads_a_shuffled_store_from_one_end_to_the_other(made_store):
    store = TokenStore.open(made_store)
    store._meta = {**store._meta, "shuffled": 0}
    cells = data(store, shuffle="stored", group=None)
    rows = cells.order(cells.split.train, multiple=1, shuffle=True).epoch(4).rows
    np.testing.assert_array_equal(rows, cells.split.train)
