"""A local store publishes whole exports or none."""

import errno
import os

import pytest

from hyperexport.errors import DiskFull, StoreUnusable
from hyperexport.model.manifest import FILE_NAME
from hyperexport.store.base import AbandonedStaging, Staging, Store
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
    THIRD,
    an_entry,
    everything,
    manifest_of,
    prove,
    write_export,
    write_file,
)


def test_it_is_a_store(store):
    kept: Store = store
    staging: Staging = store.stage(FOLDER, NEW_ID, OWNER)
    assert kept.url == str(store._root)
    assert staging.export_id == NEW_ID


# -- publishing


def test_a_published_export_is_listed_with_exactly_its_files(root, store):
    export = write_export(store, FIRST)
    assert store.exports() == store.exports(FOLDER) == [export]
    assert everything(root / FOLDER / export.export_id) == {
        **DISKS,
        "db01.ovf": DESCRIPTOR,
        FILE_NAME: export.manifest.to_json(),
    }
    assert store.abandoned() == []
    prove(store, export)


def test_exports_are_listed_newest_first(store):
    written = [write_export(store, age) for age in (SECOND, FIRST, THIRD)]
    assert store.exports(FOLDER) == [written[2], written[0], written[1]]


def test_a_staged_export_is_invisible_and_says_whose_it_is(root, store):
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        write_file(staging, "disk.vmdk", b"data")
        assert store.exports() == []
        assert store.listing().damaged == ()
        assert store.abandoned() == [AbandonedStaging(folder=FOLDER, export_id=NEW_ID, owner=OWNER)]
        assert {path.name for path in (root / FOLDER).iterdir()} == {f"{NEW_ID}.partial"}


def test_a_block_left_without_publishing_leaves_nothing(root, store):
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        write_file(staging, "disk.vmdk", b"data")
    assert list(root.iterdir()) == []


def test_a_block_that_fails_leaves_nothing_and_its_error_comes_through(root, store):
    def interrupted():
        with store.stage(FOLDER, NEW_ID, OWNER) as staging:
            staging.create("disk.vmdk").write(memoryview(b"data"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(root.iterdir()) == []


def test_a_discarded_export_leaves_the_others_of_its_vm(store):
    export = write_export(store, FIRST)
    with store.stage(FOLDER, NEW_ID, OWNER):
        pass
    assert store.exports() == [export]


def test_what_is_published_survives_the_end_of_the_block_and_a_late_discard(store):
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        entry = write_file(staging, "disk.vmdk", b"data")
        export = staging.publish(manifest_of(SECOND, entry))
        staging.discard()
    assert store.exports() == [export]


def test_an_export_that_is_already_there_is_not_begun_again(store):
    export = write_export(store, SECOND)
    with pytest.raises(StoreUnusable, match="already exists"), store.stage(FOLDER, NEW_ID, OWNER):
        pass
    assert store.exports() == [export]


def test_a_staging_that_is_already_there_is_left_to_its_owner(root, store):
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        write_file(staging, "disk.vmdk", b"data")
        with pytest.raises(StoreUnusable), store.stage(FOLDER, NEW_ID, OWNER):
            pass
        assert (root / FOLDER / f"{NEW_ID}.partial" / "disk.vmdk").read_bytes() == b"data"


def test_a_file_begun_again_holds_nothing_of_the_first_try(store):
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        first = staging.create("disk.vmdk")
        first.write(memoryview(b"a longer first try"))
        entry = write_file(staging, "disk.vmdk", b"second")
        first.abort()
        prove(store, staging.publish(manifest_of(SECOND, entry)))


def test_a_removed_file_is_gone_and_removing_it_twice_is_no_matter(root, store):
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        write_file(staging, "disk.vmdk", b"data")
        staging.remove("disk.vmdk")
        staging.remove("disk.vmdk")
        assert not (root / FOLDER / f"{NEW_ID}.partial" / "disk.vmdk").exists()


def test_a_staged_file_can_be_read_back(store):
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        write_file(staging, "disk.vmdk", b"0123456789")
        with staging.open("disk.vmdk") as reader:
            assert (reader.size, reader.read_at(3, 4)) == (10, b"3456")


@pytest.mark.parametrize(
    "files",
    [
        (an_entry("missing.vmdk", b"data"),),
        (an_entry("disk.vmdk", b"another length"),),
    ],
)
def test_a_manifest_that_does_not_fit_the_files_is_not_published(store, files):
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        write_file(staging, "disk.vmdk", b"data")
        with pytest.raises(StoreUnusable):
            staging.publish(manifest_of(SECOND, *files))
    assert store.exports() == []


def test_the_manifest_of_another_export_is_not_published(store):
    with pytest.raises(StoreUnusable, match="cannot publish"), store.stage(FOLDER, NEW_ID, OWNER) as staging:
        staging.publish(manifest_of(THIRD))
    assert store.exports() == []


def test_publishing_that_fails_after_the_rename_leaves_no_export(root, store, monkeypatch):
    synced = os.fsync

    def failing(descriptor):
        if (root / FOLDER / NEW_ID).exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StoreUnusable, match="Input/output error"), store.stage(FOLDER, NEW_ID, OWNER) as staging:
        staging.publish(manifest_of(SECOND))
    assert list(root.iterdir()) == []


def test_a_disk_that_is_full_when_the_mark_is_written_leaves_nothing(root, store, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="No space left"), store.stage(FOLDER, NEW_ID, OWNER):
        pass
    assert list(root.iterdir()) == []


# -- reusing


def test_a_reused_disk_costs_nothing_and_outlives_its_first_export(root, store):
    first = write_export(store, FIRST)
    second = write_export(store, SECOND, reuse=first)
    entry = second.manifest.file(DISK_1)
    assert (entry.transferred, entry.stored_in) == (False, None)
    paths = [root / FOLDER / export.export_id / DISK_1 for export in (first, second)]
    assert paths[0].samefile(paths[1])
    store.delete(first)
    prove(store, second)


def test_a_reused_file_replaces_a_finished_one_of_its_name(root, store):
    first = write_export(store, FIRST)
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        write_file(staging, DISK_1, DISKS[DISK_1])
        staging.reuse(first, first.manifest.file(DISK_1), DISK_1)
        entry = staging.reuse(first, first.manifest.file(DISK_1), DISK_1)
        second = staging.publish(manifest_of(SECOND, entry))
    prove(store, second)
    assert set(everything(root / FOLDER / NEW_ID)) == {DISK_1, FILE_NAME}


def test_writing_a_name_that_was_reused_does_not_write_into_the_earlier_export(store):
    first = write_export(store, FIRST)
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        staging.reuse(first, first.manifest.file(DISK_1), DISK_1)
        entry = write_file(staging, DISK_1, b"fresh")
        prove(store, staging.publish(manifest_of(SECOND, entry)))
    prove(store, first)


def damage_by_removing(path):
    path.unlink()


def damage_by_cutting(path):
    path.write_bytes(path.read_bytes()[:-1])


def damage_by_linking(path):
    content = path.read_bytes()
    path.unlink()
    path.with_name("elsewhere").write_bytes(content)
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("damage", [damage_by_removing, damage_by_cutting, damage_by_linking])
def test_a_file_that_is_not_there_as_it_was_is_not_reused(root, store, damage):
    first = write_export(store, FIRST)
    damage(root / FOLDER / first.export_id / DISK_1)
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        write_file(staging, DISK_1, b"what was there stays")
        assert staging.reuse(first, first.manifest.file(DISK_1), DISK_1) is None
        with staging.open(DISK_1) as reader:
            assert reader.read_at(0, 100) == b"what was there stays"


def test_a_member_of_an_ova_is_not_reused(store):
    first = write_export(store, FIRST)
    member = an_entry(DISK_0, b"x", member_of="db01.ova", offset=512)
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        assert staging.reuse(first, member, DISK_0) is None


def test_where_links_are_refused_nothing_is_reused(store, monkeypatch):
    first = write_export(store, FIRST)

    def refused(*_, **__):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        assert staging.reuse(first, first.manifest.file(DISK_1), DISK_1) is None
