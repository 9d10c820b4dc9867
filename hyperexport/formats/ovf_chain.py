"""Disks of several files in an OVF descriptor: DSP0243 (OVF 1.1.1), section 9.1, ``ovf:parentRef``.

The descriptor comes from the server and names one file for each disk. The files that a delta builds on are added to it
and can be taken out again; every other byte stays as the server wrote it.

An importer that ignored ``parentRef`` would make a disk of the changed blocks alone. So a section is added that nobody
knows and that is required: section 7.1 of the standard has an importer refuse the package then.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

_FILE: Final = rb'<((?:\w+:)?)File\b[^>]*\bhref="%s"[^>]*?(?:/>|>\s*</\1File\s*>)'
_DISK: Final = rb'<((?:\w+:)?)Disk\b[^>]*\bfileRef="%s"[^>]*?(?:/>|>\s*</\1Disk\s*>)'
_ID: Final = re.compile(rb'\bid="([^"]*)"')
_DISK_ID: Final = re.compile(rb'\bdiskId="([^"]*)"')
_PARENT: Final = re.compile(rb'\s(?:\w+:)?parentRef="[^"]*"')


_SECTION: Final = (
    b'\n    <hx:ChangedBlocksSection xmlns:hx="urn:hyperexport:ovf" '
    b'xmlns:o="http://schemas.dmtf.org/ovf/envelope/1" o:required="true">'
    b'<Info xmlns="http://schemas.dmtf.org/ovf/envelope/1">Its disks hold changed blocks alone: import what '
    b"hyperexport convert --to ovf makes of it</Info></hx:ChangedBlocksSection>"
)
_ANY_SECTION: Final = re.compile(rb"\n    <hx:ChangedBlocksSection .*?</hx:ChangedBlocksSection>", re.DOTALL)
_HARDWARE_END: Final = re.compile(rb"</(?:\w+:)?VirtualHardwareSection\s*>")


class BaseFile(NamedTuple):
    """A file that a disk builds on."""

    name: str
    size: int


def with_bases(descriptor: bytes, disk: str, bases: Sequence[BaseFile]) -> bytes:
    """Describe the files that a disk builds on, each as the parent of the next, and have importers refuse the package.

    Args:
        descriptor: The OVF.
        disk: The name of the disk's own file.
        bases: What it builds on, the base first.

    Returns:
        The descriptor. Where it does not describe the disk in a form that is known, it names no parents, and importers
        refuse it anyway; without a ``VirtualHardwareSection`` it describes no machine that could be imported.
    """
    if not _ANY_SECTION.search(descriptor):
        descriptor = _HARDWARE_END.sub(lambda end: end[0] + _SECTION, descriptor, count=1)
    found = _described(descriptor, disk)
    if found is None or any(_file(descriptor, base.name) for base in bases):
        return descriptor
    file, described, file_id, disk_id = found
    prefix = re.search(rb'\s((?:\w+:)?)fileRef="', described)
    files, disks, parent = b"", b"", b""
    for number, base in enumerate(bases):
        own_file, own_disk = b"%s-base%d" % (file_id, number), b"%s-base%d" % (disk_id, number)
        tag = file.replace(b'href="%s"' % disk.encode(), b'href="%s"' % base.name.encode())
        tag = _ID.sub(b'id="%s"' % own_file, tag, count=1)
        files += re.sub(rb'\bsize="\d*"', b'size="%d"' % base.size, tag) + _gap(descriptor, file)
        tag = _DISK_ID.sub(b'diskId="%s"' % own_disk, described, count=1)
        tag = tag.replace(b'fileRef="%s"' % file_id, b'fileRef="%s"' % own_file)
        tag = re.sub(rb'\s(?:\w+:)?populatedSize="[^"]*"', b"", tag)
        disks += _child_of(tag, parent, prefix) + _gap(descriptor, described)
        parent = own_disk
    descriptor = descriptor.replace(file, files + file)
    return descriptor.replace(described, disks + _child_of(described, parent, prefix))


def without_bases(descriptor: bytes, disk: str, bases: Sequence[str]) -> bytes:
    """Take out again what :func:`with_bases` added, so that the disk is described as one whole file.

    Args:
        descriptor: The OVF.
        disk: The name of the disk's own file.
        bases: The names of the files that it builds on.
    """
    for base in bases:
        found = _described(descriptor, base)
        if found is not None:
            for tag in found[:2]:
                descriptor = re.sub(re.escape(tag) + rb"\s*", b"", descriptor, count=1)
    descriptor = _ANY_SECTION.sub(b"", descriptor)
    found = _described(descriptor, disk)
    return descriptor if found is None else descriptor.replace(found[1], _PARENT.sub(b"", found[1]))


def _described(descriptor: bytes, name: str) -> tuple[bytes, bytes, bytes, bytes] | None:
    """The elements of a file and of its disk, and their ids."""
    file = _file(descriptor, name)
    file_id = _ID.search(file) if file else None
    if file is None or file_id is None:
        return None
    described = re.search(_DISK % re.escape(file_id[1]), descriptor)
    disk_id = _DISK_ID.search(described[0]) if described else None
    return (file, described[0], file_id[1], disk_id[1]) if described and disk_id else None


def _file(descriptor: bytes, name: str) -> bytes | None:
    found = re.search(_FILE % re.escape(name.encode()), descriptor)
    return found[0] if found else None


def _gap(descriptor: bytes, tag: bytes) -> bytes:
    """The white space before an element, to be repeated before the next."""
    before = descriptor[: descriptor.index(tag)]
    return before[len(before.rstrip()) :]


def _child_of(tag: bytes, parent: bytes, prefix: "re.Match[bytes] | None") -> bytes:
    """An element of a disk that names its parent."""
    if not parent:
        return tag
    attribute = b' %sparentRef="%s"' % (prefix[1] if prefix else b"", parent)
    return re.sub(rb"^<(?:\w+:)?Disk\b", lambda begin: begin[0] + attribute, tag, count=1)
