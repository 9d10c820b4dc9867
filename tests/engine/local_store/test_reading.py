"""A local store lists and reads what is there; no error is taken for an empty answer."""

import errno
import os
import re
from pathlib import Path

import pytest

from hyperexport.errors import ExportNotFound, StoreUnusable
from hyperexport.model.manifest import FILE_NAME
from hyperexport.store.listing import StoreListing
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
    assert (store.exports(), store.exports(FOLDER), store.abandoned()) == ([], [], [])
    assert store.listing() == StoreListing()


def test_what_is_not_ours_is_not_seen(root, store):
    export = write_export(store, FIRST)
    (root / "lost+found").mkdir(mode=0)
    (root / "notes.txt").write_text("mine")
    (root / FOLDER / "notes").mkdir()
    (root / FOLDER / "20261101T000000Z-beef.partial").write_text("a file, not a folder")
    (root / "my-vm").mkdir()
    (root / FOLDER / export.export_id).rename(root / "my-vm" / export.export_id)
    assert store.listing() == StoreListing()
    assert store.abandoned() == []


def damaged(store):
    """What cannot be relied on, and why."""
    return {str(one): str(one.problem) for one in store.listing().damaged}


def test_a_link_or_a_file_in_the_place_of_a_folder_is_named_and_never_followed(root, store):
    export = write_export(store, FIRST)
    (root / "linked.4f0e7a52").symlink_to(root / FOLDER)
    (root / "file.4f0e7a52").write_text("a file, not a folder")
    (root / FOLDER / "20261101T000000Z-0001").symlink_to(root / FOLDER / export.export_id)
    (root / FOLDER / "20261101T000000Z-0002").write_text("a file, not a folder")
    assert store.exports() == [export]
    assert damaged(store) == {
        "linked.4f0e7a52": "not-a-folder",
        "file.4f0e7a52": "not-a-folder",
        f"{FOLDER}/20261101T000000Z-0001": "not-a-folder",
        f"{FOLDER}/20261101T000000Z-0002": "not-a-folder",
    }
    assert [str(one) for one in store.listing("linked.4f0e7a52").damaged] == ["linked.4f0e7a52"]
    assert store.exports("linked.4f0e7a52") == []
    assert len(store.manifest_versions()) == 5


def test_an_export_whose_manifest_is_gone_is_damaged_and_no_staging(root, store):
    kept, gone = write_export(store, FIRST), write_export(store, SECOND)
    (root / FOLDER / gone.export_id / FILE_NAME).unlink()
    assert store.exports() == [kept]
    assert damaged(store) == {str(gone): "manifest-missing"}
    assert store.abandoned() == []
    assert store.sweep() == []
    assert (root / FOLDER / gone.export_id / DISK_0).read_bytes() == DISKS[DISK_0]


def test_an_export_whose_bytes_another_one_should_hold_is_damaged_with_that_one(root, store):
    first = write_export(store, FIRST)
    manifest = manifest_of(SECOND, an_entry(DISK_0, DISKS[DISK_0], stored_in=first.export_id))
    with store.stage(FOLDER, manifest.export_id, OWNER) as staging:
        second = staging.publish(manifest)
    assert store.exports() == [second, first]
    path = root / FOLDER / first.export_id / FILE_NAME
    path.write_bytes(path.read_bytes().replace(b"run-1", b"run-2"))
    assert store.exports() == []
    assert damaged(store) == {str(first): "seal-broken", str(second): "bytes-missing"}
    with pytest.raises(ExportNotFound, match="has a broken seal"), store.open(second, DISK_0):
        pass


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", b'{"schema_version": 99}', b"[" * 100_000])
def test_an_unreadable_manifest_is_damaged_and_does_not_hide_the_others(root, store, data, caplog):
    good, bad = write_export(store, FIRST), write_export(store, SECOND)
    (root / FOLDER / bad.export_id / FILE_NAME).write_bytes(data)
    assert store.exports() == [good]
    assert damaged(store) == {str(bad): "manifest-invalid"}
    assert "left out of the listing" in caplog.text


def test_a_manifest_that_is_no_file_is_damaged(root, store):
    good, link, folder = (write_export(store, age) for age in (FIRST, SECOND, THIRD))
    for export in (link, folder):
        (root / FOLDER / export.export_id / FILE_NAME).unlink()
    (root / FOLDER / link.export_id / FILE_NAME).symlink_to(root / FOLDER / good.export_id / FILE_NAME)
    (root / FOLDER / folder.export_id / FILE_NAME).mkdir()
    assert store.exports() == [good]
    assert damaged(store) == {str(link): "manifest-invalid", str(folder): "manifest-invalid"}


def test_a_copied_export_under_another_id_is_damaged_not_a_second_one(root, store):
    export = write_export(store, FIRST)
    (root / FOLDER / export.export_id).rename(root / FOLDER / NEW_ID)
    assert store.exports() == []
    assert damaged(store) == {f"{FOLDER}/{NEW_ID}": "manifest-of-another-export"}


def test_a_listing_that_fails_is_an_error_and_no_empty_list(root, store, monkeypatch):
    write_export(store, FIRST)
    scandir = os.scandir

    def failing(path):
        if Path(path) == root / FOLDER:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    for listing in (store.exports, store.listing, store.abandoned):
        with pytest.raises(StoreUnusable, match="Input/output error"):
            listing()


def refuse_to_open(monkeypatch, refused, code):
    """Have the system refuse to open one file, as a failing disk or a foreign owner does."""
    really = os.open

    def opened(path, *arguments, **named):
        if Path(path) == refused:
            raise OSError(code, os.strerror(code))
        return really(path, *arguments, **named)

    monkeypatch.setattr(os, "open", opened)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_manifest_that_cannot_be_read_fails_nothing_else(root, store, monkeypatch, code):
    good, bad = write_export(store, FIRST), write_export(store, SECOND)
    refuse_to_open(monkeypatch, root / FOLDER / bad.export_id / FILE_NAME, code)
    assert store.exports() == [good]
    (one,) = store.listing().damaged
    assert (str(one), str(one.problem)) == (str(bad), "unreadable")
    assert os.strerror(code) in one.reason
    assert set(store.manifest_versions()) == {(FOLDER, good.export_id), (FOLDER, bad.export_id)}
    with pytest.raises(StoreUnusable, match=re.escape(os.strerror(code))):
        store.delete(bad)


def test_a_folder_that_cannot_be_listed_hides_no_other_vm(root, store, monkeypatch):
    export = write_export(store, FIRST)
    (root / "web01.12345678").mkdir()
    scandir = os.scandir

    def failing(path):
        if Path(path) == root / "web01.12345678":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    assert store.exports() == [export]
    assert damaged(store) == {"web01.12345678": "unreadable"}
    assert store.abandoned() == []
    with pytest.raises(StoreUnusable, match="Permission denied"):
        store.listing("web01.12345678")


@pytest.mark.parametrize("tag", [b"", b"{}", b'{"tool": "hyperexport"}\n'])
def test_an_owner_tag_that_tells_nothing_leaves_its_staging_in_doubt(root, store, tag):
    with store.stage(FOLDER, NEW_ID, OWNER):
        (root / FOLDER / f"{NEW_ID}.partial" / ".owner.json").write_bytes(tag)
        (found,) = store.abandoned()
        assert found.owner is None
        assert found.doubt == "its owner tag is damaged"


def test_a_staging_with_a_whole_owner_tag_that_rotted_is_not_swept(root, store):
    with store.stage(FOLDER, NEW_ID, OWNER):
        tag = root / FOLDER / f"{NEW_ID}.partial" / ".owner.json"
        data = tag.read_bytes()
        for place in range(len(data)):
            tag.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            assert store.sweep() == []
            assert tag.exists()
        for end in (0, 1, len(data) - 3):  # what a crash leaves of a tag
            tag.parent.mkdir(exist_ok=True, parents=True)
            tag.write_bytes(data[:end])
            assert store.sweep() == [f"{FOLDER}/{NEW_ID}"]


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
