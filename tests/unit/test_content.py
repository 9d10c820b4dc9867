"""What the stored bytes of exports are counted from, also in manifests of earlier versions, without written_as."""

from datetime import timedelta
from typing import Any

from hyperexport.base.units import MIB
from hyperexport.model.content import added_bytes, shared_with, stored_bytes
from hyperexport.model.manifest import ExportManifest, FileEntry, FileRole
from tests.examples import a_disk_file, a_hash, an_export

FOLDER = "db01.4f0e7a52"


def pairs(*exports: ExportManifest) -> list[tuple[str, ExportManifest]]:
    return [(FOLDER, export) for export in exports]


def a_day_old(days: int, *files: FileEntry) -> ExportManifest:
    return an_export(age=timedelta(days=days), files=files)


def disk(content: str, **changes: Any) -> FileEntry:
    return a_disk_file(sha256=a_hash(content), size=MIB, **changes)


def test_equal_disks_of_a_local_store_of_an_earlier_version_are_one_file() -> None:
    old, new = a_day_old(2, disk("same")), a_day_old(1, disk("same", transferred=False))

    assert stored_bytes(pairs(new, old)) == MIB
    assert added_bytes(pairs(new, old)) == {f"{FOLDER}/{old.export_id}": MIB, f"{FOLDER}/{new.export_id}": 0}
    assert shared_with(pairs(new, old))[f"{FOLDER}/{new.export_id}"] == (f"{FOLDER}/{old.export_id}",)


def test_a_link_to_a_file_of_an_earlier_version_is_that_file_and_a_full_export_beside_it_is_not() -> None:
    old = a_day_old(3, disk("same"))
    linked = a_day_old(2, disk("same", transferred=False))
    full = a_day_old(1)
    full = full.model_copy(update={"files": (disk("same", written_as=f"{full.export_id}/db01-disk-0.vmdk"),)})

    assert stored_bytes(pairs(full, linked, old)) == 2 * MIB
    assert shared_with(pairs(full, linked, old))[f"{FOLDER}/{full.export_id}"] == ()


def test_equal_objects_of_a_bucket_of_an_earlier_version_count_by_what_refers_to_what() -> None:
    one = a_day_old(3, disk("same", etag="a"))
    other = a_day_old(2, disk("same", etag="b"))
    referring = a_day_old(1, disk("same", etag="b", stored_in=other.export_id))
    place = f"{other.export_id}/db01-disk-0.vmdk"
    today = a_day_old(0, disk("same", etag="b", stored_in=other.export_id, written_as=place))

    assert stored_bytes(pairs(today, referring, other, one)) == 2 * MIB
    assert shared_with(pairs(today, other))[f"{FOLDER}/{other.export_id}"] == (f"{FOLDER}/{today.export_id}",)


def test_a_disk_that_is_referred_to_inside_an_ova_is_counted_in_the_ova() -> None:
    first = a_day_old(2)
    ova = FileEntry(name="db01.ova", role=FileRole.OVA, size=3 * MIB, sha256=a_hash("ova"), etag="a")
    member = disk("same", member_of="db01.ova", offset=512)
    first = first.model_copy(update={"files": (ova, member)})
    held = f"{first.export_id}/db01.ova"
    second = a_day_old(1, disk("same", etag="a", stored_in=first.export_id, written_as=held))

    assert stored_bytes(pairs(second, first)) == 3 * MIB
    assert added_bytes(pairs(first, second))[f"{FOLDER}/{second.export_id}"] == 0


def test_two_equal_disks_of_one_export_are_two_files() -> None:
    export = a_day_old(1)
    files = (
        disk("zero", written_as=f"{export.export_id}/disk-0"),
        disk("zero", written_as=f"{export.export_id}/disk-1"),
    )

    assert stored_bytes(pairs(export.model_copy(update={"files": files}))) == 2 * MIB
