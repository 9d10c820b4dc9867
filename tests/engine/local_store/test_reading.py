"""A local store lists and reads what is there; no error is taken for an empty answer."""

import errno
import os
from pathlib import Path

import pytest

from hyperexport.errors import ExportNotFound, StoreUnusable
from hyperexport.model.manifest import FILE_NAME
from hyperexport.store import filesystem
from tests.engine.local_exports import (
    DISK_0,
    DISKS,
    FIRST,
    FOLDER,
    NEW_ID,
    OWNER,
    SECOND,
    THIRD,
    an_entry,
    manifest_of,
    prove,
    write_export,
    write_file,
)

# -- listing


def test_a_store_that_does_not_exist_yet_is_empty(store):
    assert (store.exports(), store.exports(FOLDER), store.abandoned(), store.damaged()) == ([], [], [], [])


def test_what_is_not_ours_is_not_seen(root, store):
    export = write_export(store, FIRST)
    (root / "lost+found").mkdir(mode=0)
    (root / "notes.txt").write_text("mine")
    (root / FOLDER / "notes").mkdir()
    (root / FOLDER / NEW_ID).mkdir()  # no manifest
    (root / FOLDER / "20261101T000000Z-beef.partial").write_text("a file, not a folder")
    (root / "linked.4f0e7a52").symlink_to(root / FOLDER)
    (root / FOLDER / "20261101T000000Z-0001").symlink_to(root / FOLDER / export.export_id)
    (root / "my-vm").mkdir()
    (root / FOLDER / export.export_id).rename(root / "my-vm" / export.export_id)
    assert store.exports() == []
    assert store.exports("linked.4f0e7a52") == []
    assert store.abandoned() == []
    assert store.damaged() == []


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", b'{"schema_version": 99}', b"[" * 100_000])
def test_an_unreadable_manifest_is_damaged_and_does_not_hide_the_others(root, store, data, caplog):
    good, bad = write_export(store, FIRST), write_export(store, SECOND)
    (root / FOLDER / bad.export_id / FILE_NAME).write_bytes(data)
    assert store.exports() == [good]
    assert store.damaged() == [str(bad)]
    assert "left out of the listing" in caplog.text


def test_a_manifest_that_is_no_file_is_damaged(root, store):
    good, link, folder = (write_export(store, age) for age in (FIRST, SECOND, THIRD))
    for export in (link, folder):
        (root / FOLDER / export.export_id / FILE_NAME).unlink()
    (root / FOLDER / link.export_id / FILE_NAME).symlink_to(root / FOLDER / good.export_id / FILE_NAME)
    (root / FOLDER / folder.export_id / FILE_NAME).mkdir()
    assert store.exports() == [good]
    assert store.damaged() == [str(link), str(folder)]


def test_a_copied_export_under_another_id_is_damaged_not_a_second_one(root, store):
    export = write_export(store, FIRST)
    (root / FOLDER / export.export_id).rename(root / FOLDER / NEW_ID)
    assert store.exports() == []
    assert store.damaged() == [f"{FOLDER}/{NEW_ID}"]


def test_a_listing_that_fails_is_an_error_and_no_empty_list(root, store, monkeypatch):
    write_export(store, FIRST)
    scandir = os.scandir

    def failing(path):
        if Path(path) == root / FOLDER:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    for listing in (store.exports, store.damaged, store.abandoned):
        with pytest.raises(StoreUnusable, match="Input/output error"):
            listing()


def test_a_manifest_that_may_not_be_read_fails_the_listing(root, store, monkeypatch):
    write_export(store, FIRST)

    def denied(path):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(filesystem, "open_regular", denied)
    with pytest.raises(StoreUnusable, match="Permission denied"):
        store.exports()


def test_a_file_in_the_place_of_the_root_is_an_error(root, store):
    root.write_text("mine")
    with pytest.raises(StoreUnusable, match="Not a directory"):
        store.exports()
    with pytest.raises(StoreUnusable, match="Not a directory"):
        store.check()
    with pytest.raises(StoreUnusable), store.stage(FOLDER, NEW_ID, OWNER):
        pass


# -- reading


def test_a_file_is_read_at_any_place(store):
    export = write_export(store, FIRST)
    data = DISKS[DISK_0]
    with store.open(export, DISK_0) as reader:
        assert reader.size == len(data)
        assert reader.read_at(0, 4) == b"KDMV"
        assert reader.read_at(len(data) - 3, 100) == data[-3:]
        assert reader.read_at(len(data) + 3, 100) == b""
        assert b"".join(reader.chunks(777)) == data


def test_a_member_of_an_ova_is_read_as_the_file_that_it_is(store):
    inside = b"the member's bytes"
    ova = b"h" * 512 + inside + b"t" * 1000
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        whole = write_file(staging, "db01.ova", ova)
        member = an_entry("db01-disk-0.vmdk", inside, member_of="db01.ova", offset=512)
        export = staging.publish(manifest_of(SECOND, whole, member))
    prove(store, export)
    with store.open(export, member.name) as reader:
        assert reader.read_at(4, 100) == inside[4:]


def test_a_file_kept_in_an_earlier_export_is_read_there(store):
    first = write_export(store, FIRST)
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        entry = an_entry(DISK_0, DISKS[DISK_0], stored_in=first.export_id)
        second = staging.publish(manifest_of(SECOND, entry))
    prove(store, second)


def test_a_missing_file_is_not_found(root, store):
    export = write_export(store, FIRST)
    (root / FOLDER / export.export_id / DISK_0).unlink()
    for name in (DISK_0, "never-was.vmdk"):
        with pytest.raises(ExportNotFound, match=name), store.open(export, name):
            pass


def test_a_link_in_the_place_of_a_file_is_not_followed(root, store, tmp_path):
    export = write_export(store, FIRST)
    (tmp_path / "secret").write_text("secret")
    (root / FOLDER / export.export_id / DISK_0).unlink()
    (root / FOLDER / export.export_id / DISK_0).symlink_to(tmp_path / "secret")
    with pytest.raises(StoreUnusable, match="not a plain file"), store.open(export, DISK_0):
        pass


def test_a_filesystem_keeps_no_checksum(store):
    assert store.checksum(write_export(store, FIRST), DISK_0) is None
