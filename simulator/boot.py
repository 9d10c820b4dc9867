"""What a guest shows of itself: whether it starts, VMware Tools' heartbeat, and a picture of its screen.

A guest starts from the first disk of its boot order, or its first disk, if the first sector of it holds what starts a
guest: that of a simulated guest, byte for byte, or a boot record with its signature (the last two bytes are 55 AA).
"""

import re
import struct
import zlib
from typing import TYPE_CHECKING, Final

from pyVmomi import vim

from hyperexport.base.units import SECTOR
from hyperexport.simulator.faults import FaultKind
from hyperexport.simulator.hardware import AttachedDisk

if TYPE_CHECKING:
    from hyperexport.simulator.machine import Machine

_SIMULATED: Final = re.compile(rb"HyperExport simulated disk, seed \d+, grain 0\n\.+")
_SIGNATURE: Final = b"\x55\xaa"
_CODE: Final = 440
"""Bytes of a boot record before the partition table: its program."""
_WIDTH, _HEIGHT = 64, 48


def boot_disk(vm: "Machine") -> AttachedDisk | None:
    """The disk that the firmware starts."""
    order = [each for each in vm.settings.boot.bootOrder if isinstance(each, vim.vm.BootOptions.BootableDiskDevice)]
    keys = [each.deviceKey for each in order]
    ordered = sorted(vm.disks, key=lambda disk: (keys.index(disk.key) if disk.key in keys else len(keys), disk.key))
    return ordered[0] if ordered else None


def starts(vm: "Machine") -> bool:
    """Whether the guest starts when the VM is powered on."""
    if vm.world.faults.take(FaultKind.NO_HEARTBEAT, vm=vm.vm_name):
        return False
    disk = boot_disk(vm)
    if disk is None:
        return False
    sector = disk.image.read(0, SECTOR)
    if len(sector) == SECTOR and _SIMULATED.fullmatch(sector):
        return True
    return sector.endswith(_SIGNATURE) and any(sector[:_CODE])


def screenshot(vm: "Machine") -> bytes:
    """A PNG (RFC 2083) of the guest's screen: bright where the guest runs, black where it does not."""
    level = 200 if vm.guest_runs else 0
    rows = b"".join(b"\0" + bytes((level, level, min(255, level + row))) * _WIDTH for row in range(_HEIGHT))
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", _WIDTH, _HEIGHT, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
