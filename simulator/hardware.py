"""What a VM is made of, as the API describes it: devices, files and the whole ``config``, now or at a snapshot.

Pure building of data objects from a VM's settings and disks; it changes nothing. Device keys follow vSphere's own
numbering: SCSI controllers from 1000, disks from 2000 by controller and unit, CD-ROM 3000, network adapter 4000.
"""

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pyVmomi import vim

from hyperexport.simulator.disks import Disk
from hyperexport.simulator.spec import DiskSpec
from hyperexport.simulator.world import now

_PER_CONTROLLER = 15
_RESERVED_UNIT = 7  # the SCSI controller's own
_MOST_DISKS = 4 * _PER_CONTROLLER

Device = vim.vm.device
VirtualDisk = Device.VirtualDisk


@dataclass
class Settings:
    """What a VM is configured to be, apart from its disks. A snapshot keeps a copy."""

    name: str
    home: str
    """The name of its folder in the datastore, and of the files in it."""
    uuid: str
    instance_uuid: str
    guest_os: str
    cpus: int
    memory_mb: int
    firmware: str
    hardware_version: str
    template: bool
    encrypted: bool
    vtpm: bool
    change_tracking: bool
    mac: str
    annotation: str = ""
    change_version: int = 1
    modified: datetime = field(default_factory=now)


@dataclass
class AttachedDisk:
    """One disk of a VM: where it hangs, and what is on it."""

    position: int
    spec: DiskSpec
    image: Disk
    base: str
    """The path of its base file in the datastore, such as ``web01/web01_1.vmdk``."""
    uuid: str
    content_id: str

    @property
    def bus(self) -> int:
        """The number of its SCSI controller."""
        return self.position // _PER_CONTROLLER

    @property
    def unit(self) -> int:
        """Its unit number on the controller."""
        unit = self.position % _PER_CONTROLLER
        return unit + 1 if unit >= _RESERVED_UNIT else unit

    @property
    def key(self) -> int:
        """Its device key."""
        return 2000 + 16 * self.bus + self.unit

    @property
    def label(self) -> str:
        """Its label in vSphere's client."""
        return self.spec.label or f"Hard disk {self.position + 1}"

    @property
    def raw(self) -> bool:
        """Whether it is a raw device in physical compatibility mode."""
        return self.spec.backing == "RawDiskMappingVer1"

    @property
    def snapshotted(self) -> bool:
        """Whether snapshots freeze it: neither independent nor a raw device in physical mode (vSphere Storage)."""
        return not self.spec.mode.startswith("independent") and not self.raw

    @property
    def lease_key(self) -> str:
        """How an export lease names it below its VM, such as ``ParaVirtualSCSIController0:0``."""
        return f"ParaVirtualSCSIController{self.bus}:{self.unit}"

    def file(self, delta: int | None) -> str:
        """Its path in the datastore; a delta bears the number of the snapshot that it was made by."""
        return self.base if delta is None else f"{self.base.removesuffix('.vmdk')}-{delta:06d}.vmdk"


def attach(spec: DiskSpec, *, home: str, position: int, tracking: bool) -> AttachedDisk:
    """Make a disk and give it its place.

    Raises:
        vim.fault.TooManyDevices: There is no free place on four controllers.
    """
    if position >= _MOST_DISKS:
        raise vim.fault.InvalidVmConfig(msg=f"A VM has at most {_MOST_DISKS} disks here.", property="device")
    seed = spec.seed if spec.seed is not None else random.Random(f"{home}/{position}").getrandbits(32)
    return AttachedDisk(
        position=position,
        spec=spec,
        image=Disk(spec.capacity, seed, used=spec.used, track=tracking and not _untracked(spec)),
        base=f"{home}/{home}{f'_{position}' if position else ''}.vmdk",
        uuid=str(uuid.uuid4()),
        content_id=uuid.uuid4().hex,
    )


def _untracked(spec: DiskSpec) -> bool:
    # vSphere Virtual Disk Programming Guide: no change tracking for independent disks and RDMs in physical mode.
    return spec.mode.startswith("independent") or spec.backing == "RawDiskMappingVer1"


@dataclass(frozen=True)
class DiskState:
    """A disk as it is or was at one moment."""

    disk: AttachedDisk
    capacity: int
    change_id: str | None
    deltas: tuple[int, ...] = ()
    """The snapshots, oldest first, whose deltas lie on the base."""


def describe(
    settings: Settings, disks: Sequence[DiskState], *, datastore: Any, datastore_name: str, network: Any
) -> Any:
    """Build ``VirtualMachineConfigInfo``."""
    home = f"[{datastore_name}] {settings.home}/"
    return vim.vm.ConfigInfo(
        changeVersion=str(settings.change_version),
        modified=settings.modified,
        name=settings.name,
        guestFullName=settings.guest_os,
        guestId=guest_id(settings.guest_os),
        alternateGuestName="",
        version=settings.hardware_version,
        uuid=settings.uuid,
        instanceUuid=settings.instance_uuid,
        template=settings.template,
        annotation=settings.annotation,
        files=vim.vm.FileInfo(vmPathName=f"{home}{settings.home}.vmx", snapshotDirectory=home, logDirectory=home),
        tools=vim.vm.ToolsConfigInfo(toolsVersion=12352, syncTimeWithHost=False),
        flags=vim.vm.FlagInfo(enableLogging=True, snapshotDisabled=False, snapshotLocked=False, diskUuidEnabled=True),
        defaultPowerOps=vim.vm.DefaultPowerOpInfo(powerOffType="soft", standbyAction="checkpoint"),
        hardware=vim.vm.VirtualHardware(
            numCPU=settings.cpus,
            numCoresPerSocket=1,
            memoryMB=settings.memory_mb,
            device=_devices(settings, disks, datastore, datastore_name, network),
        ),
        extraConfig=_extra_config(settings, disks),
        bootOptions=vim.vm.BootOptions(bootDelay=0, efiSecureBootEnabled=False),
        changeTrackingEnabled=settings.change_tracking,
        firmware=settings.firmware,
        keyId=vim.encryption.CryptoKeyId(keyId=f"key-{settings.instance_uuid}")
        if settings.encrypted or settings.vtpm
        else None,
    )


def guest_id(full_name: str) -> str:
    """The guest's identifier for its full name, as far as it is known here."""
    name = full_name.lower()
    for word, identifier in (
        ("ubuntu", "ubuntu64Guest"),
        ("windows", "windows2019srv_64Guest"),
        ("red hat", "rhel8_64Guest"),
    ):
        if word in name:
            return identifier
    return "otherGuest64"


def _extra_config(settings: Settings, disks: Sequence[DiskState]) -> list[Any]:
    options = [vim.option.OptionValue(key="nvram", value=f"{settings.home}.nvram")]
    # Virtual Disk Programming Guide: besides the VM's flag each tracked disk has a key of its own.
    options += [
        vim.option.OptionValue(key=f"scsi{state.disk.bus}:{state.disk.unit}.ctkEnabled", value="TRUE")
        for state in disks
        if state.change_id
    ]
    return options


def _devices(
    settings: Settings, disks: Sequence[DiskState], datastore: Any, datastore_name: str, network: Any
) -> list[Any]:
    devices: list[Any] = [
        Device.VirtualIDEController(key=200, busNumber=0, deviceInfo=_info("IDE 0", "IDE 0"), device=[3000]),
        Device.VirtualPCIController(key=100, busNumber=0, deviceInfo=_info("PCI controller 0", "PCI controller 0")),
    ]
    for bus in sorted({state.disk.bus for state in disks} or {0}):
        devices.append(
            Device.ParaVirtualSCSIController(
                key=1000 + bus,
                busNumber=bus,
                controllerKey=100,
                unitNumber=3 + bus,
                deviceInfo=_info(f"SCSI controller {bus}", "VMware paravirtual SCSI"),
                device=[state.disk.key for state in disks if state.disk.bus == bus],
                hotAddRemove=True,
                sharedBus=Device.VirtualSCSIController.Sharing.noSharing,
                scsiCtlrUnitNumber=_RESERVED_UNIT,
            )
        )
    devices.append(
        Device.VirtualCdrom(
            key=3000,
            controllerKey=200,
            unitNumber=0,
            deviceInfo=_info("CD/DVD drive 1", "Remote ATAPI"),
            backing=Device.VirtualCdrom.RemoteAtapiBackingInfo(deviceName="", useAutoDetect=False),
            connectable=_connectable(False),
        )
    )
    devices += [disk_device(state, datastore, datastore_name, encrypted=settings.encrypted) for state in disks]
    if settings.vtpm:
        devices.append(Device.VirtualTPM(key=11000, deviceInfo=_info("Virtual TPM", "Trusted Platform Module")))
    devices.append(
        Device.VirtualVmxnet3(
            key=4000,
            controllerKey=100,
            unitNumber=7,
            deviceInfo=_info("Network adapter 1", network.name),
            backing=Device.VirtualEthernetCard.NetworkBackingInfo(
                deviceName=network.name, network=network.ref, useAutoDetect=False
            ),
            connectable=_connectable(True),
            addressType="assigned",
            macAddress=settings.mac,
            wakeOnLanEnabled=True,
        )
    )
    return devices


def disk_device(state: DiskState, datastore: Any, datastore_name: str, *, encrypted: bool = False) -> Any:
    """Build the ``VirtualDisk`` device of a disk, with its chain of backings."""
    disk = state.disk
    backing: Any = None
    for delta in (None, *state.deltas):
        backing = _backing(disk, f"[{datastore_name}] {disk.file(delta)}", datastore, parent=backing)
    backing.changeId = state.change_id
    if encrypted and hasattr(backing, "keyId"):
        backing.keyId = vim.encryption.CryptoKeyId(keyId=f"key-{disk.uuid}")
    return VirtualDisk(
        key=disk.key,
        controllerKey=1000 + disk.bus,
        unitNumber=disk.unit,
        deviceInfo=_info(disk.label, f"{state.capacity // 1024:,} KB"),
        backing=backing,
        capacityInKB=state.capacity // 1024,
        capacityInBytes=state.capacity,
        shares=vim.SharesInfo(shares=1000, level=vim.SharesInfo.Level.normal),
        diskObjectId=f"{disk.uuid}-{disk.key}",
    )


def _backing(disk: AttachedDisk, file: str, datastore: Any, *, parent: Any) -> Any:
    common = {
        "fileName": file,
        "datastore": datastore,
        "diskMode": disk.spec.mode,
        "uuid": disk.uuid,
        "contentId": disk.content_id,
        "parent": parent,
    }
    if disk.raw:
        return VirtualDisk.RawDiskMappingVer1BackingInfo(
            **common, lunUuid=disk.uuid, deviceName="vml.simulated", compatibilityMode="physicalMode"
        )
    if disk.spec.backing == "SeSparse":
        return VirtualDisk.SeSparseBackingInfo(**common, grainSize=4096)
    delta = {} if parent is None else {"deltaDiskFormat": "redoLogFormat"}
    return VirtualDisk.FlatVer2BackingInfo(
        **common, **delta, thinProvisioned=disk.spec.thin, writeThrough=False, split=False
    )


def _info(label: str, summary: str) -> Any:
    return vim.Description(label=label, summary=summary)


def _connectable(connected: bool) -> Any:
    return Device.VirtualDevice.ConnectInfo(
        startConnected=connected, allowGuestControl=True, connected=connected, status="untried"
    )
