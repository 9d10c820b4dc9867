"""The smallest guest: a boot sector that reads a sector far within its disk and writes it on the serial console.

It boots on QEMU in a second, on every controller that the BIOS knows, and what it writes is in no file but the disk.
"""

import struct
from typing import Final

SECTOR: Final = 512
_LOAD: Final = 0x8000


def bootable_disk(text: str, *, size: int, at: int | None = None) -> bytes:
    """Make a disk whose guest writes a text on COM1.

    Args:
        text: What it writes, up to 500 ASCII characters.
        size: The disk's bytes.
        at: The sector that holds the text; the last one if None.
    """
    at = size // SECTOR - 1 if at is None else at
    disk = bytearray(size)
    disk[:SECTOR] = _boot_sector(at)
    disk[at * SECTOR : at * SECTOR + len(text) + 1] = text.encode("ascii") + b"\0"
    return bytes(disk)


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
