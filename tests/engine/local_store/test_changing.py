"""A local store changes and deletes nothing outside the export that is meant, whatever a name holds."""

import errno
import os

import pytest

from hyperexport.errors import ExportNotFound, StoreUnusable
from hyperexport.model.manifest import FILE_NAME
from hyperexport.model.marks import PreservedMark
from hyperexport.store.base import AbandonedStaging
from tests.engine.local_exports import (
    DESCRIPTOR,
    DISK_0,
    DISK_1,
    DISKS,
    FIRST,
    FOLDER,
    NEW_ID,
    OWNER,
    SECOND,
    everything,
    manifest_of,
    prove,
    write_export,
    write_file,
)

# -- changing and deleting


def test_what_a_mark_says_is_what_is_listed(root, store):
    export = write_export(store, FIRST)
    before = everything(root / FOLDER / export.export_id)
    changed = store.write_mark(export, PreservedMark(export_id=export.export_id, preserve=True))
    assert store.exports() == [changed]
    assert changed.manifest.preserve
    assert everything(root / FOLDER / export.export_id).keys() - before.keys() == {"mark-preserved.json"}
    assert everything(root / FOLDER / export.export_id).items() >= before.items()


def test_a_mark_is_written_only_where_the_export_is(root, store):
    export = write_export(store, FIRST)
    store.delete(export)
    with pytest.raises(ExportNotFound):
        store.write_mark(export, PreservedMark(export_id=export.export_id, preserve=True))
    assert list(root.iterdir()) == []


def test_a_deleted_export_is_gone_with_its_vms_folder_and_the_bytes_freed_are_told(root, store):
    export = write_export(store, FIRST)
    size = sum(len(data) for data in everything(root).values() if data)
    assert store.delete(export) == size
    assert list(root.iterdir()) == []


def test_bytes_that_another_export_keeps_are_not_freed(store):
    first = write_export(store, FIRST)
    second = write_export(store, SECOND, reuse=first)
    assert store.delete(first) == sum(map(len, DISKS.values())) - len(DISKS[DISK_1]) + len(DESCRIPTOR) + len(
        first.manifest.to_json()
    )
    assert store.exports() == [second]


def test_deleting_what_is_not_there_is_not_found(store):
    export = write_export(store, FIRST)
    store.delete(export)
    with pytest.raises(ExportNotFound):
        store.delete(export)


def test_what_cannot_be_deleted_whole_is_not_listed_any_more_and_can_be_removed_later(root, store, monkeypatch):
    export = write_export(store, FIRST)
    unlink = os.unlink

    def stuck(path, **options):
        if str(path).endswith(DISK_1):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", stuck)
        with pytest.raises(StoreUnusable, match="Input/output error"):
            store.delete(export)
    assert store.exports() == []
    assert store.sweep(FOLDER) == [str(export)]
    assert list(root.iterdir()) == []


def test_deleting_never_follows_a_link(root, store, tmp_path):
    export = write_export(store, FIRST)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    (root / FOLDER / export.export_id / "link").symlink_to(outside)
    store.delete(export)
    assert (outside / "mine").read_text() == "mine"


@pytest.mark.parametrize("level", ["vm", "export"])
def test_a_link_in_the_place_of_a_folder_is_refused(root, store, tmp_path, level):
    export = write_export(store, FIRST)
    path = root / FOLDER if level == "vm" else root / FOLDER / export.export_id
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    before = everything(tmp_path / "moved")
    for act in (
        lambda: store.delete(export),
        lambda: store.write_mark(export, PreservedMark(export_id=export.export_id, preserve=True)),
        lambda: store.open(export, DISK_0),
        lambda: store.stage(FOLDER, export.export_id, OWNER).__enter__(),
        lambda: store.remove_abandoned(AbandonedStaging(folder=FOLDER, export_id=export.export_id, owner=None)),
    ):
        with pytest.raises(StoreUnusable, match="symbolic link"):
            act()
    assert everything(tmp_path / "moved") == before


# -- names


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../disk",
        "/etc/passwd",
        "a/b",
        "a\\b",
        ".owner.json",
        ".hidden",
        "a\0b",
        "a\nb",
        "x" * 256,
        FILE_NAME,
    ],
)
def test_no_name_reaches_out_of_the_exports_folder(root, store, name):
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        before = everything(root.parent)
        for act in (lambda: staging.create(name), lambda: staging.put(name, b"x"), lambda: staging.remove(name)):
            with pytest.raises(StoreUnusable):
                act()
        assert everything(root.parent) == before


@pytest.mark.parametrize("folder", ["..", "../x.00000000", "a/b.00000000", "", "my-vm", ".hidden.00000000"])
def test_no_folder_but_a_vms_is_written(root, store, folder):
    with pytest.raises(StoreUnusable, match=r"not a valid .*name"):
        store.stage(folder, NEW_ID, OWNER)
    assert store.exports(folder) == []


@pytest.mark.parametrize("export_id", ["..", "latest", "20261121T060000Z-0000/..", ""])
def test_no_export_has_a_name_of_another_form(store, export_id):
    with pytest.raises(StoreUnusable, match=r"not a valid .*name"):
        store.stage(FOLDER, export_id, OWNER)


def test_names_as_people_give_them_are_kept(store):
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        entries = [write_file(staging, name, b"x") for name in ("Büro Server-disk-0.vmdk", "a..b", "файл.ovf")]
        prove(store, staging.publish(manifest_of(SECOND, *entries)))
