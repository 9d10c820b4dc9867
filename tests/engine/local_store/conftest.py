"""An empty local store."""

from pathlib import Path

import pytest

from hyperexport.store.local import LocalStore


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "exports"


@pytest.fixture
def store(root) -> LocalStore:
    return LocalStore(root)
