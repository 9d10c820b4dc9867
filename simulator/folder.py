"""Datastore access over HTTPS: ``/folder/<path>?dcPath=<datacenter>&dsName=<datastore>``.

Source: vSphere Web Services SDK Programming Guide, "Datastore access". It gives a VM's small files, and the flat
extents of disks, with ranges. The extent that the guest writes to is locked (HTTP 500). Whether the base that a
snapshot of a running VM has frozen can be read is disputed: vatesfr/xen-orchestra #8339 and pegaprox #553 report HTTP
500, earlier versions were read. So it is refused, unless the simulator is told otherwise.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qs, unquote, urlsplit

from hyperexport.simulator.faults import FaultKind, Faults
from hyperexport.simulator.folder_log import FolderLog
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
    vm: str | None = None
    disk: int | None = None
    """Of the extent of a VM's disk: whose, and its position; faults are aimed by it."""

    @property
    def is_extent(self) -> bool:
        """Whether it holds a disk's bytes."""
        return self.disk is not None

    @classmethod
    def of(cls, content: bytes) -> "StoredFile":
        """A small file of the datastore with this content."""
        return cls(len(content), lambda offset, length: content[offset : offset + length])


def find(vcenter: VCenter, url: str, session: Session) -> StoredFile:
    """Find the file that a URL names.

    Raises:
        Refused: 401 without the privilege, 404 where there is no such file, 500 where it is locked.
    """
    datacenter, datastore, path = _named(url)
    store = vcenter.datastores.get(datastore)
    if datacenter != vcenter.datacenter.path.lstrip("/") or store is None:
        raise Refused(404)
    if not all(session.holds(one, store) for one in ("Datastore.Browse", "Datastore.FileManagement")):
        raise Refused(401)
    with vcenter.world.lock:
        for machine in vcenter.machines():
            if machine.store is store and (file := _file_of(machine, path)):
                return file
            for disk in machine.disks:
                if disk.store is store and (file := _file_of_disk(machine, disk, path, vcenter.folder_log)):
                    return file
        for disk in store.disks.values():
            if not disk.attached and (file := _file_of_disk(None, disk, path, vcenter.folder_log)):
                return file
    raise Refused(404)


@lru_cache(maxsize=64)
def _named(url: str) -> tuple[str, str, str]:
    """The datacenter, the datastore and the path in it; kept, as a disk is read by thousands of requests for one."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    datacenter, datastore = (query.get(key, [""])[0] for key in ("dcPath", "dsName"))
    return datacenter, datastore, unquote(parts.path.removeprefix("/folder/"))


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


def _file_of_disk(machine: Machine | None, disk: AttachedDisk, path: str, log: FolderLog) -> StoredFile | None:
    if disk.raw:
        return StoredFile.of(_descriptor(disk)) if path == disk.base else None
    if path == disk.base:
        return StoredFile.of(_descriptor(disk))
    if path == disk.base.replace(".vmdk", "-flat.vmdk"):
        return _extent(machine, disk, log)
    for state in machine.states() if machine else ():
        if state.disk is disk:
            for number in state.deltas:
                if path == disk.file(number):
                    return StoredFile.of(_delta_descriptor(disk, number))
    return None


def _extent(machine: Machine | None, disk: AttachedDisk, log: FolderLog) -> StoredFile:
    if machine is None:
        return StoredFile(disk.image.capacity, disk.image.read)
    whose = machine.settings.name, disk.position
    # The base holds what the oldest snapshot froze; what came after is in deltas, which are not flat.
    oldest = next((each for each in machine.all_snapshots() if disk.key in each.frozen), None)
    if machine.power == "poweredOn" and not (oldest and log.serves_frozen):
        raise Refused(500)
    if oldest:
        frozen = oldest.frozen[disk.key]
        return StoredFile(frozen.capacity, frozen.read, *whose)
    return StoredFile(disk.image.capacity, disk.image.read, *whose)


def refuse_on_demand(file: StoredFile, faults: Faults) -> None:
    """Refuse a disk's extent where a fault says so.

    Raises:
        Refused: It does.
    """
    fault = faults.take(FaultKind.FOLDER_REFUSED, vm=file.vm, disk=file.disk) if file.is_extent else None
    if fault:
        raise Refused(fault.status or 500)


def pieces(file: StoredFile, first: int, end: int, faults: Faults) -> Iterator[bytes]:
    """The bytes of an answer, with the faults that are armed for a disk's extent; one that is cut ends early."""
    target = {"vm": file.vm, "disk": file.disk}
    wrong = faults.take(FaultKind.FOLDER_WRONG, part=(first, end), **target) if file.is_extent else None
    if file.is_extent and faults.take(FaultKind.FOLDER_SHORT, part=(first, end), **target):
        end = first + (end - first) // 2
    at = first if wrong is None or wrong.at_byte is None else wrong.at_byte
    while first < end:
        piece = file.read(first, min(PIECE, end - first))
        if wrong and first <= at < first + len(piece):
            piece = piece[: at - first] + bytes([piece[at - first] ^ 1]) + piece[at - first + 1 :]
        yield piece
        first += len(piece)


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
    name = disk.base.rpartition("/")[2].removesuffix(".vmdk")
    size = disk.image.capacity // 512
    kind, extent = "vmfs", f'RW {size} VMFS "{name}-flat.vmdk"'
    if disk.raw:
        kind, extent = "vmfsPassthroughRawDeviceMap", f'RW {size} VMFSRDM "{name}-rdmp.vmdk"'
    elif disk.spec.backing == "SeSparse":
        kind, extent = "seSparse", f'RW {size} SESPARSE "{name}-sesparse.vmdk"'
    return _text(disk, kind=kind, extent=extent)


def _delta_descriptor(disk: AttachedDisk, number: int) -> bytes:
    name = disk.file(number).rpartition("/")[2].removesuffix(".vmdk")
    extent = f'RW {disk.image.capacity // 512} SESPARSE "{name}-sesparse.vmdk"'
    return _text(disk, kind="seSparse", extent=extent, parent="0badcafe")


def _text(disk: AttachedDisk, *, kind: str, extent: str, parent: str = "ffffffff") -> bytes:
    content = int(hashlib.sha256(disk.content_id.encode()).hexdigest()[:8], 16)
    return (
        f'# Disk DescriptorFile\nversion=1\nencoding="UTF-8"\nCID={content:08x}\nparentCID={parent}\n'
        f'createType="{kind}"\n\n# Extent description\n{extent}\n\n# The Disk Data Base\n#DDB\n\n'
        f'ddb.adapterType = "lsilogic"\nddb.virtualHWVersion = "19"\n'
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
