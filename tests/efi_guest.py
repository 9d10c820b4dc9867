"""The smallest guest that starts by EFI: a program that writes a text on the serial console, in a system partition.

It is to the EFI firmware what ``boot_sector.py`` of the simulator is to the BIOS: it starts in seconds, where a
Linux kernel takes half a minute on an emulated processor.
"""

import os
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from hyperexport.base.units import SECTOR
from tests.peers import require_program

_PROGRAM_AT: Final = 0x1000
_START: Final = 128 * SECTOR
_EFI_SYSTEM_PARTITION: Final = 0xEF


def efi_disk(text: str, *, size: int) -> bytes:
    """Make a disk with an EFI system partition, from whose standard path a guest starts that writes a text on COM1.

    Args:
        text: What it writes, ASCII.
        size: The disk's bytes: 2 MiB or more.
    """
    for program in ("mformat", "mmd", "mcopy"):
        require_program(program, "no guest has been started by EFI")
    with tempfile.TemporaryDirectory() as name:
        disk, program = Path(name, "disk.raw"), Path(name, "guest.efi")
        program.write_bytes(efi_program(text))
        disk.write_bytes(_partitioned(size).ljust(size, b"\0"))
        inside = f"{disk}@@{_START}"
        sectors = (size - _START) // SECTOR
        _run("mformat", "-i", inside, "-T", str(sectors), "-h", "16", "-s", "63", "-H", str(_START // SECTOR), "::")
        _run("mmd", "-i", inside, "::EFI", "::EFI/BOOT")
        _run("mcopy", "-i", inside, str(program), "::EFI/BOOT/BOOTX64.EFI")
        return disk.read_bytes()


def _partitioned(size: int) -> bytes:
    """A master boot record with one partition and no code: a BIOS finds nothing to start here."""
    first, sectors = _START // SECTOR, (size - _START) // SECTOR
    entry = struct.pack("<B3sB3sII", 0, b"\xff" * 3, _EFI_SYSTEM_PARTITION, b"\xff" * 3, first, sectors)
    return bytes(446) + entry.ljust(64, b"\0") + b"\x55\xaa"


def efi_program(text: str) -> bytes:
    """An EFI application (PE32+, x86-64; UEFI specification 2.1.1) that writes a text on COM1 and waits for ever."""
    code = (
        b"\x66\xba\xf8\x03"  # mov dx,3F8h
        b"\x48\x8d\x35\x0b\x00\x00\x00"  # lea rsi,[rip+11]: the text
        b"\xac\x84\xc0\x74\x03"  # next: lodsb; test al,al; jz halt
        b"\xee\xeb\xf8"  # out dx,al; jmp next
        b"\xf4\xeb\xfd" + text.encode("ascii") + b"\0"  # halt: hlt; jmp halt
    )
    raw = code.ljust(-(-len(code) // SECTOR) * SECTOR, b"\0")
    header = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, 1, 0, 0, 0, 112, 0x0206)  # AMD64, one section
    optional = struct.pack(
        "<HBBIIIII QIIHHHHHHIIIIHHQQQQII".replace(" ", ""),
        *(0x20B, 0, 0, len(raw), 0, 0, _PROGRAM_AT, _PROGRAM_AT),
        *(0, 0x1000, SECTOR, 0, 0, 0, 0, 0, 0, 0, 0x2000 + len(raw), SECTOR, 0, 10, 0),  # subsystem 10: EFI application
        *(0, 0, 0, 0, 0, 0),
    )
    section = struct.pack("<8sIIIIIIHHI", b".text", len(code), _PROGRAM_AT, len(raw), SECTOR, 0, 0, 0, 0, 0x60000020)
    stub = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    return (stub + header + optional + section).ljust(SECTOR, b"\0") + raw


def _run(*command: str) -> None:
    environment = os.environ | {"MTOOLS_SKIP_CHECK": "1"}
    done = subprocess.run(command, text=True, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stderr}"
