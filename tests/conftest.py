"""Fixtures that every part of the tests uses."""

from pathlib import Path

import pytest

from support import write_made_store

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference files and real cells that are not part of the project."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the reference files (../shared) are not here")
    return folder


@pytest.fixture(scope="session")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small token store that a tiny model learns from in seconds."""
    return write_made_store(tmp_path_factory.mktemp("stores") / "made").path
