"""An OVF 1.1 descriptor built from a VM's configuration, for servers that make none.

After DMTF DSP0243 (OVF) and the CIM resource types that it names (DSP1041 and its kin); VMware's own resource sub-types
where importers look for them. Pure: takes what pyVmomi has deserialised, returns text.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from xml.etree import ElementTree as ET

from pydantic import Field
from pyVmomi import vim

from hyperexport.model.vm import Value
from hyperexport.vsphere.devices import device_label, network_name, short_name

_OVF: Final = "http://schemas.dmtf.org/ovf/envelope/1"
_RASD: Final = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
_VSSD: Final = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
_VMW: Final = "http://www.vmware.com/schema/ovf"
_STREAM_OPTIMIZED: Final = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"

_PREFIXES: Final = {"ovf": _OVF, "rasd": _RASD, "vssd": _VSSD, "vmw": _VMW}

_CPU, _MEMORY, _IDE, _SCSI, _NIC, _DISK, _OTHER_STORAGE = 3, 4, 5, 6, 10, 17, 20  # CIM resource types

_CONTROLLERS: Final[dict[str, tuple[int, str | None]]] = {
    "ParaVirtualSCSIController": (_SCSI, "VirtualSCSI"),
    "VirtualLsiLogicController": (_SCSI, "lsilogic"),
    "VirtualLsiLogicSASController": (_SCSI, "lsilogicsas"),
    "VirtualBusLogicController": (_SCSI, "buslogic"),
    "VirtualIDEController": (_IDE, None),
    "VirtualAHCIController": (_OTHER_STORAGE, "vmware.sata.ahci"),
    "VirtualNVMEController": (_OTHER_STORAGE, "vmware.nvme.controller"),
}


class OvfFileSpec(Value):
    """A file of the export, as the descriptor is to refer to it."""

    device_key: str = Field(description="The lease's key of the device (LeaseFile.key).")
    name: str = Field(description="The file's name in the export.")
    size: int = Field(description="Bytes received.")
    capacity: int | None = Field(default=None, description="Disks: bytes that the guest sees.")
    populated: int | None = Field(default=None, description="Disks: bytes that the stream's grains hold.")
    disk_key: int | None = Field(default=None, description="Disks: the VM's device key.")


def build_descriptor(name: str, config: Any, files: Sequence[OvfFileSpec], *, networks: Mapping[str, str]) -> str:
    """Write the descriptor.

    Args:
        name: The VM's name.
        config: Its configuration (vim.vm.ConfigInfo), or that of the snapshot.
        files: The files, disks with their ``disk_key``.
        networks: Names of distributed port groups by their key.
    """
    for prefix, uri in _PREFIXES.items():
        ET.register_namespace(prefix, uri)
    devices = list(config.hardware.device)
    nics = _of_kind(devices, vim.vm.device.VirtualEthernetCard)
    connections = {nic.key: network_name(nic.backing, networks) or "VM Network" for nic in nics}
    envelope = ET.Element(_ovf("Envelope"))
    _references(envelope, files)
    _disk_section(envelope, files)
    _network_section(envelope, list(dict.fromkeys(connections.values())))
    system = _section(envelope, "VirtualSystem", "A virtual machine")
    system.set(_ovf("id"), _clean(name))
    _text(system, _ovf("Name"), name)
    operating_system = _section(system, "OperatingSystemSection", "The kind of installed guest operating system")
    operating_system.set(_ovf("id"), "1")  # CIM: 1 is "other"; vmw:osType says what it really is
    operating_system.set(f"{{{_VMW}}}osType", config.guestId or "otherGuest")
    _text(operating_system, _ovf("Description"), config.guestFullName or "")
    _hardware(system, name, config, list(_items(config, devices, files, connections)))
    ET.indent(envelope)
    return ET.tostring(envelope, encoding="unicode", xml_declaration=False).join(
        ('<?xml version="1.0" encoding="UTF-8"?>\n', "\n")
    )


def _references(envelope: ET.Element, files: Sequence[OvfFileSpec]) -> None:
    references = ET.SubElement(envelope, _ovf("References"))
    for number, file in enumerate(files):
        _element(references, "File", href=file.name, id=f"file{number}", size=file.size)


def _disk_section(envelope: ET.Element, files: Sequence[OvfFileSpec]) -> None:
    section = _section(envelope, "DiskSection", "Virtual disk information")
    for number, file in enumerate(files):
        if file.disk_key is None:
            continue
        disk = _element(
            section,
            "Disk",
            capacity=file.capacity,
            capacityAllocationUnits="byte",
            diskId=f"vmdisk{file.disk_key}",
            fileRef=f"file{number}",
            format=_STREAM_OPTIMIZED,
        )
        if file.populated is not None:
            disk.set(_ovf("populatedSize"), str(file.populated))


def _network_section(envelope: ET.Element, networks: Sequence[str]) -> None:
    section = _section(envelope, "NetworkSection", "The list of logical networks")
    for network in networks:
        _text(_element(section, "Network", name=network), _ovf("Description"), f"The {network} network")


def _hardware(system: ET.Element, name: str, config: Any, items: list[dict[str, Any]]) -> None:
    section = _section(system, "VirtualHardwareSection", "Virtual hardware requirements")
    about = ET.SubElement(section, _ovf("System"))
    _text(about, f"{{{_VSSD}}}ElementName", "Virtual Hardware Family")
    _text(about, f"{{{_VSSD}}}InstanceID", "0")
    _text(about, f"{{{_VSSD}}}VirtualSystemIdentifier", name)
    _text(about, f"{{{_VSSD}}}VirtualSystemType", config.version or "vmx-13")
    for number, item in enumerate(items, start=1):
        _item(section, number, item)
    if config.firmware:
        firmware = ET.SubElement(section, f"{{{_VMW}}}Config", {_ovf("required"): "false"})
        firmware.set(f"{{{_VMW}}}key", "firmware")
        firmware.set(f"{{{_VMW}}}value", config.firmware)


def _items(
    config: Any, devices: list[Any], files: Sequence[OvfFileSpec], connections: Mapping[int, str]
) -> Iterator[dict[str, Any]]:
    """What the machine is made of; a disk's ``Parent`` is the number of its controller among these."""
    hardware = config.hardware
    yield {
        "AllocationUnits": "hertz * 10^6",
        "ElementName": f"{hardware.numCPU} virtual CPU(s)",
        "ResourceType": _CPU,
        "VirtualQuantity": hardware.numCPU,
    }
    yield {
        "AllocationUnits": "byte * 2^20",
        "ElementName": f"{hardware.memoryMB} MB of memory",
        "ResourceType": _MEMORY,
        "VirtualQuantity": hardware.memoryMB,
    }
    controllers = [device for device in devices if short_name(device) in _CONTROLLERS]
    numbers = {controller.key: number for number, controller in enumerate(controllers, start=3)}
    for controller in controllers:
        kind, sub_type = _CONTROLLERS[short_name(controller)]
        yield {
            "Address": controller.busNumber,
            "ElementName": device_label(controller),
            "ResourceSubType": sub_type,
            "ResourceType": kind,
        }
    exported = {file.disk_key for file in files}
    for disk in _of_kind(devices, vim.vm.device.VirtualDisk):
        if disk.key in exported:
            yield {
                "AddressOnParent": disk.unitNumber,
                "ElementName": device_label(disk),
                "HostResource": f"ovf:/disk/vmdisk{disk.key}",
                "Parent": numbers.get(disk.controllerKey),
                "ResourceType": _DISK,
            }
    for nic in _of_kind(devices, vim.vm.device.VirtualEthernetCard):
        yield {
            "AddressOnParent": nic.unitNumber,
            "AutomaticAllocation": "true",
            "Connection": connections[nic.key],
            "ElementName": device_label(nic),
            "ResourceSubType": short_name(nic).removeprefix("Virtual"),
            "ResourceType": _NIC,
        }


def _item(section: ET.Element, number: int, fields: dict[str, Any]) -> None:
    item = ET.SubElement(section, _ovf("Item"))
    # DSP0243: the schema wants these in alphabetical order.
    for field, value in sorted({**fields, "InstanceID": number}.items()):
        if value is not None:
            _text(item, f"{{{_RASD}}}{field}", str(value))


def _of_kind(devices: Iterable[Any], kind: Any) -> list[Any]:
    return [device for device in devices if isinstance(device, kind)]


def _ovf(tag: str) -> str:
    return f"{{{_OVF}}}{tag}"


def _section(parent: ET.Element, tag: str, info: str) -> ET.Element:
    section = ET.SubElement(parent, _ovf(tag))
    _text(section, _ovf("Info"), info)
    return section


def _element(parent: ET.Element, tag: str, **attributes: object) -> ET.Element:
    return ET.SubElement(parent, _ovf(tag), {_ovf(name): _clean(value) for name, value in attributes.items()})


def _text(parent: ET.Element, tag: str, text: str) -> None:
    ET.SubElement(parent, tag).text = _clean(text)


def _clean(value: object) -> str:
    """Drop what XML 1.0 cannot hold, which a VM's name may."""
    return "".join(sign for sign in str(value) if sign.isprintable())
