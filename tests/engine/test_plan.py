"""An incremental export builds on nothing that is not there as its manifest says."""

from pathlib import Path

import pytest

from hyperexport.steps.plan import newest_with_problem
from hyperexport.store.local import LocalStore
from tests.engine.local_exports import FIRST, FOLDER, SECOND, write_export


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def test_the_newest_export_is_built_on(store: LocalStore) -> None:
    write_export(store, FIRST)
    newest = write_export(store, SECOND)
    assert newest_with_problem(store, store.listing(FOLDER)) == (newest, None)


def test_where_no_export_is_nothing_is_wrong(store: LocalStore) -> None:
    store.delete(write_export(store, FIRST))
    assert newest_with_problem(store, store.listing(FOLDER)) == (None, None)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda file: file.unlink(), "lacks db01-disk-1.vmdk"),
        (lambda file: file.write_bytes(b"short"), "has 5 bytes in place of"),
    ],
    ids=["half deleted", "cut short"],
)
def test_a_damaged_export_is_not_built_on_nor_passed_over_for_an_older_one(
    store: LocalStore, tmp_path: Path, damage, problem
) -> None:
    write_export(store, FIRST)
    newest = write_export(store, SECOND)
    damage(tmp_path / str(newest) / "db01-disk-1.vmdk")
    found, told = newest_with_problem(store, store.listing(FOLDER))
    assert found == newest
    assert str(newest) in (told or "")
    assert problem in (told or "")
