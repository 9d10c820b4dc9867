"""A libvirt domain definition out of a VM's saved configuration, so that ``virsh define`` makes the VM on KVM.

QEMU has VMware's own devices (pvscsi, LSI Logic, vmxnet3, e1000), so the guest finds the controllers and NICs whose
drivers it has, and nothing in it is changed. What QEMU lacks is replaced by the nearest, and a warning says so. The
element names are those of https://libvirt.org/formatdomain.html.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast
from xml.etree import ElementTree as ET

from hyperexport.model.manifest import ExportManifest, FileEntry

_SCSI: Final = {
    "ParaVirtualSCSIController": "vmpvscsi",
    "VirtualLsiLogicController": "lsilogic",
    "VirtualLsiLogicSASController": "lsisas1068",
}
_NICS: Final = {
    "VirtualVmxnet3": "vmxnet3",
    "VirtualVmxnet3Vrdma": "vmxnet3",
    "VirtualE1000": "e1000",
    "VirtualE1000e": "e1000e",
    "VirtualPCNet32": "pcnet",
}
_XML_SAFE: Final = str.maketrans(dict.fromkeys((*range(9), 11, 12, *range(14, 32), 65534, 65535), "?"))


class DiskImageFile(NamedTuple):
    """An image that the domain gets as a disk."""

    entry: FileEntry
    path: Path
    driver: str
    """QEMU's name of its format, such as ``qcow2``."""


class _Slot(NamedTuple):
    """Where a disk is attached."""

    bus: str
    model: str | None
    controller: int
    unit: int


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
    hardware = _mapping(configuration.get("hardware"))
    efi = configuration.get("firmware") == "efi"
    secure = efi and bool(_mapping(configuration.get("bootOptions")).get("efiSecureBootEnabled"))
    domain = ET.Element("domain", type="kvm")
    _text(domain, "name", _plain(manifest.vm.name))
    if uuid := configuration.get("uuid"):
        _text(domain, "uuid", str(uuid))
    if note := str(configuration.get("annotation") or ""):
        _text(domain, "description", _plain(note))
    _text(domain, "memory", str(_number(hardware.get("memoryMB"), 1024)), unit="MiB")
    _add_cpus(domain, hardware)
    _add_firmware(domain, efi=efi, secure=secure)
    windows = "win" in str(configuration.get("guestId", "")).lower()
    ET.SubElement(domain, "clock", offset="localtime" if windows else "utc")
    devices = ET.SubElement(domain, "devices")
    known = {_number(device.get("key"), -1): device for device in _devices(hardware)}
    _add_disks(devices, known, images, warnings, efi=efi)
    for device in known.values():
        _add_nic(devices, device, warnings)
    console = ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(console, "target", port="0")
    ET.SubElement(devices, "graphics", type="vnc", autoport="yes", listen="127.0.0.1")
    ET.SubElement(ET.SubElement(devices, "video"), "model", type="vga")
    if efi:
        warnings.append("the EFI variables of vSphere's nvram are not used; libvirt makes new ones on the first boot")
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode") + "\n", warnings


def _add_cpus(domain: ET.Element, hardware: Mapping[str, Any]) -> None:
    count = _number(hardware.get("numCPU"), 1)
    cores = _number(hardware.get("numCoresPerSocket"), 1)
    cores = cores if count % cores == 0 else 1
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


def _add_disks(
    devices: ET.Element,
    known: Mapping[int, Mapping[str, Any]],
    images: Sequence[DiskImageFile],
    warnings: list[str],
    *,
    efi: bool,
) -> None:
    controllers: dict[tuple[str, int], str | None] = {}
    names = {"scsi": "sd", "sata": "sd", "ide": "hd"}
    letters: dict[str, int] = {}
    for image in images:
        slot = _slot_of(image.entry, known, warnings, efi=efi)
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


def _slot_of(entry: FileEntry, known: Mapping[int, Mapping[str, Any]], warnings: list[str], *, efi: bool) -> _Slot:
    disk = known.get(-1 if entry.disk_key is None else entry.disk_key, {})
    controller = known.get(_number(disk.get("controllerKey"), -1), {})
    kind = _kind(controller)
    number, unit = _number(controller.get("busNumber"), 0), _number(disk.get("unitNumber"), 0)
    if kind in _SCSI:
        return _Slot("scsi", _SCSI[kind], number, unit)
    if kind == "VirtualAHCIController":
        return _Slot("sata", None, number, unit)
    if kind == "VirtualIDEController" and not efi:
        return _Slot("ide", None, 0, number * 2 + unit)
    if kind == "VirtualBusLogicController":
        warnings.append(f"{entry.name} was on a BusLogic controller, which QEMU has not: LSI Logic stands for it")
        return _Slot("scsi", "lsilogic", number, unit)
    warnings.append(
        f"{entry.name} was on {'an NVMe' if kind == 'VirtualNVMEController' else kind or 'an unknown'} controller: "
        "SATA stands for it"
    )
    return _Slot("sata", None, 10 + number, unit % 6)


def _address(slot: _Slot) -> dict[str, str]:
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
    kind = _kind(device)
    label = str(_mapping(device.get("deviceInfo")).get("label") or "a NIC")
    if kind not in _NICS:
        warnings.append(f"{label} was a {kind}, which QEMU has not: e1000e stands for it")
    network = _mapping(device.get("backing")).get("deviceName") or "an unnamed network"
    warnings.append(f"{label} was on {_plain(str(network))!r} and is on libvirt's network 'default' now")
    nic = ET.SubElement(devices, "interface", type="network")
    ET.SubElement(nic, "mac", address=mac)
    ET.SubElement(nic, "source", network="default")
    ET.SubElement(nic, "model", type=_NICS.get(kind, "e1000e"))
    if _mapping(device.get("connectable")).get("startConnected") is False:
        ET.SubElement(nic, "link", state="down")


def _devices(hardware: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found: object = hardware.get("device")
    return [_mapping(device) for device in cast("list[object]", found)] if isinstance(found, list) else []


def _kind(device: Mapping[str, Any]) -> str:
    return str(device.get("_vimtype", "")).rpartition(".")[2]


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _number(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


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
