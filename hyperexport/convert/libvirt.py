"""A libvirt domain definition out of a VM's saved configuration, so that ``virsh define`` makes the VM on KVM.

QEMU has VMware's own devices (pvscsi, LSI Logic, vmxnet3, e1000), so the guest finds the controllers and NICs whose
drivers it has, and nothing in it is changed. What QEMU lacks is replaced by the nearest, and a warning says so. The
element names are those of https://libvirt.org/formatdomain.html.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from xml.etree import ElementTree as ET

from hyperexport.model.hardware import Hardware, Slot, kind_of, mapping
from hyperexport.model.manifest import ExportManifest, FileEntry

_NICS: Final = {
    "VirtualVmxnet3": "vmxnet3",
    "VirtualVmxnet3Vrdma": "vmxnet3",
    "VirtualE1000": "e1000",
    "VirtualE1000e": "e1000e",
    "VirtualPCNet32": "pcnet",
}
_SATA_PORTS: Final = 6
"""Of QEMU's AHCI controller."""
_XML_SAFE: Final = str.maketrans(dict.fromkeys((*range(9), 11, 12, *range(14, 32), 65534, 65535), "?"))


class DiskImageFile(NamedTuple):
    """An image that the domain gets as a disk."""

    entry: FileEntry
    path: Path
    driver: str
    """QEMU's name of its format, such as ``qcow2``."""


def domain_xml(
    manifest: ExportManifest, configuration: Mapping[str, Any], images: Sequence[DiskImageFile]
) -> tuple[str, list[str]]:
    """Describe the VM to libvirt.

    Args:
        manifest: The export's.
        configuration: The VM's ``vim.vm.ConfigInfo`` as the export keeps it (``<vm>.vm.json``).
        images: Its disks, in the VM's order.

    Returns:
        The document, and what is not as it was on vSphere, in words.
    """
    warnings: list[str] = []
    hardware = Hardware(configuration)
    domain = ET.Element("domain", type="kvm")
    _text(domain, "name", _plain(manifest.vm.name))
    if uuid := configuration.get("uuid"):
        _text(domain, "uuid", str(uuid))
    if note := str(configuration.get("annotation") or ""):
        _text(domain, "description", _plain(note))
    _text(domain, "memory", str(hardware.memory_mib), unit="MiB")
    _add_cpus(domain, hardware)
    _add_firmware(domain, efi=hardware.efi, secure=hardware.secure_boot)
    ET.SubElement(domain, "clock", offset="localtime" if hardware.windows else "utc")
    devices = ET.SubElement(domain, "devices")
    _add_disks(devices, hardware, images, warnings)
    for device in hardware.devices:
        _add_nic(devices, device, warnings)
    console = ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(console, "target", port="0")
    ET.SubElement(devices, "graphics", type="vnc", autoport="yes", listen="127.0.0.1")
    ET.SubElement(ET.SubElement(devices, "video"), "model", type="vga")
    if hardware.efi:
        warnings.append("the EFI variables of vSphere's nvram are not used; libvirt makes new ones on the first boot")
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode") + "\n", warnings


def _add_cpus(domain: ET.Element, hardware: Hardware) -> None:
    count, cores = hardware.cpus, hardware.cores_per_socket
    _text(domain, "vcpu", str(count))
    cpu = ET.Element("cpu", mode="host-model")
    ET.SubElement(cpu, "topology", sockets=str(count // cores), cores=str(cores), threads="1")
    domain.append(cpu)


def _add_firmware(domain: ET.Element, *, efi: bool, secure: bool) -> None:
    system = ET.SubElement(domain, "os", {"firmware": "efi"} if efi else {})
    # i440fx is what VMware's own virtual board is; OVMF with Secure Boot runs on q35 only.
    _text(system, "type", "hvm", arch="x86_64", machine="q35" if efi else "pc")
    if efi:
        firmware = ET.SubElement(system, "firmware")
        ET.SubElement(firmware, "feature", enabled="yes" if secure else "no", name="secure-boot")
        if secure:
            ET.SubElement(firmware, "feature", enabled="yes", name="enrolled-keys")
    ET.SubElement(system, "boot", dev="hd")
    features = ET.SubElement(domain, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    if secure:
        ET.SubElement(features, "smm", state="on")


def _add_disks(devices: ET.Element, hardware: Hardware, images: Sequence[DiskImageFile], warnings: list[str]) -> None:
    controllers: dict[tuple[str, int], str | None] = {}
    names = {"scsi": "sd", "sata": "sd", "ide": "hd"}
    letters: dict[str, int] = {}
    ports = itertools.count()
    for image in images:
        slot, differs = hardware.slot_of(image.entry, nvme=False)
        warnings += [differs] if differs else []
        if (
            slot.bus == "sata"
        ):  # counted afresh: VMware's controllers have 30 ports, and libvirt makes all up to a number
            slot = Slot("sata", None, *divmod(next(ports), _SATA_PORTS))
        controllers.setdefault((slot.bus, slot.controller), slot.model)
        disk = ET.SubElement(devices, "disk", type="file", device="disk")
        ET.SubElement(disk, "driver", name="qemu", type=image.driver)
        ET.SubElement(disk, "source", file=str(image.path))
        prefix = names[slot.bus]
        number = letters.get(prefix, 0)
        letters[prefix] = number + 1
        ET.SubElement(disk, "target", dev=prefix + _letters(number), bus=slot.bus)
        ET.SubElement(disk, "address", _address(slot))
    for (bus, index), model in sorted(controllers.items()):
        controller = {"type": bus, "index": str(index)}
        ET.SubElement(devices, "controller", controller | ({"model": model} if model else {}))


def _address(slot: Slot) -> dict[str, str]:
    if slot.bus == "ide":
        place = {"bus": str(slot.unit // 2), "target": "0", "unit": str(slot.unit % 2)}
    elif slot.bus == "scsi" and slot.model != "lsilogic":
        place = {"bus": "0", "target": str(slot.unit), "unit": "0"}
    else:
        place = {"bus": "0", "target": "0", "unit": str(slot.unit)}
    return {"type": "drive", "controller": str(slot.controller), **place}


def _add_nic(devices: ET.Element, device: Mapping[str, Any], warnings: list[str]) -> None:
    mac = device.get("macAddress")
    if not isinstance(mac, str):
        return
    kind = kind_of(device)
    label = str(mapping(device.get("deviceInfo")).get("label") or "a NIC")
    if kind not in _NICS:
        warnings.append(f"{label} was a {kind}, which QEMU has not: e1000e stands for it")
    network = mapping(device.get("backing")).get("deviceName") or "an unnamed network"
    warnings.append(f"{label} was on {_plain(str(network))!r} and is on libvirt's network 'default' now")
    nic = ET.SubElement(devices, "interface", type="network")
    ET.SubElement(nic, "mac", address=mac)
    ET.SubElement(nic, "source", network="default")
    ET.SubElement(nic, "model", type=_NICS.get(kind, "e1000e"))
    if mapping(device.get("connectable")).get("startConnected") is False:
        ET.SubElement(nic, "link", state="down")


def _plain(text: str) -> str:
    return text.translate(_XML_SAFE)


def _text(parent: ET.Element, name: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, name, attributes).text = text


def _letters(number: int) -> str:
    """A to z, then aa, ab, ..., as Linux and libvirt name disks."""
    text = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        text = chr(ord("a") + letter) + text
    return text
