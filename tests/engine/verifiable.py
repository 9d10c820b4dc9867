"""A small export that is sound in every respect, as an OVF folder or an OVA, in any store."""

import hashlib
from datetime import timedelta
from functools import partial

from hyperexport.base.units import MIB
from hyperexport.formats import ova
from hyperexport.model.manifest import ExportManifest, FileEntry, FileRole, vm_folder
from hyperexport.model.ownership import Owner
from hyperexport.simulator.disks import Disk
from hyperexport.store.base import Staging, Store, StoredExport
from hyperexport.store.local import LocalStore
from tests.examples import NOW, VM, an_export

FOLDER = vm_folder(VM)
OWNER = Owner.of_this_process(run="run-1", vcenter="vcenter.example.com", vm=VM.instance_uuid)
CAPACITY = 2 * MIB
AGE = timedelta(days=1)
EXPORT_ID = an_export(age=AGE).export_id
DISKS = {
    f"db01-disk-{number}.vmdk": b"".join(Disk(CAPACITY, seed=number, used=0.1).freeze().stream()) for number in (0, 1)
}
NVRAM = b"nvram" * 50


def descriptor(files: dict[str, int], *, capacity: int = CAPACITY) -> str:
    """An OVF 1.1 envelope for these disks (name and size)."""
    references = "".join(
        f'<File ovf:href="{name}" ovf:id="file{number}" ovf:size="{size}"/>'
        for number, (name, size) in enumerate(files.items())
    )
    disks = "".join(
        f'<Disk ovf:capacity="{capacity // MIB}" ovf:capacityAllocationUnits="byte * 2^20" ovf:diskId="d{number}" '
        f'ovf:fileRef="file{number}"/>'
        for number, name in enumerate(files)
        if name.endswith(".vmdk")
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">'
        f"<References>{references}</References><DiskSection><Info>Disks</Info>{disks}</DiskSection>"
        '<VirtualSystem ovf:id="db01"><Info>A VM</Info></VirtualSystem></Envelope>\n'
    )


def contents(ovf: str | None = None, mf: str | None = None) -> dict[str, tuple[FileRole, bytes]]:
    """The files of the export in the package's order; another descriptor or other checksums in their place."""
    moved = {**DISKS, "db01.nvram": NVRAM}
    text = descriptor({name: len(data) for name, data in moved.items()}) if ovf is None else ovf
    described = {"db01.ovf": text.encode("utf-8", "surrogateescape"), **moved}
    sums = "".join(f"SHA256({name})= {hashlib.sha256(data).hexdigest()}\n" for name, data in described.items())
    return {
        "db01.ovf": (FileRole.DESCRIPTOR, described["db01.ovf"]),
        "db01.mf": (FileRole.CHECKSUMS, (sums if mf is None else mf).encode()),
        **{name: (FileRole.DISK, data) for name, data in DISKS.items()},
        "db01.nvram": (FileRole.NVRAM, NVRAM),
        "db01.vm.json": (FileRole.CONFIG, b'{"name": "db01"}\n'),
    }


def an_entry(name: str, role: FileRole, data: bytes) -> FileEntry:
    """The manifest's entry for a file with these bytes."""
    capacity = CAPACITY if role is FileRole.DISK else None
    return FileEntry(name=name, role=role, size=len(data), sha256=hashlib.sha256(data).hexdigest(), capacity=capacity)


def put(staging: Staging, name: str, role: FileRole, data: bytes) -> FileEntry:
    """Write one file as a step does."""
    stored = staging.put(name, data)
    return an_entry(name, role, data).model_copy(update={"checksum": stored.checksum, "etag": stored.etag})


def publish(store: Store, files: dict[str, tuple[FileRole, bytes]] | None = None) -> StoredExport:
    """Publish the export as an OVF folder."""
    with store.stage(FOLDER, EXPORT_ID, OWNER) as staging:
        entries = [put(staging, name, *content) for name, content in (files or contents()).items()]
        return staging.publish(manifest(*entries))


def publish_ova(local: LocalStore, store: Store | None = None) -> StoredExport:
    """Publish the export as an OVA, packed in the local store."""
    files = contents()
    config = files.pop("db01.vm.json")
    packed = bytearray()
    with local.stage(FOLDER, EXPORT_ID, OWNER) as parts:
        for name, (_, data) in files.items():
            parts.put(name, data)
        places = ova.write(
            [ova.Part(name, len(data), partial(parts.open, name)) for name, (_, data) in files.items()],
            packed.extend,
            modified=NOW,
        )
    with (store or local).stage(FOLDER, EXPORT_ID, OWNER) as staging:
        whole = put(staging, "db01.ova", FileRole.OVA, bytes(packed))
        inside = [
            an_entry(place.name, *files[place.name]).model_copy(
                update={"member_of": "db01.ova", "offset": place.offset}
            )
            for place in places
        ]
        beside = put(staging, "db01.vm.json", *config)
        return staging.publish(manifest(whole, *inside, beside, format="ova"))


def manifest(*entries: FileEntry, **changes: object) -> ExportManifest:
    """The manifest of an export of these files."""
    return an_export(age=AGE, files=entries, warnings=("the guest was not quiesced",), **changes)
