"""The descriptor of a disk in a datastore: whether the disk is one flat file, whose bytes are those of the guest.

VMware, "Virtual Disk Format 5.0": a disk is a small text file that names its extents. Only a disk without a parent
that has one flat extent can be read at any place as it lies. Everything else (deltas, sparse extents, raw devices,
objects of a vSAN) needs vSphere to be read.
"""

import re
from typing import Final, NamedTuple

from hyperexport.base.units import KIB, SECTOR

LARGEST_DESCRIPTOR: Final = 64 * KIB
"""Bytes. A descriptor has some hundreds; a flat file that is taken for one has more."""

_FLAT: Final = {"vmfs": "VMFS", "monolithicFlat": "FLAT"}
"""The types of disks that are one flat file, and what they call its extent."""
_TYPE: Final = re.compile(r'^\s*createType\s*=\s*"([^"\n]{0,64})"', re.MULTILINE)
_PARENT: Final = re.compile(r"^\s*parentCID\s*=\s*([0-9a-fA-F]{1,8})\s*$", re.MULTILINE)
_EXTENT: Final = re.compile(
    r'^\s*(RW|RDONLY|NOACCESS)\s+(\d{1,15})\s+(\w+)(?:\s+"([^"\n]*)")?(?:\s+(\d+))?', re.MULTILINE
)
_NO_PARENT: Final = 0xFFFF_FFFF


class NotFlat(Exception):
    """The disk is not one flat file; says why, in words that follow "the disk". No error that a user sees."""


class FlatExtent(NamedTuple):
    """The one file that holds a disk's bytes."""

    name: str
    """Its name in the descriptor's folder."""
    capacity: int
    """Bytes of it."""


def flat_extent(data: bytes) -> FlatExtent:
    """Read the descriptor of a disk.

    Raises:
        NotFlat: The disk is not one flat file, or this is not the descriptor of a disk.
    """
    text = data.decode("utf-8", "replace")
    kinds, parents, extents = _TYPE.findall(text), _PARENT.findall(text), _EXTENT.findall(text)
    if len(data) > LARGEST_DESCRIPTOR or len(kinds) != 1 or len(parents) > 1 or not extents:
        raise NotFlat("has no descriptor that can be read")
    if parents and int(parents[0], 16) != _NO_PARENT:
        raise NotFlat("is a delta on another disk")
    if kinds[0] not in _FLAT:
        raise NotFlat(f"is of the type {kinds[0]}, not one flat file")
    if len(extents) != 1:
        raise NotFlat(f"consists of {len(extents)} extents")
    _, sectors, kind, name, start = extents[0]
    if kind != _FLAT[kinds[0]] or int(start or "0"):
        raise NotFlat(f"has an extent of the type {kind}, which is not a flat file as it stands")
    if not name or name in {".", ".."} or not name.isprintable() or re.search(r"[/\\:]", name):
        raise NotFlat("names an extent that is no file beside it, as on a vSAN")
    return FlatExtent(name, int(sectors) * SECTOR)
