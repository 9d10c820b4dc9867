"""OvfManager.CreateDescriptor: a VM, as it is or as a snapshot froze it, described as OVF 1.1.

Sources: DMTF DSP0243 1.1 for the envelope and DSP0004's resource types; vSphere API, OvfManager, for what the
descriptor is made from: the files with the sizes that the client gives, and the VM's configuration.
"""

# ruff: noqa: D102 - what has a name of the vSphere API is documented there

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from hyperexport.simulator.devices import Device, adapters
from hyperexport.simulator.faults import FaultKind
from hyperexport.simulator.hardware import AttachedDisk, DiskState, Settings
from hyperexport.simulator.import_spec import create_import_spec
from hyperexport.simulator.sessions import require
from hyperexport.simulator.world import Managed

_OVF = "http://schemas.dmtf.org/ovf/envelope/1"
_RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
_VSSD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
_VMW = "http://www.vmware.com/schema/ovf"
_FORMAT = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"

for _prefix, _uri in (("ovf", _OVF), ("rasd", _RASD), ("vssd", _VSSD), ("vmw", _VMW)):
    ET.register_namespace(_prefix, _uri)

# CIM operating system types (DSP0004 and VMware's extension).
_OS_TYPES = {"ubuntu64Guest": "94", "windows2019srv_64Guest": "112", "rhel8_64Guest": "80"}

_SCSI_TYPES = {
    Device.ParaVirtualSCSIController: "VirtualSCSI",
    Device.VirtualLsiLogicController: "lsilogic",
    Device.VirtualLsiLogicSASController: "lsilogicsas",
    Device.VirtualBusLogicController: "buslogic",
}
_OTHER_TYPES = {
    Device.VirtualAHCIController: "vmware.sata.ahci",
    Device.VirtualNVMEController: "vmware.nvme.controller",
}
_NIC_TYPES = {Device.VirtualVmxnet3: "VmXnet3", Device.VirtualE1000: "E1000", Device.VirtualE1000e: "E1000e"}


@dataclass(frozen=True)
class _Subject:
    """What is described: the configuration, its disks, and the files that hold them."""

    settings: Settings
    states: list[DiskState]
    networks: list[str]
    files: dict[str, Any]
    prefix: str

    def file_of(self, state: DiskState) -> Any | None:
        return self.files.get(f"{self.prefix}{state.disk.lease_key}")


class OvfManager(Managed):
    """vim.OvfManager, as far as exports and imports of single VMs need it."""

    kind = vim.OvfManager

    def CreateImportSpec(self, ovfDescriptor: str, resourcePool: Any, datastore: Any, cisp: Any) -> Any:
        pool, store = self.world.get(resourcePool), self.world.get(datastore)
        for each in cisp.networkMapping:
            require("Network.Assign", self.world.get(each.network))
        return create_import_spec(ovfDescriptor, pool, store, cisp)

    def CreateDescriptor(self, obj: Any, cdp: Any) -> Any:
        machine = self.world.get(obj)
        if not isinstance(obj, vim.VirtualMachine):
            raise vim.fault.InvalidState(msg="The simulator describes virtual machines only.")
        require("VApp.Export", machine)
        if self.world.faults.take(FaultKind.DESCRIPTOR_ERROR, vm=machine.vm_name):
            error = _not_exported(machine.states()[0].disk, "The device 'Hard disk 1' cannot be exported.")
            return vim.OvfManager.CreateDescriptorResult(ovfDescriptor="", error=[error])
        source = self.world.get(cdp.snapshot) if cdp.snapshot else machine
        subject = _Subject(
            settings=source.settings,
            states=[state for state in source.states() if not state.disk.raw],
            networks=list(dict.fromkeys(each.backing.deviceName for each in adapters(source.settings.devices))),
            files={file.deviceId: file for file in cdp.ovfFiles},
            prefix=f"/{machine.moid}/",
        )
        name = cdp.name or subject.settings.name
        return vim.OvfManager.CreateDescriptorResult(
            ovfDescriptor=_describe(subject, name, cdp.description),
            warning=_warnings(subject),
            includeImageFiles=bool(cdp.includeImageFiles),
        )


def _warnings(subject: _Subject) -> list[Any]:
    without = [state.disk for state in subject.states if subject.files and subject.file_of(state) is None]
    return [_not_exported(disk, f"There is no file for the device '{disk.label}'.") for disk in without]


def _not_exported(disk: AttachedDisk, why: str) -> Any:
    info = vim.Description(label=disk.label, summary="")
    device = vim.vm.device.VirtualDisk(key=disk.key, deviceInfo=info, capacityInKB=disk.image.capacity // 1024)
    return vim.fault.OvfUnsupportedDeviceExport(msg=why, device=device)


def _describe(subject: _Subject, name: str, annotation: str | None) -> str:
    envelope = ET.Element(_tag("Envelope"), {f"{{{_VMW}}}buildId": "build-24022515"})
    _references(envelope, subject)
    _disks(envelope, subject)
    section = _section(envelope, "NetworkSection", "The list of logical networks")
    for name_of_network in subject.networks:
        network = ET.SubElement(section, _tag("Network"), {_tag("name"): name_of_network})
        ET.SubElement(network, _tag("Description")).text = f"The {name_of_network} network"
    _system(envelope, subject, name, annotation)
    ET.indent(envelope)
    return ET.tostring(envelope, encoding="unicode", xml_declaration=False).join(
        ('<?xml version="1.0" encoding="UTF-8"?>\n', "\n")
    )


def _references(envelope: ET.Element, subject: _Subject) -> None:
    references = ET.SubElement(envelope, _tag("References"))
    for number, file in enumerate(subject.files.values(), 1):
        ET.SubElement(
            references,
            _tag("File"),
            {_tag("href"): file.path, _tag("id"): f"file{number}", _tag("size"): str(file.size)},
        )


def _disks(envelope: ET.Element, subject: _Subject) -> None:
    section = _section(envelope, "DiskSection", "Virtual disk information")
    numbers = {id(file): number for number, file in enumerate(subject.files.values(), 1)}
    for number, state in enumerate(subject.states, 1):
        file = subject.file_of(state)
        attributes = {
            _tag("capacity"): str(state.capacity),
            _tag("capacityAllocationUnits"): "byte",
            _tag("diskId"): f"vmdisk{number}",
            _tag("format"): _FORMAT,
        }
        if file is not None:
            attributes[_tag("fileRef")] = f"file{numbers[id(file)]}"
            if file.populatedSize is not None:
                attributes[_tag("populatedSize")] = str(file.populatedSize)
        ET.SubElement(section, _tag("Disk"), attributes)


def _system(envelope: ET.Element, subject: _Subject, name: str, annotation: str | None) -> None:
    settings = subject.settings
    system = ET.SubElement(envelope, _tag("VirtualSystem"), {_tag("id"): name})
    ET.SubElement(system, _tag("Info")).text = "A virtual machine"
    ET.SubElement(system, _tag("Name")).text = name
    guest = settings.guest_id
    os_type = {_tag("id"): _OS_TYPES.get(guest, "102"), f"{{{_VMW}}}osType": guest}
    os_section = _section(system, "OperatingSystemSection", "The kind of installed guest operating system", os_type)
    ET.SubElement(os_section, _tag("Description")).text = settings.guest_os
    if annotation or settings.annotation:
        notes = _section(system, "AnnotationSection", "A human-readable annotation")
        ET.SubElement(notes, _tag("Annotation")).text = annotation or settings.annotation
    _hardware(system, subject, name)


def _hardware(system: ET.Element, subject: _Subject, name: str) -> None:
    settings = subject.settings
    hardware = _section(system, "VirtualHardwareSection", "Virtual hardware requirements")
    about = ET.SubElement(hardware, _tag("System"))
    for key, value in (
        ("ElementName", "Virtual Hardware Family"),
        ("InstanceID", "0"),
        ("VirtualSystemIdentifier", name),
        ("VirtualSystemType", settings.hardware_version),
    ):
        ET.SubElement(about, f"{{{_VSSD}}}{key}").text = value
    # DSP0243: resource types 3 CPU, 4 memory, 5 IDE, 6 SCSI, 10 network, 15 CD, 17 disk; fields in the order of names.
    _item(
        hardware,
        ResourceType=3,
        ElementName=f"{settings.cpus} virtual CPU(s)",
        InstanceID=1,
        VirtualQuantity=settings.cpus,
        AllocationUnits="hertz * 10^6",
        Description="Number of Virtual CPUs",
    )
    _item(
        hardware,
        ResourceType=4,
        ElementName=f"{settings.memory_mb}MB of memory",
        InstanceID=2,
        VirtualQuantity=settings.memory_mb,
        AllocationUnits="byte * 2^20",
        Description="Memory Size",
    )
    instances = _controllers(hardware, subject)
    _item(hardware, ResourceType=5, ElementName="IDE 0", InstanceID=8, Address=0, Description="IDE Controller")
    _item(
        hardware,
        ResourceType=15,
        ElementName="CD/DVD drive 1",
        InstanceID=9,
        Parent=8,
        AddressOnParent=0,
        AutomaticAllocation="false",
        ResourceSubType="vmware.cdrom.remotepassthrough",
    )
    for number, state in enumerate(subject.states, 1):
        _item(
            hardware,
            ResourceType=17,
            ElementName=state.disk.label,
            InstanceID=20 + number,
            Parent=instances[state.disk.controller.key],
            AddressOnParent=state.disk.unit,
            HostResource=f"ovf:/disk/vmdisk{number}",
        )
    for number, adapter in enumerate(adapters(settings.devices)):
        _item(
            hardware,
            ResourceType=10,
            ElementName=adapter.deviceInfo.label,
            InstanceID=10 + number,
            AddressOnParent=adapter.unitNumber,
            AutomaticAllocation="true",
            Connection=adapter.backing.deviceName,
            ResourceSubType=_NIC_TYPES[type(adapter)],
        )
    nvram = next((file for file in subject.files.values() if file.deviceId.endswith("/nvram")), None)
    configuration = {"firmware": settings.firmware}
    for key, value in configuration.items():
        ET.SubElement(
            hardware, f"{{{_VMW}}}Config", {_tag("required"): "false", f"{{{_VMW}}}key": key, f"{{{_VMW}}}value": value}
        )
    if nvram is not None:
        number = list(subject.files.values()).index(nvram) + 1
        ET.SubElement(
            hardware,
            f"{{{_VMW}}}ExtraConfig",
            {_tag("required"): "false", f"{{{_VMW}}}key": "nvram", f"{{{_VMW}}}value": f"ovf:/file/file{number}"},
        )


def _controllers(hardware: ET.Element, subject: _Subject) -> dict[int, int]:
    """Describe the controllers; answer the number of each one's item by its device key."""
    hanging = {state.disk.controller.key for state in subject.states}
    instances: dict[int, int] = {}
    scsi = [each for each in subject.settings.devices if isinstance(each, Device.VirtualSCSIController)]
    for device in scsi:
        if device.key in hanging or device is scsi[0]:
            instances[device.key] = 3 + device.busNumber
            _item(
                hardware,
                ResourceType=6,
                ElementName=f"SCSI controller {device.busNumber}",
                InstanceID=3 + device.busNumber,
                Address=device.busNumber,
                ResourceSubType=_SCSI_TYPES[type(device)],
                Description="SCSI Controller",
            )
    instances[200] = 8
    for device in subject.settings.devices:
        # VMware's own packages: other storage controllers are of type 20, told apart by their subtype.
        sub_type = _OTHER_TYPES.get(type(device))
        if sub_type:
            instances[device.key] = 100 + len(instances)
            _item(
                hardware,
                ResourceType=20,
                ElementName=device.deviceInfo.label,
                InstanceID=instances[device.key],
                Address=device.busNumber,
                ResourceSubType=sub_type,
                Description=device.deviceInfo.summary,
            )
    return instances


def _item(hardware: ET.Element, **fields: Any) -> None:
    item = ET.SubElement(hardware, _tag("Item"))
    for name in sorted(fields):
        ET.SubElement(item, f"{{{_RASD}}}{name}").text = str(fields[name])


def _section(parent: ET.Element, name: str, info: str, attributes: dict[str, str] | None = None) -> ET.Element:
    section = ET.SubElement(parent, _tag(name), attributes or {})
    ET.SubElement(section, _tag("Info")).text = info
    return section


def _tag(name: str) -> str:
    return f"{{{_OVF}}}{name}"
