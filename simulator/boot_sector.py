"""The smallest guest: a boot sector that reads a sector far within its disk and writes it on the serial console.

It boots on QEMU in a second, on every controller that the BIOS knows, and what it writes is in no file but the disk.
"""

import struct
from typing import Final

from hyperexport.base.units import SECTOR

_LOAD: Final = 0x8000


def boot_record(text: str, *, at: int) -> tuple[bytes, bytes]:
    """Make a guest that writes a text on COM1, as two sectors.

    Args:
        text: What it writes, up to 500 ASCII characters.
        at: The number of the sector that holds the text, where the second one goes; the first goes to the disk's start.
    """
    return _boot_sector(at), (text.encode("ascii") + b"\0").ljust(SECTOR, b"\0")


def bootable_disk(text: str, *, size: int) -> bytes:
    """Make a disk whose guest writes a text, which its last sector holds.

    Args:
        text: What it writes.
        size: The disk's bytes.
    """
    first, last = boot_record(text, at=size // SECTOR - 1)
    return first + bytes(size - len(first) - len(last)) + last


def _boot_sector(at: int) -> bytes:
    start = (
        b"\xfa\x31\xc0\x8e\xd8\x8e\xc0\x8e\xd0"  # cli; xor ax,ax; mov ds,ax; mov es,ax; mov ss,ax
        b"\xbc\x00\x7c\xfb"  # mov sp,7C00h; sti
    )
    read = b"\xb4\x42\xcd\x13\x72\x0e"  # mov ah,42h; int 13h (extended read); jc halt
    write = (
        b"\xbe"
        + struct.pack("<H", _LOAD)  # mov si,text
        + b"\xac\x84\xc0\x74\x06"  # next: lodsb; test al,al; jz halt
        + b"\xba\xf8\x03\xee\xeb\xf5"  # mov dx,3F8h; out dx,al; jmp next
    )
    halt = b"\xf4\xeb\xfd"  # halt: hlt; jmp halt
    packet_at = 0x7C00 + len(start) + 3 + len(read) + len(write) + len(halt)
    code = start + b"\xbe" + struct.pack("<H", packet_at) + read + write + halt  # mov si,packet
    packet = struct.pack("<BBHHHQ", 16, 0, 1, _LOAD, 0, at)
    return (code + packet).ljust(510, b"\0") + b"\x55\xaa"
