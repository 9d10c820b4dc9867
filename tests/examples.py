"""Disks, files and manifests to decide upon, whole and small: a test names only what it is about."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from hyperexport.base.units import GIB, MIB
from hyperexport.model.manifest import ExportKind, ExportManifest, FileEntry, FileRole, TransferStatistics
from hyperexport.model.vm import DiskInfo, VmRef

NOW = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
VM = VmRef(
    moref="vm-42",
    name="db01",
    path="/DC0/vm/production/db01",
    instance_uuid="4f0e7a52-1111-2222-3333-444455556666",
)


def export_id(started: datetime, tail: str = "0000") -> str:
    """The id of an export that began then."""
    return f"{started.astimezone(UTC):%Y%m%dT%H%M%SZ}-{tail}"


def a_disk(number: int = 0, **changes: Any) -> DiskInfo:
    """The VM's disk ``number``, tracked, of 16 GB."""
    values: dict[str, Any] = {
        "key": 2000 + number,
        "label": f"Hard disk {number + 1}",
        "capacity": 16 * GIB,
        "used": 4 * GIB,
        "controller": "ParaVirtualSCSIController0",
        "unit": number,
        "backing": "FlatVer2",
        "file": f"[ds] db01/db01_{number}.vmdk",
        "backing_uuid": f"6000C29{number}",
        "change_id": f"52 de c0 d{number}/9",
    }
    return DiskInfo.model_validate({**values, **changes})


def a_disk_file(number: int = 0, **changes: Any) -> FileEntry:
    """That disk in an earlier export."""
    values: dict[str, Any] = {
        "name": f"db01-disk-{number}.vmdk",
        "role": FileRole.DISK,
        "size": 100 * MIB,
        "sha256": a_hash(f"disk {number}"),
        "capacity": 16 * GIB,
        "disk_key": 2000 + number,
        "disk_label": f"Hard disk {number + 1}",
        "backing_uuid": f"6000C29{number}",
        "change_id": f"52 de c0 d{number}/7",
    }
    return FileEntry.model_validate({**values, **changes})


def a_hash(text: str) -> str:
    """A well-formed SHA-256 that stands for some content."""
    return hashlib.sha256(text.encode()).hexdigest()


def an_export(*, age: timedelta = timedelta(days=1), tail: str = "0000", **changes: Any) -> ExportManifest:
    """A full export of the VM with two disks, begun that long ago."""
    started = NOW - age
    name = export_id(started, tail)
    values: dict[str, Any] = {
        "tool_version": "1.0",
        "export_id": name,
        "kind": ExportKind.FULL,
        "reason": "this is the first export of the VM in this store",
        "last_full": name,
        "vm": VM,
        "vcenter": "vcenter.example.com",
        "run": "run-1",
        "started": started,
        "finished": started + timedelta(minutes=5),
        "options": {},
        "snapshot": None,
        "format": "ovf",
        "files": (a_disk_file(0), a_disk_file(1)),
        "transfer": TransferStatistics(seconds=10, bytes_transferred=200 * MIB),
    }
    return ExportManifest.model_validate({**values, **changes})
