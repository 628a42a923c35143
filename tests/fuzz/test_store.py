"""Whatever the files of a store say, it is read or refused with a sentence, and nothing of it crashes the process."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import bounded, values
from scfm.store.layout import write_json
from scfm.store.manifest import add_checksum
from scfm.store.token_store import TokenStore
from scfm.store.verify import verify
from support import write_made_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made_store(tmp_path_factory.mktemp("fuzzed") / "store", n_cells=12).path


def use(path: Path) -> None:
    """What a run does with a store."""
    try:
        store = TokenStore.open(path)
        _ = store.lengths, store.hashes, store.names(range(len(store))), len(store.gather(range(len(store))))
        for column in (*store.columns, "file"):
            store.obs(column)
    except (ValueError, FileNotFoundError) as error:
        assert "\n" not in str(error)


@bounded(400)
@given(data=st.data())
def test_any_value_anywhere_in_its_metadata(store, data):
    path = store / data.draw(st.sampled_from(["scfm.json", "state.json", "manifest.json"]))
    if not path.exists():
        return
    before = path.read_text()
    state = json.loads(before)
    node, key = {"all": state}, "all"
    for _ in range(data.draw(st.integers(0, 5))):
        inner = node[key]
        keys = (
            sorted(inner)
            if isinstance(inner, dict)
            else list(range(min(3, len(inner))))
            if isinstance(inner, list)
            else []
        )
        if not keys:
            break
        node, key = inner, data.draw(st.sampled_from(keys))
    node[key] = data.draw(values)
    try:
        if path.name == "manifest.json" and isinstance(state, dict):
            with contextlib.suppress(ValueError):  # a number that JSON does not have
                state = add_checksum(state)
        path.write_text(json.dumps(state))
        use(store)
        try:
            verify(store)
        except (ValueError, FileNotFoundError) as error:
            assert "\n" not in str(error)
    finally:
        path.write_text(before)


@bounded(300)
@given(data=st.data())
def test_any_bytes_in_a_part(store, data):
    part = next(store.glob("*.arrow"))
    whole = part.read_bytes()
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    part.unlink()  # the old bytes may be mapped still
    part.write_bytes(changed)
    try:
        use(store)
    finally:
        part.unlink()
        part.write_bytes(whole)


def test_the_store_is_sound(store):
    write_json(store / "x.json", {})
    (store / "x.json").unlink()
    assert len(TokenStore.open(store)) == 12
