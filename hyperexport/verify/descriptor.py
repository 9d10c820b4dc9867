"""The package's descriptor (``.ovf``): well-formed, an OVF 1.1 envelope, and true of the files that are there.

DSP0243 (OVF 1.1.1), sections 7 to 9. The file may come from anywhere, so a document type, the door to every attack by
XML entities, is refused before anything is parsed.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final
from xml.etree import ElementTree as ET

from hyperexport.base.units import MIB
from hyperexport.model.manifest import ExportManifest, FileEntry, FileRole

_OVF: Final = "{http://schemas.dmtf.org/ovf/envelope/1}"
_UNITS: Final = re.compile(r"byte(?:\s*\*\s*(2\^\d{1,2}|\d{1,15}))?")
LARGEST: Final = 8 * MIB
"""Bytes: a real one has some dozen KiB, and one of tiny elements takes fifty times its size to be parsed."""
_LONGEST: Final = 200  # characters of a name that are repeated in a message
_PLAIN: Final = re.compile(r"(?!\.)[^/\\:\0]+")
_CONTENT: Final = (f"{_OVF}VirtualSystem", f"{_OVF}VirtualSystemCollection")


def check_descriptor(data: bytes, manifest: ExportManifest) -> Iterator[str]:
    """Every way in which the descriptor is no OVF, or not this export's, in words."""
    try:
        envelope = _parse(data)
    except ValueError as error:
        yield str(error)
        return
    yield from _check_form(envelope)
    yield from _check_files(envelope, manifest)
    yield from _check_disks(envelope, manifest)


def refused_parts(data: bytes) -> Iterator[str]:
    """What makes a descriptor dangerous to import, in words: asked of a server's before it is stored.

    A reference is a file beside the descriptor and nothing else: an importer would follow ``../../etc/passwd``, or an
    address, out of the export.
    """
    try:
        envelope = _parse(data)
    except ValueError as error:
        yield str(error)
        return
    for file in _files(envelope):
        name = _attribute(file, "href")
        if not _PLAIN.fullmatch(name) or not name.isprintable():
            yield f"it refers to {name[:_LONGEST]!r}, which is not the name of a file beside it"


def _parse(data: bytes) -> ET.Element:
    """Read an envelope.

    Raises:
        ValueError: It is none; the message says why.
    """
    if len(data) > LARGEST:
        raise ValueError(f"it has {len(data)} bytes, too many for a VM's descriptor")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 at byte {error.start}") from None
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it has a document type, which an OVF must not have")
    try:
        # Nothing but elements and text is left in it, so the standard library's parser is safe.
        envelope = ET.fromstring(text)  # noqa: S314
    except ET.ParseError as error:
        raise ValueError(f"it is not well-formed: {error}") from None
    if envelope.tag != f"{_OVF}Envelope":
        raise ValueError(f"its root is {envelope.tag[:_LONGEST]}, not an OVF 1.1 envelope")
    return envelope


def _check_form(envelope: ET.Element) -> Iterator[str]:
    """What the schema asks of the parts that an importer reads first."""
    if len(envelope) == 0 or envelope[0].tag != f"{_OVF}References":
        yield "it does not begin with its References"
    systems = [child for child in envelope if child.tag in _CONTENT]
    if len(systems) != 1:
        yield f"it describes {len(systems)} virtual systems"
    for system in systems:
        if not _attribute(system, "id"):
            yield "its virtual system has no id"
    for parent in (envelope, *systems):
        for section in parent:
            if section.tag.endswith("Section") and section.find(f"{_OVF}Info") is None:
                yield f"its {section.tag.partition('}')[2]} has no Info"


def _check_files(envelope: ET.Element, manifest: ExportManifest) -> Iterator[str]:
    """Its References against the files: each is there with that size, and no disk is left out."""
    there = {entry.name: entry for entry in manifest.files}
    named: Counter[str] = Counter()
    ids: Counter[str] = Counter()
    for file in _files(envelope):
        name, size = _attribute(file, "href"), _attribute(file, "size")
        named[name] += 1
        ids[_attribute(file, "id")] += 1
        if name not in there:
            yield f"it refers to {name!r}, which is not in the export"
        elif size and size != str(there[name].size):
            yield f"it says that {name} has {size} bytes, the manifest {there[name].size}"
    yield from (f"it refers to {name} {count} times" for name, count in named.items() if count > 1)
    yield from (f"{count} of its files have the id {name!r}" for name, count in ids.items() if count > 1 or not name)
    yield from (f"it does not refer to {entry.name}" for entry in manifest.disks if entry.name not in named)


def _check_disks(envelope: ET.Element, manifest: ExportManifest) -> Iterator[str]:
    """Its DiskSection against the disks: each is described once, with its capacity."""
    names = {_attribute(file, "id"): _attribute(file, "href") for file in _files(envelope)}
    described: Counter[str] = Counter()
    for disk in envelope.iterfind(f"{_OVF}DiskSection/{_OVF}Disk"):
        reference = _attribute(disk, "fileRef")
        if not reference:
            continue  # an empty disk, which has no file
        entry = manifest.file(names.get(reference, ""))
        if entry is None or entry.role not in {FileRole.DISK, FileRole.BASE}:
            yield f"its disk {_attribute(disk, 'diskId')!r} refers to {reference!r}, which is not a disk of the export"
            continue
        described[entry.name] += 1
        yield from _check_capacity(disk, entry)
    for entry in manifest.disks:
        if described[entry.name] != 1:
            yield f"it describes {entry.name} {described[entry.name]} times"


def _check_capacity(disk: ET.Element, entry: FileEntry) -> Iterator[str]:
    capacity, units = _attribute(disk, "capacity"), _attribute(disk, "capacityAllocationUnits") or "byte"
    found = _UNITS.fullmatch(units)
    if not found or not capacity.isdecimal():
        yield f"it gives {entry.name} the capacity {capacity!r} in units of {units!r}"
        return
    factor = found[1] or "1"
    unit = 1 << int(factor[2:]) if factor.startswith("2^") else int(factor)
    if entry.capacity is not None and int(capacity[:20]) * unit != entry.capacity:
        yield f"it says that {entry.name} has a capacity of {int(capacity[:20]) * unit} bytes, not {entry.capacity}"


def _files(envelope: ET.Element) -> Iterator[ET.Element]:
    return envelope.iterfind(f"{_OVF}References/{_OVF}File")


def _attribute(element: ET.Element, name: str) -> str:
    return element.get(f"{_OVF}{name}", "")
