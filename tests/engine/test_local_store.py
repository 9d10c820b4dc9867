"""What a local store promises: whole exports or none, nothing outside touched, no error taken for an empty answer."""

import errno
import hashlib
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from hyperexport.errors import DiskFull, ExportNotFound, StoreUnusable
from hyperexport.manifest import FILE_NAME
from hyperexport.store import filesystem, local
from hyperexport.store.base import AbandonedStaging, Staging, Store, StoredExport
from hyperexport.store.filesystem import held, write_new
from hyperexport.store.local import LocalStore
from hyperexport.store.local_sweep import sweep_root
from tests.engine.local_exports import (
    DESCRIPTOR,
    DISKS,
    FIRST,
    FOLDER,
    OWNER,
    SECOND,
    THIRD,
    an_entry,
    manifest_of,
    write_export,
    write_file,
)

ROOT = os.geteuid() == 0
DISK_0, DISK_1 = DISKS
NEW_ID = manifest_of(SECOND).export_id


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "exports"


@pytest.fixture
def store(root) -> LocalStore:
    return LocalStore(root)


def everything(folder: Path) -> dict[str, bytes | None]:
    """All paths below a folder, with the bytes of the files."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def prove(store: LocalStore, export: StoredExport) -> None:
    """Every byte is what the manifest says."""
    for entry in export.manifest.files:
        with store.open(export, entry.name) as reader:
            assert hashlib.sha256(b"".join(reader.chunks(1000))).hexdigest() == entry.sha256
            assert reader.size == entry.size


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
        assert store.damaged() == []
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
    with pytest.raises(StoreUnusable, match="already there"), store.stage(FOLDER, NEW_ID, OWNER):
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
        for _ in range(2):
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


# -- changing and deleting


def test_a_replaced_manifest_is_what_is_listed(root, store):
    export = write_export(store, FIRST)
    changed = store.replace_manifest(export, export.manifest.model_copy(update={"preserve": True}))
    assert store.exports() == [changed]
    assert changed.manifest.preserve
    assert len(everything(root / FOLDER / export.export_id)) == 4


def test_a_manifest_is_replaced_only_by_its_own_and_only_where_it_is(store):
    export = write_export(store, FIRST)
    with pytest.raises(StoreUnusable, match="cannot replace"):
        store.replace_manifest(export, manifest_of(SECOND))
    store.delete(export)
    with pytest.raises(ExportNotFound):
        store.replace_manifest(export, export.manifest)


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
        lambda: store.replace_manifest(export, export.manifest),
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
    with pytest.raises(StoreUnusable, match="not a name"):
        store.stage(folder, NEW_ID, OWNER)
    assert store.exports(folder) == []


@pytest.mark.parametrize("export_id", ["..", "latest", "20261121T060000Z-0000/..", ""])
def test_no_export_has_a_name_of_another_form(store, export_id):
    with pytest.raises(StoreUnusable, match="not a name"):
        store.stage(FOLDER, export_id, OWNER)


def test_names_as_people_give_them_are_kept(store):
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        entries = [write_file(staging, name, b"x") for name in ("Büro Server-disk-0.vmdk", "a..b", "файл.ovf")]
        prove(store, staging.publish(manifest_of(SECOND, *entries)))


# -- what dead runs leave


def test_an_abandoned_staging_is_found_and_removed(root, store):
    staging = store.stage(FOLDER, NEW_ID, OWNER).__enter__()
    write_file(staging, "disk.vmdk", b"data")
    (found,) = store.abandoned(FOLDER)
    assert found.owner == OWNER
    store.remove_abandoned(found)
    store.remove_abandoned(found)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("mark", [None, b"", b"{}", b'{"tool": "another"}'])
def test_an_abandoned_staging_without_a_readable_mark_has_no_owner(root, store, mark):
    path = root / FOLDER / f"{NEW_ID}.partial"
    path.mkdir(parents=True)
    if mark is not None:
        (path / ".owner.json").write_bytes(mark)
    assert store.abandoned() == [AbandonedStaging(folder=FOLDER, export_id=NEW_ID, owner=None)]


@pytest.fixture(scope="module")
def crashed(tmp_path_factory) -> list[Path]:
    """The stores of processes that were killed, one at each step of their work."""
    root = tmp_path_factory.mktemp("crashed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.crashing_writer", root], check=True, capture_output=True, text=True
    )
    return [root / str(step) for step in range(1, int(done.stdout) + 1)]


def test_a_process_killed_at_any_step_leaves_only_whole_exports_and_what_can_be_told_for_leftovers(crashed):
    assert len(crashed) > 30
    listed, leftovers = set(), 0
    for path in crashed:
        store = LocalStore(path)
        exports = store.exports()
        for export in exports:
            prove(store, export)
        assert store.damaged() == []
        swept = store.sweep()
        left = store.abandoned()
        leftovers += len(left) + len(swept)
        for staging in left:
            assert staging.owner
            assert staging.owner.vm == OWNER.vm
            store.remove_abandoned(staging)
        names = {export.export_id for export in exports}
        assert {entry.name for entry in (path / FOLDER).iterdir()} == names
        known = {entry.name for export in exports for entry in export.manifest.files} | {"export.json"}
        assert {entry.name for entry in (path / FOLDER).rglob("*") if entry.is_file()} <= known
        listed.add(frozenset(names))
    first, second = manifest_of(FIRST).export_id, NEW_ID
    assert listed == {frozenset({first}), frozenset({first, second}), frozenset({second})}
    assert leftovers > 10


# -- what nobody owns


def test_a_sweep_leaves_what_somebody_is_about_to_sign(root, store):
    path = root / FOLDER / f"{NEW_ID}.partial"
    path.mkdir(parents=True)
    with held(path, wait=True) as ours:
        assert ours
        assert store.sweep() == []
    assert store.sweep() == [f"{FOLDER}/{NEW_ID}"]
    assert list(root.iterdir()) == []


def test_a_staging_that_is_swept_away_before_it_is_signed_is_made_again(root, store, monkeypatch):
    mkdir, made = Path.mkdir, []

    def swept_at_once(path, *arguments, **options):
        mkdir(path, *arguments, **options)
        if path.name.endswith(".partial") and not made:
            made.append(path)
            store.sweep()

    monkeypatch.setattr(Path, "mkdir", swept_at_once)
    with store.stage(FOLDER, NEW_ID, OWNER):
        assert store.abandoned()[0].owner == OWNER
    assert made


def test_a_sweep_never_touches_a_staging_that_holds_anything(root, store):
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        write_file(staging, "disk.vmdk", b"data")
        assert store.sweep() == []
        (root / FOLDER / f"{NEW_ID}.partial" / ".owner.json").write_bytes(b"")
        assert store.sweep() == []
        assert store.abandoned()


def test_a_sweep_takes_marks_and_half_written_manifests_out_of_complete_exports(root, store):
    export = write_export(store, FIRST)
    folder = root / FOLDER / export.export_id
    before = {path.name for path in folder.iterdir()}
    for name in (".owner.json", ".export.json.0123abcd", "mine", ".mine"):
        (folder / name).write_bytes(b"{}")
    assert store.sweep(FOLDER) == [str(export)]
    assert {path.name for path in folder.iterdir()} == before | {"mine", ".mine"}


def test_a_probe_that_is_swept_up_by_a_run_beside_does_not_fail_the_check(root, store, monkeypatch):
    def written_and_swept_up(path: Path, data: bytes) -> None:
        write_new(path, data)
        sweep_root(root)
        assert not path.exists()

    root.mkdir(exist_ok=True)
    monkeypatch.setattr(local, "write_new", written_and_swept_up)
    store.check()


def test_a_probe_whose_writer_died_is_swept_up(root, store):
    write_export(store, FIRST)
    (root / ".hyperexport-probe-0123abcd").write_bytes(b"")
    (root / ".hyperexport-probe-notes").write_bytes(b"")
    store.sweep()
    assert {path.name for path in root.iterdir()} == {FOLDER, ".hyperexport-probe-notes"}


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
    with pytest.raises(StoreUnusable, match="cannot write into /proc"):
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
    before = store.marks()
    assert set(before) == {(FOLDER, first.export_id), (FOLDER, second.export_id)}
    assert store.marks() == before

    store.replace_manifest(first, first.manifest.model_copy(update={"preserve": True}))
    after = store.marks()
    assert after[FOLDER, first.export_id] != before[FOLDER, first.export_id]
    assert after[FOLDER, second.export_id] == before[FOLDER, second.export_id]

    (root / FOLDER / second.export_id / FILE_NAME).write_bytes(b"{")
    assert store.marks()[FOLDER, second.export_id] != before[FOLDER, second.export_id]
    (root / FOLDER / second.export_id / FILE_NAME).unlink()
    assert set(store.marks()) == {(FOLDER, first.export_id)}


def test_marks_of_a_store_that_cannot_be_listed_are_an_error(tmp_path):
    (tmp_path / "exports").write_text("a file")
    with pytest.raises(StoreUnusable):
        LocalStore(tmp_path / "exports").marks()
