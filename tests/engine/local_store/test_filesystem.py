"""A local store says what its filesystem can bear."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from hyperexport.errors import StoreUnusable
from hyperexport.model.manifest import FILE_NAME
from hyperexport.model.marks import PreservedMark
from hyperexport.store.local import LocalStore
from tests.engine.local_exports import (
    FIRST,
    FOLDER,
    NEW_ID,
    OWNER,
    SECOND,
    everything,
    write_export,
)

ROOT = os.geteuid() == 0


# -- the filesystem


def test_a_check_leaves_nothing_behind_and_makes_no_folder(root, store, tmp_path):
    store.check()
    assert list(tmp_path.iterdir()) == []
    write_export(store, FIRST)
    before = everything(root)
    store.check()
    assert everything(root) == before


@pytest.mark.skipif(ROOT, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_unusable(root, store):
    root.mkdir(mode=0o555)
    for act in (store.check, lambda: store.stage(FOLDER, NEW_ID, OWNER).__enter__()):
        with pytest.raises(StoreUnusable, match=r"Permission denied.*another --output"):
            act()


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs /proc, where nobody makes files")
def test_a_filesystem_that_takes_no_files_is_unusable():
    with pytest.raises(StoreUnusable, match="cannot write to /proc"):
        LocalStore(Path("/proc/exports")).check()


def test_the_free_bytes_are_those_of_the_filesystem_even_before_the_folder_is_there(store, tmp_path):
    status = os.statvfs(tmp_path)
    assert 0 < store.free_bytes() <= status.f_blocks * status.f_frsize


def test_ages_of_exports_are_told_by_their_manifests_not_by_the_filesystem(root, store):
    old, new = write_export(store, timedelta(days=9)), write_export(store, timedelta(days=1))
    os.utime(root / FOLDER / new.export_id, (0, 0))
    assert store.exports() == [new, old]


def test_a_mark_changes_with_the_manifest_and_only_then(store, root):
    first, second = write_export(store, FIRST), write_export(store, SECOND)
    before = store.manifest_versions()
    assert set(before) == {(FOLDER, first.export_id), (FOLDER, second.export_id)}
    assert store.manifest_versions() == before

    store.write_mark(first, PreservedMark(export_id=first.export_id, preserve=True))
    after = store.manifest_versions()
    assert after[FOLDER, first.export_id] != before[FOLDER, first.export_id]
    assert after[FOLDER, second.export_id] == before[FOLDER, second.export_id]

    (root / FOLDER / second.export_id / FILE_NAME).write_bytes(b"{")
    assert store.manifest_versions()[FOLDER, second.export_id] != before[FOLDER, second.export_id]
    (root / FOLDER / second.export_id / FILE_NAME).unlink()
    assert store.manifest_versions()[FOLDER, second.export_id] == "manifest-missing"


def test_marks_of_a_store_that_cannot_be_listed_are_an_error(tmp_path):
    (tmp_path / "exports").write_text("a file")
    with pytest.raises(StoreUnusable):
        LocalStore(tmp_path / "exports").manifest_versions()
