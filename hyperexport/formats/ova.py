"""An OVA: the files of an OVF package in one tar, the descriptor first.

DSP0243 (OVF), section 5: the descriptor is the first member, the manifest follows it, the files follow in the order of
the descriptor's References. Headers are USTAR; only a member of 8 GiB and more, whose size USTAR cannot say, gets GNU
tar's base-256 size, which ovftool and vCenter read (pax headers are not read by all importers). This module must never
know what the members mean.
"""

import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from hyperexport.base.units import GIB
from hyperexport.errors import StreamCorrupt
from hyperexport.formats.vmdk_image import Readable

_BLOCK: Final = tarfile.BLOCKSIZE
_LARGEST_USTAR: Final = 8 * GIB - 1
_MOST_MEMBERS: Final = 1000
_NAME_FIELD: Final = 100


@dataclass(frozen=True, slots=True)
class OvaMember:
    """One file in an OVA: its name, where its bytes begin, and how many they are."""

    name: str
    offset: int
    size: int


class Chunked(Protocol):
    """An open file that is read from its beginning to its end."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the member's bytes in order."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """One file to be packed; it is opened when its turn comes."""

    name: str
    size: int
    open: Callable[[], AbstractContextManager[Chunked]]


def layout(files: Iterable[tuple[str, int]]) -> list[OvaMember]:
    """Where each of these files (name and bytes) will lie in an OVA that holds them in this order."""
    members: list[OvaMember] = []
    offset = 0
    for name, size in files:
        members.append(OvaMember(name, offset + _BLOCK, size))
        offset += _BLOCK + size + -size % _BLOCK
    return members


def ova_size(files: Iterable[tuple[str, int]]) -> int:
    """The bytes of an OVA that holds these files (name and bytes)."""
    used = sum(_BLOCK + size + -size % _BLOCK for _, size in files) + 2 * _BLOCK
    return used + -used % tarfile.RECORDSIZE


def write(parts: Sequence[Part], sink: Callable[[memoryview], object], *, modified: datetime) -> list[OvaMember]:
    """Write an OVA, in one pass and in memory for one chunk.

    Args:
        parts: The files, the descriptor first.
        sink: Takes the OVA's bytes in order.
        modified: The time that the members have.

    Returns:
        Where each file's bytes lie in the OVA.

    Raises:
        ValueError: The first part is no descriptor, or a name does not fit into a tar's header (100 bytes).
        StreamCorrupt: A part is not as long as it was said to be.
    """
    if not parts or not parts[0].name.endswith(".ovf"):
        raise ValueError("an OVA begins with its descriptor")
    files = [(part.name, part.size) for part in parts]
    for part in parts:
        sink(memoryview(_header(part, modified)))
        _copy(part, sink)
        sink(memoryview(bytes(-part.size % _BLOCK)))
    members = layout(files)
    used = members[-1].offset + members[-1].size + -members[-1].size % _BLOCK
    sink(memoryview(bytes(ova_size(files) - used)))
    return members


def read_index(reader: Readable) -> list[OvaMember]:
    """Find an OVA's members, trusting nothing in it.

    Raises:
        StreamCorrupt: It is no tar, or one that is damaged, truncated, or holds anything but plain files with plain
            names.
    """
    members: list[OvaMember] = []
    names: set[str] = set()
    offset = 0
    while any(block := _block(reader, offset)):
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise _corrupt(offset, f"there is no tar header ({error})") from error
        if b"\0" in block[:_NAME_FIELD].rstrip(b"\0"):
            raise _corrupt(offset, "its name field holds more than a name")
        _check_member(info, offset, names, reader.size)
        names.add(info.name)
        members.append(OvaMember(info.name, offset + _BLOCK, info.size))
        offset += _BLOCK + info.size + -info.size % _BLOCK
    _check_end(reader, offset)
    return members


def _header(part: Part, modified: datetime) -> bytes:
    info = tarfile.TarInfo(part.name)
    info.size = part.size
    info.mtime = int(modified.timestamp())
    info.mode = 0o644
    large = part.size > _LARGEST_USTAR
    header = info.tobuf(tarfile.GNU_FORMAT if large else tarfile.USTAR_FORMAT)
    if len(header) != _BLOCK:
        raise ValueError(f"the name {part.name!r} does not fit into a tar's header")
    return header


def _copy(part: Part, sink: Callable[[memoryview], object]) -> None:
    written = 0
    with part.open() as source:
        for chunk in source.chunks():
            written += len(chunk)
            if written > part.size:
                break
            sink(memoryview(chunk))
    if written != part.size:
        raise StreamCorrupt(f"{part.name} no longer has the {part.size} bytes that were written")


def _block(reader: Readable, offset: int) -> bytes:
    block = reader.read_at(offset, _BLOCK) if offset < reader.size else b""
    if len(block) != _BLOCK:
        raise _corrupt(reader.size, "it ends before its end marker")
    return block


def _check_member(info: tarfile.TarInfo, offset: int, names: set[str], size: int) -> None:
    name = info.name
    checks = (
        (info.type in {tarfile.REGTYPE, tarfile.AREGTYPE}, f"{name!r} is not a plain file"),
        (_is_plain(name), f"{name!r} is not a plain file name"),
        (name not in names, f"{name!r} is there twice"),
        (len(names) < _MOST_MEMBERS, f"it has more than {_MOST_MEMBERS} members"),
        (0 <= info.size <= size - offset - _BLOCK, f"{name!r} would have {info.size} bytes"),
    )
    for passed, problem in checks:
        if not passed:
            raise _corrupt(offset, problem)


def _is_plain(name: str) -> bool:
    return name not in {"", ".", ".."} and name.isprintable() and not set(name) & set("/\\:")


def _check_end(reader: Readable, offset: int) -> None:
    """After the members come two blocks of zeros, and more of them up to a whole tar record."""
    if reader.size - offset < 2 * _BLOCK:
        raise _corrupt(reader.size, "it ends before its end marker")
    if reader.size - offset > 2 * _BLOCK + tarfile.RECORDSIZE:
        raise _corrupt(offset, "it continues after its end marker")
    rest = reader.read_at(offset, reader.size - offset)
    if any(rest):
        raise _corrupt(offset + len(rest) - len(rest.lstrip(b"\0")), "something follows its end marker")


def _corrupt(offset: int, problem: str) -> StreamCorrupt:
    error = StreamCorrupt(f"the OVA is damaged at byte {offset}: {problem}", fix="Export the VM again")
    error.offset = offset
    return error
