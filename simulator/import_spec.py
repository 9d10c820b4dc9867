"""OvfManager.CreateImportSpec: the VM that vSphere would make of an OVF descriptor, and the files that it asks for.

vSphere API: OvfManager, OvfCreateImportSpecParams and -Result. Errors and warnings are answered, never raised. What the
descriptor does not say (addresses, identities, boot order) is not in the spec; the client may put it there.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from pyVmomi import vim, vmodl

from hyperexport.base.units import KIB, MIB
from hyperexport.simulator import devices
from hyperexport.simulator.devices import CONTROLLERS, NICS, Device
from hyperexport.simulator.inventory import Datastore, ResourcePool
from hyperexport.simulator.ovf_envelope import Envelope, Item, PackedFile, disk_of, file_of, number, parse, unit

_THIN: Final = {
    None: True,
    "": True,
    "thin": True,
    "sparse": True,
    "thick": False,
    "flat": False,
    "eagerZeroedThick": False,
}
_HOSTED: Final = frozenset({"monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"})
_SUPPORTED: Final = "thin thick eagerZeroedThick sparse flat monolithicSparse monolithicFlat seSparse"

_SCSI: Final = {
    "": "lsilogic",
    "lsilogic": "lsilogic",
    "lsilogicsas": "lsisas",
    "virtualscsi": "pvscsi",
    "buslogic": "buslogic",
}
_OTHER: Final = {"vmware.sata.ahci": "sata", "ahci": "sata", "vmware.nvme.controller": "nvme"}
_NICS: Final = {"": "e1000", "pcnet32": "", **{name: name for name in NICS}}

# CIM's numbers of operating systems (DSP0004), for descriptors without vmw:osType.
_OS: Final = {"94": "ubuntu64Guest", "96": "debian12_64Guest", "80": "rhel8_64Guest", "112": "windows2019srv_64Guest"}

_CPU, _MEMORY, _IDE, _SCSI_TYPE, _NIC, _CD, _DVD, _DISK, _STORAGE, _VIDEO, _OTHER_TYPE = (
    3,
    4,
    5,
    6,
    10,
    15,
    16,
    17,
    20,
    24,
    1,
)
_NOT_A_DISK: Final = 1
"""CIM's resource type "other", which the nvram has."""

# vmw:Config keys and what they set of the spec.
_FLAGS: Final = {
    "cpuHotAddEnabled": "cpuHotAddEnabled",
    "cpuHotRemoveEnabled": "cpuHotRemoveEnabled",
    "memoryHotAddEnabled": "memoryHotAddEnabled",
    "nestedHVEnabled": "nestedHVEnabled",
    "vPMCEnabled": "vPMCEnabled",
    "memoryReservationLockedToMax": "memoryReservationLockedToMax",
}


@dataclass
class Maker:
    """Makes the spec of one descriptor.

    Args:
        envelope: The descriptor.
        params: OvfCreateImportSpecParams.
        networks: The networks that the VM can be on.
    """

    envelope: Envelope
    params: Any
    networks: list[Any]
    name: str
    spec: Any = field(default_factory=vim.vm.ConfigSpec)
    files: list[Any] = field(default_factory=list[Any])
    warnings: list[Any] = field(default_factory=list[Any])
    errors: list[Any] = field(default_factory=list[Any])
    controllers: dict[str, Any] = field(default_factory=dict[str, Any])
    """Controllers by the InstanceID of their item."""
    refused: set[str] = field(default_factory=set[str])
    """The InstanceIDs of items that are not supported; what hangs on them is left out."""

    def make(self) -> Any:
        """Make the import spec of the descriptor."""
        self._sections()
        order = [_SCSI_TYPE, _STORAGE, _IDE]
        for item in sorted(self.envelope.items, key=lambda each: each.type not in order):
            self._guarded(item)
        self._guests_settings()
        self._config()
        for name in {_CPU, _MEMORY} - {each.type for each in self.envelope.items}:
            self.errors.append(vim.fault.OvfMissingHardware(msg="Missing hardware.", name="", resourceType=name))
        made = None if self.errors else vim.vm.VmImportSpec(configSpec=self.spec)
        return vim.OvfManager.CreateImportSpecResult(
            importSpec=made,
            fileItem=[] if self.errors else self.files,
            warning=self.warnings,
            error=self.errors,
        )

    def _guarded(self, item: Item) -> None:
        if item.get("Parent") in self.refused:
            return
        try:
            self._item(item)
        except vim.fault.OvfUnsupportedPackage as fault:
            self.refused.add(item.get("InstanceID"))
            (self.errors if item.required else self.warnings).append(fault)

    def _sections(self) -> None:
        for name, required in self.envelope.unknown_sections:
            fault = vim.fault.OvfUnsupportedSection(
                msg=f"Section '{name}' is not supported.", lineNumber=0, name=name, info=""
            )
            (self.errors if required else self.warnings).append(fault)
        known = [each for each in self.envelope.families if each.startswith("vmx-")]
        if self.envelope.families and not any(int(each[4:]) <= 21 for each in known if each[4:].isdigit()):
            self.errors.append(
                vim.fault.OvfNoSupportedHardwareFamily(
                    msg="No supported hardware versions among "
                    f"[{', '.join(self.envelope.families)}]; supported: [vmx-04, ..., vmx-21].",
                    lineNumber=0,
                    version=" ".join(self.envelope.families),
                )
            )
        self.spec.version = max(known, key=lambda each: int(each[4:]) if each[4:].isdigit() else 0, default=None)

    def _guests_settings(self) -> None:
        self.spec.name = self.name
        self.spec.guestId = self.envelope.os_type or _OS.get(str(self.envelope.os_id), "otherGuest64")
        self.spec.annotation = self.envelope.annotation or None
        for key, value in self.envelope.extra.items():
            if value.startswith("ovf:/file/"):
                self._ask_for(file_of(self.envelope, value), f"/{self.name}/{key}", _NOT_A_DISK, create=True)
            self.spec.extraConfig.append(vim.option.OptionValue(key=key, value=value))

    def _config(self) -> None:
        for key, (value, required) in self.envelope.config.items():
            if key == "firmware" and value in {"bios", "efi"}:
                self.spec.firmware = value
            elif key == "bootOptions.efiSecureBootEnabled":
                self.spec.bootOptions = vim.vm.BootOptions(efiSecureBootEnabled=value == "true")
            elif key in _FLAGS:
                setattr(self.spec, _FLAGS[key], value == "true")
            elif required:
                # govmomi #2136: a configuration that an older server does not know.
                self.errors.append(
                    vim.fault.OvfUnsupportedElementValue(
                        msg=f"Unable to parse '{key}' for attribute 'key' on element 'Config'.",
                        lineNumber=0,
                        name=key,
                        value=value,
                    )
                )

    # -- hardware ------------------------------------------------------------------------------------------------------

    def _item(self, item: Item) -> None:
        kind = item.type
        if kind == _CPU:
            self.spec.numCPUs = number(item.get("VirtualQuantity"), "VirtualQuantity")
            if item.get("CoresPerSocket"):
                self.spec.numCoresPerSocket = number(item.get("CoresPerSocket"), "CoresPerSocket")
        elif kind == _MEMORY:
            scale = unit(item.get("AllocationUnits", "byte * 2^20"), "AllocationUnits")
            self.spec.memoryMB = number(item.get("VirtualQuantity"), "VirtualQuantity") * scale // MIB
        elif kind in {_SCSI_TYPE, _STORAGE, _IDE}:
            self._controller(item, {_SCSI_TYPE: _SCSI, _STORAGE: _OTHER}.get(kind, {item.sub_type: "ide"}))
        elif kind == _NIC:
            self._nic(item)
        elif kind in {_CD, _DVD}:
            self._cdrom(item)
        elif kind == _DISK:
            self._disk(item)
        elif kind == _VIDEO:
            self._add(Device.VirtualVideoCard(key=self._key(), controllerKey=devices.PCI_KEY))
        elif kind == _OTHER_TYPE and item.sub_type == "vmware.vmci":
            self._add(Device.VirtualVMCIDevice(key=self._key(), controllerKey=devices.PCI_KEY))
        else:
            raise vim.fault.OvfUnsupportedType(
                msg=f"Hardware of type {kind} ('{item.get('ElementName')}') is not supported.",
                lineNumber=0,
                name=item.get("ElementName"),
                instanceId=item.get("InstanceID"),
                deviceType=kind,
            )

    def _unsupported(self, item: Item) -> Any:
        return vim.fault.OvfUnsupportedSubType(
            msg=f"No support for the virtual hardware device type '{item.type}' of '{item.get('ResourceSubType')}'.",
            lineNumber=0,
            elementName=item.get("ElementName"),
            instanceId=item.get("InstanceID"),
            deviceType=item.type,
            deviceSubType=item.get("ResourceSubType"),
        )

    def _controller(self, item: Item, kinds: dict[str, str]) -> None:
        if item.sub_type not in kinds:
            raise self._unsupported(item)
        made, _ = CONTROLLERS[kinds[item.sub_type]]
        address = number(item.get("Address", "0"), "Address")
        device = devices.controller(made, address)
        device.key = self._key()
        device.deviceInfo = None
        device.unitNumber = None
        self.controllers[item.get("InstanceID")] = device
        self._add(device)

    def _on(self, item: Item) -> Any:
        parent = self.controllers.get(item.get("Parent"))
        if parent is None:
            raise vim.fault.OvfInvalidValueReference(
                msg=f"There is no controller {item.get('Parent')} for '{item.get('ElementName')}'.",
                lineNumber=0,
                elementName="Parent",
                attributeName="",
                value=item.get("Parent"),
            )
        return parent

    def _disk(self, item: Item) -> None:
        parent, packed = self._on(item), disk_of(self.envelope, item)
        at = number(item.get("AddressOnParent", "0"), "AddressOnParent")
        backing = self._backing()
        if packed.file is None:
            backing.fileName = self.spec.files.vmPathName
        device = Device.VirtualDisk(
            key=self._key(),
            controllerKey=parent.key,
            unitNumber=at,
            backing=backing,
            capacityInKB=packed.capacity // KIB,
            capacityInBytes=packed.capacity,
        )
        self._add(device, operation="create")
        if packed.file:
            place = f"{parent._wsdlName}{parent.busNumber}:{at}"
            self._ask_for(packed.file, f"/{self.name}/{place}", _DISK, create=False)

    def _backing(self) -> Any:
        wanted = self.params.diskProvisioning
        if wanted in _HOSTED:  # it ends in DeviceUnsupportedForVmPlatform at the import (govmomi's ovf_manager.go)
            return Device.VirtualDisk.SparseVer2BackingInfo(fileName="", diskMode="persistent")
        return Device.VirtualDisk.FlatVer2BackingInfo(
            fileName="",
            diskMode="persistent",
            thinProvisioned=_THIN[wanted],
            eagerlyScrub=True if wanted == "eagerZeroedThick" else None,
        )

    def _ask_for(self, file: PackedFile, device: str, kind: int, *, create: bool) -> None:
        self.files.append(
            vim.OvfManager.FileItem(
                deviceId=device,
                path=file.href,
                compressionMethod=file.compression,
                chunkSize=file.chunk_size,
                size=file.size or None,
                cimType=kind,
                create=create,
            )
        )

    def _nic(self, item: Item) -> None:
        kind = _NICS.get(item.sub_type, "")
        if not kind:
            raise self._unsupported(item)
        if not self.networks:
            raise vim.fault.OvfNoHostNic(msg="Host did not have any virtual network defined.", lineNumber=0)
        wanted = item.get("Connection")
        mapped = next((each.network for each in self.params.networkMapping if each.name == wanted), None)
        # govmomi's importer: a network that is left out of the mapping is chosen by vSphere.
        network = next((each for each in self.networks if mapped and each.moid == mapped._moId), self.networks[0])
        connected = item.get("AutomaticAllocation", "true").lower() == "true"
        device = NICS[kind](
            key=self._key(),
            controllerKey=devices.PCI_KEY,
            addressType="assigned",
            backing=devices.nic_backing(network),
            connectable=devices.connectable(connected),
        )
        self._add(device)

    def _cdrom(self, item: Item) -> None:
        if item.get("HostResource"):
            raise self._unsupported(item)
        at = number(item.get("AddressOnParent", "0"), "AddressOnParent")
        device = devices.cdrom(1, self._on(item).key, at, self._key())
        device.deviceInfo = None
        self._add(device)

    def _key(self) -> int:
        return -100 - len(self.spec.deviceChange)

    def _add(self, device: Any, operation: str | None = None) -> None:
        change = Device.VirtualDeviceSpec(operation="add", fileOperation=operation, device=device)
        self.spec.deviceChange.append(change)


def create_import_spec(text: str, pool: ResourcePool, store: Datastore, params: Any) -> Any:
    """Answer CreateImportSpec.

    Raises:
        vmodl.fault.InvalidArgument: A network of the mapping, or the host, is not one that the VM could be on.
    """
    networks = list(pool.cluster.datacenter.network_folder.members)
    for each in params.networkMapping:
        if each.network._moId not in {network.moid for network in networks}:
            raise vmodl.fault.ManagedObjectNotFound(msg=f"There is no network {each.network._moId}.", obj=each.network)
    if params.hostSystem and params.hostSystem._moId not in {host.moid for host in pool.cluster.hosts}:
        raise vmodl.fault.InvalidArgument(msg="The host is not one of the pool's.", invalidProperty="cisp.hostSystem")
    if params.diskProvisioning not in _THIN and params.diskProvisioning not in _HOSTED:
        wanted = params.diskProvisioning
        fault = vim.fault.OvfUnsupportedDiskProvisioning(
            msg=f"Unsupported disk provisioning type '{wanted}'.",
            diskProvisioning=wanted,
            supportedDiskProvisioning=_SUPPORTED,
        )
        return vim.OvfManager.CreateImportSpecResult(error=[fault])
    try:
        envelope = parse(text)
        maker = Maker(envelope, params, networks, params.entityName or envelope.name)
        maker.spec.files = vim.vm.FileInfo(vmPathName=f"[{store.name}]")
        return maker.make()
    except vim.fault.OvfFault as fault:
        return vim.OvfManager.CreateImportSpecResult(error=[fault])
