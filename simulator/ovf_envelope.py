"""Reads an OVF 1.1 descriptor: what the package holds and what machine it describes, without judging it.

Sources: DMTF DSP0243 1.1 for the envelope, DSP0004's resource types, and VMware's own elements (``vmw:Config``,
``vmw:ExtraConfig``) as vSphere writes them. What is malformed becomes the fault that vSphere has for it.
"""

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from typing import Any, Final

from pyVmomi import vim

_OVF: Final = "{http://schemas.dmtf.org/ovf/envelope/1}"
_RASD: Final = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData}"
_VSSD: Final = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData}"
_VMW: Final = "{http://www.vmware.com/schema/ovf}"

_UNITS: Final = re.compile(r"byte(?:\s*\*\s*(?P<base>2|10)\s*\^\s*(?P<power>\d{1,2}))?")
_OLD_UNITS: Final = {"kilobytes": 1 << 10, "megabytes": 1 << 20, "gigabytes": 1 << 30}

_KNOWN_SECTIONS: Final = frozenset(
    {
        "Info",
        "Name",
        "OperatingSystemSection",
        "AnnotationSection",
        "VirtualHardwareSection",
        "ProductSection",
        "EulaSection",
    }
)


@dataclass(frozen=True)
class PackedFile:
    """A file of the package."""

    id: str
    href: str
    size: int
    compression: str | None
    chunk_size: int | None


@dataclass(frozen=True)
class PackedDisk:
    """A disk of the package."""

    id: str
    capacity: int
    """Bytes that the guest sees."""
    file: PackedFile | None
    format: str


@dataclass(frozen=True)
class Item:
    """One ``Item`` of the virtual hardware."""

    fields: dict[str, str]
    required: bool

    def get(self, name: str, default: str = "") -> str:
        """A field of it, such as ``InstanceID``."""
        return self.fields.get(name, default)

    @property
    def type(self) -> int:
        """Its resource type."""
        return number(self.get("ResourceType"), "ResourceType")

    @property
    def sub_type(self) -> str:
        """Its subtype, in lower case."""
        return self.get("ResourceSubType").lower()


@dataclass
class Envelope:
    """The parsed OVF descriptor."""

    name: str = ""
    files: dict[str, PackedFile] = field(default_factory=dict[str, PackedFile])
    disks: dict[str, PackedDisk] = field(default_factory=dict[str, PackedDisk])
    networks: list[str] = field(default_factory=list[str])
    os_type: str = ""
    os_id: int = 1
    annotation: str = ""
    families: list[str] = field(default_factory=list[str])
    items: list[Item] = field(default_factory=list[Item])
    config: dict[str, tuple[str, bool]] = field(default_factory=dict[str, tuple[str, bool]])
    """``vmw:Config``: the value of each key, and whether it is required."""
    extra: dict[str, str] = field(default_factory=dict[str, str])
    """``vmw:ExtraConfig``."""
    unknown_sections: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])
    """Sections that are not known here, and whether each is required."""


def parse(text: str) -> Envelope:
    """Read a descriptor.

    Raises:
        vim.fault.OvfInvalidPackage: It is not well-formed, or not a valid OVF envelope; the fault names the place.
    """
    try:
        root = ET.fromstring(text)
    except (ET.ParseError, ValueError) as error:
        line = getattr(error, "position", (1, 0))[0]
        raise vim.fault.OvfXmlFormat(msg=f"Invalid OVF: {error}", lineNumber=line, description=str(error)) from error
    if root.tag != f"{_OVF}Envelope":
        name = root.tag.rpartition("}")[2]
        raise vim.fault.OvfUnexpectedElement(msg=f"Unexpected element '{name}'.", lineNumber=1, name=name)
    envelope = Envelope()
    for element in root.iterfind(f"{_OVF}References/{_OVF}File"):
        file = _file(element)
        envelope.files[file.id] = file
    for element in root.iterfind(f"{_OVF}DiskSection/{_OVF}Disk"):
        disk = _disk(element, envelope)
        envelope.disks[disk.id] = disk
    networks = root.iterfind(f"{_OVF}NetworkSection/{_OVF}Network")
    envelope.networks = [_attribute(each, "name") for each in networks]
    if root.find(f"{_OVF}VirtualSystemCollection") is not None:
        raise vim.fault.OvfUnsupportedElement(
            msg="The simulator imports single virtual machines.", lineNumber=0, name="VirtualSystemCollection"
        )
    system = root.find(f"{_OVF}VirtualSystem")
    if system is None:
        raise missing("VirtualSystem")
    _system(system, envelope)
    return envelope


def _file(element: ET.Element) -> PackedFile:
    chunk = element.get(f"{_OVF}chunkSize")
    return PackedFile(
        id=_attribute(element, "id"),
        href=_attribute(element, "href"),
        size=number(element.get(f"{_OVF}size", "0"), "File", "size"),
        compression=element.get(f"{_OVF}compression"),
        chunk_size=number(chunk, "File", "chunkSize") if chunk else None,
    )


def _disk(element: ET.Element, envelope: Envelope) -> PackedDisk:
    units = element.get(f"{_OVF}capacityAllocationUnits", "byte")
    reference = element.get(f"{_OVF}fileRef")
    if reference is not None and reference not in envelope.files:
        raise _invalid_reference("Disk", "fileRef", reference)
    return PackedDisk(
        id=_attribute(element, "diskId"),
        capacity=number(_attribute(element, "capacity"), "Disk", "capacity") * unit(units, "Disk"),
        file=envelope.files[reference] if reference else None,
        format=element.get(f"{_OVF}format", ""),
    )


def _system(system: ET.Element, envelope: Envelope) -> None:
    envelope.name = system.findtext(f"{_OVF}Name") or _attribute(system, "id")
    guest = system.find(f"{_OVF}OperatingSystemSection")
    if guest is not None:
        envelope.os_type = guest.get(f"{_VMW}osType", "")
        envelope.os_id = number(_attribute(guest, "id"), "OperatingSystemSection", "id")
    envelope.annotation = system.findtext(f"{_OVF}AnnotationSection/{_OVF}Annotation") or ""
    for section in system:
        name = section.tag.rpartition("}")[2]
        if name not in _KNOWN_SECTIONS:
            envelope.unknown_sections.append((name, _required(section)))
    hardware = system.find(f"{_OVF}VirtualHardwareSection")
    if hardware is None:
        raise missing("VirtualHardwareSection")
    family = hardware.findtext(f"{_OVF}System/{_VSSD}VirtualSystemType") or ""
    envelope.families = family.split()
    for element in hardware.iterfind(f"{_OVF}Item"):
        fields = {
            each.tag.rpartition("}")[2]: (each.text or "").strip() for each in element if each.tag.startswith(_RASD)
        }
        for name in ("InstanceID", "ResourceType"):
            if not fields.get(name):
                raise missing(name)
        envelope.items.append(Item(fields, _required(element)))
    for element in hardware.iterfind(f"{_VMW}Config"):
        key, value = element.get(f"{_VMW}key", ""), element.get(f"{_VMW}value", "")
        envelope.config[key] = value, _required(element)
    for element in hardware.iterfind(f"{_VMW}ExtraConfig"):
        envelope.extra[element.get(f"{_VMW}key", "")] = element.get(f"{_VMW}value", "")


def file_of(envelope: Envelope, value: str) -> PackedFile:
    """The file that a value such as ``ovf:/file/file3`` names.

    Raises:
        vim.fault.OvfInvalidValueReference: There is none.
    """
    file = envelope.files.get(value.removeprefix("ovf:").removeprefix("/file/"))
    if file is None:
        raise _invalid_reference("HostResource", "", value)
    return file


def disk_of(envelope: Envelope, item: Item) -> PackedDisk:
    """The disk that a hardware item names.

    Raises:
        vim.fault.OvfInvalidValueReference: There is none.
    """
    value = item.get("HostResource")
    disk = envelope.disks.get(value.removeprefix("ovf:").removeprefix("/disk/"))
    if disk is None:
        raise _invalid_reference("HostResource", "", value)
    return disk


def unit(text: str, element: str) -> int:
    """Bytes of an allocation unit, such as ``byte * 2^20`` or the older ``MegaBytes``.

    Raises:
        vim.fault.OvfInvalidValue: It is none.
    """
    found = _UNITS.fullmatch(text.strip())
    if found:
        return int(found["base"]) ** int(found["power"]) if found["base"] else 1
    if text.strip().lower() in _OLD_UNITS:
        return _OLD_UNITS[text.strip().lower()]
    raise _invalid_value(vim.fault.OvfInvalidValueFormatMalformed, element, "AllocationUnits", text)


def number(text: str, element: str, attribute: str = "") -> int:
    """A whole number.

    Raises:
        vim.fault.OvfInvalidValueFormatMalformed: It is none.
    """
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise _invalid_value(vim.fault.OvfInvalidValueFormatMalformed, element, attribute, text)
    return int(text)


def missing(name: str) -> Any:
    """The fault for an element that has to be there."""
    return vim.fault.OvfMissingElement(msg=f"Missing element '{name}'.", lineNumber=0, name=name)


def _attribute(element: ET.Element, name: str) -> str:
    value = element.get(f"{_OVF}{name}")
    if value is None:
        tag = element.tag.rpartition("}")[2]
        raise vim.fault.OvfMissingAttribute(
            msg=f"Missing attribute '{name}' of '{tag}'.", lineNumber=0, elementName=tag, attributeName=name
        )
    return value


def _required(element: ET.Element) -> bool:
    # DSP0243, 7.1: what is not marked as not required has to be understood.
    return element.get(f"{_OVF}required", "true").lower() not in {"false", "0"}


def _invalid_reference(element: str, attribute: str, value: str) -> Any:
    return _invalid_value(vim.fault.OvfInvalidValueReference, element, attribute, value)


def _invalid_value(fault: Any, element: str, attribute: str, value: str) -> Any:
    return fault(
        msg=f"Invalid value '{value}' for '{attribute or element}'.",
        lineNumber=0,
        elementName=element,
        attributeName=attribute,
        value=value,
    )
