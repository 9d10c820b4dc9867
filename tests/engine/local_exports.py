"""Small real exports in a local store, for whoever needs some."""

import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

from hyperexport.model.manifest import FILE_NAME, ExportManifest, FileEntry, FileRole, vm_folder
from hyperexport.model.ownership import Owner
from hyperexport.store.base import StoredExport
from hyperexport.store.local import LocalStore
from hyperexport.store.local_staging import LocalStaging
from tests.examples import VM, an_export

FOLDER = vm_folder(VM)
OWNER = Owner.of_this_process(run="run-1", vcenter="vcenter.example.com", vm=VM.instance_uuid)
FIRST, SECOND, THIRD = timedelta(days=3), timedelta(days=2), timedelta(days=1)
"""Ages of exports, oldest first."""

DISKS = {"db01-disk-0.vmdk": b"KDMV zero" * 10_000, "db01-disk-1.vmdk": b"KDMV one" * 10_000}
DISK_0, DISK_1 = DISKS
DESCRIPTOR = b"<Envelope/>"


def an_entry(name: str, data: bytes, **changes: Any) -> FileEntry:
    """The manifest's entry for a file with these bytes."""
    role = FileRole.DISK if name.endswith(".vmdk") else FileRole.DESCRIPTOR
    values = {"name": name, "role": role, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return FileEntry.model_validate({**values, **changes})


def manifest_of(age: timedelta, *files: FileEntry, **changes: Any) -> ExportManifest:
    """The manifest of an export of that age with these files."""
    return an_export(age=age, files=files, **changes)


def write_file(staging: LocalStaging, name: str, data: bytes) -> FileEntry:
    """Write a file as a transfer does."""
    sink = staging.create(name)
    try:
        sink.write(memoryview(data))
        sink.finish()
    except BaseException:
        sink.abort()
        raise
    return an_entry(name, data)


def write_export(store: LocalStore, age: timedelta, *, reuse: StoredExport | None = None) -> StoredExport:
    """Write and publish an export of two disks; the second may be that of an earlier one."""
    (one, two), export_id = DISKS.items(), manifest_of(age).export_id
    with store.stage(FOLDER, export_id, OWNER) as staging:
        entries = [write_file(staging, *one)]
        found = reuse and reuse.manifest.file(two[0])
        reused = staging.reuse(reuse, found, two[0]) if reuse and found else None
        entries.append(reused or write_file(staging, *two))
        staging.put("db01.ovf", DESCRIPTOR)
        entries.append(an_entry("db01.ovf", DESCRIPTOR))
        return staging.publish(manifest_of(age, *entries))


def forge(store: LocalStore, export: StoredExport, **changes: Any) -> StoredExport:
    """Seal a manifest that says something else, as whoever rewrites a store by hand does."""
    manifest = export.manifest.model_copy(update=changes)
    (Path(store.url) / str(export) / FILE_NAME).write_bytes(manifest.to_json())
    return export.model_copy(update={"manifest": manifest})


NEW_ID = manifest_of(SECOND).export_id


def everything(folder: Path) -> dict[str, bytes | None]:
    """All paths below a folder, with the bytes of the files."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def prove(store: LocalStore, export: StoredExport) -> None:
    """Every byte is what the manifest says."""
    for entry in export.manifest.files:
        with store.open(export, entry.name) as reader:
            assert hashlib.sha256(b"".join(reader.chunks(1000))).hexdigest() == entry.sha256
            assert reader.size == entry.size
