"""Datastore access over HTTPS: ``/folder/<path>?dcPath=<datacenter>&dsName=<datastore>``.

Source: vSphere Web Services SDK Programming Guide, "Datastore access". It gives a VM's small files, and the flat
extents of disks, with ranges. The extent that the guest writes to is locked (HTTP 500); the base that a snapshot has
frozen is not.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from hyperexport.simulator.hardware import AttachedDisk
from hyperexport.simulator.machine import Machine
from hyperexport.simulator.sessions import Session
from hyperexport.simulator.vcenter import VCenter

PIECE = 1024 * 1024

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Refused(Exception):
    """The file cannot be had; carries the HTTP status."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(status)


@dataclass(frozen=True)
class StoredFile:
    """One file in a datastore."""

    size: int
    read: Callable[[int, int], bytes]
    """Read bytes at an offset."""

    @classmethod
    def of(cls, content: bytes) -> "StoredFile":
        """A small file of the datastore with this content."""
        return cls(len(content), lambda offset, length: content[offset : offset + length])


def find(vcenter: VCenter, url: str, session: Session) -> StoredFile:
    """Find the file that a URL names.

    Raises:
        Refused: 401 without the privilege, 404 where there is no such file, 500 where it is locked.
    """
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    path = unquote(parts.path.removeprefix("/folder/"))
    datacenter = vcenter.datacenter.path.lstrip("/")
    store = vcenter.datastores.get(query.get("dsName", [""])[0])
    if query.get("dcPath", [""])[0] != datacenter or store is None:
        raise Refused(404)
    if not all(session.holds(one, store) for one in ("Datastore.Browse", "Datastore.FileManagement")):
        raise Refused(401)
    with vcenter.world.lock:
        for machine in vcenter.machines():
            if machine.store is store and (file := _file_of(machine, path)):
                return file
            for disk in machine.disks:
                if disk.store is store and (file := _file_of_disk(machine, disk, path)):
                    return file
        for disk in store.disks.values():
            if not disk.attached and (file := _file_of_disk(None, disk, path)):
                return file
    raise Refused(404)


def _file_of(machine: Machine, path: str) -> StoredFile | None:
    home = f"{machine.settings.home}/{machine.settings.home}"
    if path == f"{home}.nvram" and machine.nvram:
        return StoredFile.of(machine.nvram)
    if path == f"{home}.vmx":
        return StoredFile.of(_vmx(machine))
    folder, _, name = path.rpartition("/")
    if folder == machine.settings.home and name in machine.screenshots:
        return StoredFile.of(machine.screenshots[name])
    return None


def _file_of_disk(machine: Machine | None, disk: AttachedDisk, path: str) -> StoredFile | None:
    if path == disk.base:
        return StoredFile.of(_descriptor(disk))
    if path == disk.base.replace(".vmdk", "-flat.vmdk") and not disk.raw:
        return _extent(machine, disk)
    return None


def _extent(machine: Machine | None, disk: AttachedDisk) -> StoredFile:
    if machine is None:
        return StoredFile(disk.image.capacity, disk.image.read)
    # The base holds what the oldest snapshot froze; what came after is in deltas, which are not flat.
    oldest = next((each for each in machine.all_snapshots() if disk.key in each.frozen), None)
    if oldest:
        frozen = oldest.frozen[disk.key]
        return StoredFile(frozen.capacity, frozen.read)
    if machine.power == "poweredOn":
        raise Refused(500)
    return StoredFile(disk.image.capacity, disk.image.read)


def _vmx(machine: Machine) -> bytes:
    settings = machine.settings
    lines = [
        f'displayName = "{settings.name}"',
        f'memSize = "{settings.memory_mb}"',
        f'numvcpus = "{settings.cpus}"',
        f'firmware = "{settings.firmware}"',
        f'virtualHW.version = "{settings.hardware_version.removeprefix("vmx-")}"',
        f'uuid.bios = "{settings.uuid}"',
        *(f'{disk.slot}.fileName = "{disk.base.rpartition("/")[2]}"' for disk in machine.disks),
    ]
    return "\n".join(lines).encode() + b"\n"


def _descriptor(disk: AttachedDisk) -> bytes:
    extent = disk.base.rpartition("/")[2].replace(".vmdk", "-flat.vmdk")
    content = int(hashlib.sha256(disk.content_id.encode()).hexdigest()[:8], 16)
    return (
        f'# Disk DescriptorFile\nversion=1\nCID={content:08x}\nparentCID=ffffffff\ncreateType="vmfs"\n'
        f'RW {disk.image.capacity // 512} VMFS "{extent}"\n'
    ).encode()


def span(header: str | None, size: int) -> tuple[int, int, bool]:
    """Read a Range header.

    Returns:
        The first byte, the end (exclusive), and whether it is a part only.

    Raises:
        Refused: 416, where the range lies outside of the file.
    """
    match = _RANGE.fullmatch(header or "")
    if not match or not (match[1] or match[2]):
        return 0, size, False
    if not match[1]:
        return max(0, size - int(match[2])), size, True
    first = int(match[1])
    end = min(int(match[2]) + 1, size) if match[2] else size
    if first >= end:
        raise Refused(416)
    return first, end, True
