"""What a VM is made of, as the API describes it: devices, files and the whole ``config``, now or at a snapshot.

Pure building of data objects from a VM's settings and disks; it changes nothing. The devices besides disks are in
``devices.py``.
"""

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pyVmomi import vim

from hyperexport.simulator.devices import bus_of, clone, disk_key, info
from hyperexport.simulator.disks import Disk
from hyperexport.simulator.inventory import Datastore
from hyperexport.simulator.spec import DiskSpec
from hyperexport.simulator.world import now

Device = vim.vm.device
VirtualDisk = Device.VirtualDisk


@dataclass
class Settings:
    """What a VM is configured to be, apart from its disks. A snapshot keeps a copy; the values are never changed."""

    name: str
    home: str
    """The name of its folder in the datastore, and of the files in it."""
    uuid: str
    instance_uuid: str
    guest_os: str
    guest_id: str
    cpus: int
    memory_mb: int
    firmware: str
    hardware_version: str
    template: bool = False
    encrypted: bool = False
    vtpm: bool = False
    change_tracking: bool = False
    cores_per_socket: int = 1
    annotation: str = ""
    devices: tuple[Any, ...] = ()
    """All devices but the disks."""
    boot: Any = field(default_factory=lambda: vim.vm.BootOptions(bootDelay=0, efiSecureBootEnabled=False))
    extra: dict[str, str] = field(default_factory=dict[str, str])
    """extraConfig, besides what the VM's files and change tracking bring along."""
    more: dict[str, Any] = field(default_factory=dict[str, Any])
    """Fields of ConfigInfo that are kept as they were given."""
    change_version: int = 1
    modified: datetime = field(default_factory=now)


@dataclass
class AttachedDisk:
    """One disk of a VM, or one that lies in a datastore: where it hangs or hung, and what is on it."""

    position: int
    """Where it stands among the VM's disks; faults are aimed by it."""
    spec: DiskSpec
    image: Disk
    base: str
    """The path of its base file in the datastore, such as ``web01/web01_1.vmdk``."""
    store: Datastore
    uuid: str
    content_id: str
    controller: Any
    """The device that it hangs on."""
    unit: int
    """Its unit number on the controller."""
    storage: dict[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the API's VirtualDisk that are kept as they were given, such as ``shares``."""
    attached: bool = True
    """Whether a VM has it."""
    awaits_content: bool = False
    """Whether an import that makes it brings its content."""

    @property
    def bus(self) -> int:
        """The number of its controller."""
        return self.controller.busNumber

    @property
    def key(self) -> int:
        """Its device key."""
        return disk_key(self.controller, self.unit)

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
        """How a lease names it below its VM, such as ``ParaVirtualSCSIController0:0``."""
        return f"{self.controller._wsdlName}{self.bus}:{self.unit}"

    @property
    def slot(self) -> str:
        """How the VM's configuration file names its place, such as ``scsi0:0``."""
        kinds = (
            (Device.VirtualSATAController, "sata"),
            (Device.VirtualNVMEController, "nvme"),
            (Device.VirtualIDEController, "ide"),
        )
        name = next((name for kind, name in kinds if isinstance(self.controller, kind)), "scsi")
        return f"{name}{self.bus}:{self.unit}"

    @property
    def taken(self) -> int:
        """Bytes that it takes on its datastore."""
        if not self.spec.thin:
            return self.image.capacity
        return min(int(self.image.capacity * self.spec.used) + self.image.added, self.image.capacity)

    def file(self, delta: int | None) -> str:
        """Its path in the datastore; a delta has the number of the snapshot that it was made by."""
        return self.base if delta is None else f"{self.base.removesuffix('.vmdk')}-{delta:06d}.vmdk"


def make_disk(
    spec: DiskSpec, *, home: str, position: int, store: Datastore, controller: Any, unit: int, tracking: bool
) -> AttachedDisk:
    """Make a disk in the VM's folder of a datastore."""
    seed = spec.seed if spec.seed is not None else random.Random(f"{home}/{position}").getrandbits(32)
    names = (f"{home}/{home}{f'_{number}' if number else ''}.vmdk" for number in range(position, 1 << 20))
    disk = AttachedDisk(
        position=position,
        spec=spec,
        image=Disk(spec.capacity, seed, used=spec.used, track=tracking and not untracked(spec)),
        base=next(name for name in names if name not in store.disks),
        store=store,
        uuid=str(uuid.uuid4()),
        content_id=uuid.uuid4().hex,
        controller=controller,
        unit=unit,
    )
    store.disks[disk.base] = disk
    return disk


def untracked(spec: DiskSpec) -> bool:
    """Whether changes on such a disk can't be tracked."""
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


def describe(settings: Settings, states: Sequence[DiskState], home: Datastore) -> Any:
    """Build ``VirtualMachineConfigInfo`` of a VM whose folder lies in the datastore ``home``."""
    folder = f"[{home.name}] {settings.home}/"
    return vim.vm.ConfigInfo(
        **{
            "flags": vim.vm.FlagInfo(
                enableLogging=True, snapshotDisabled=False, snapshotLocked=False, diskUuidEnabled=True
            ),
            "tools": vim.vm.ToolsConfigInfo(toolsVersion=12352, syncTimeWithHost=False),
            "alternateGuestName": "",
            "defaultPowerOps": vim.vm.DefaultPowerOpInfo(powerOffType="soft", standbyAction="checkpoint"),
            **settings.more,
        },
        changeVersion=str(settings.change_version),
        modified=settings.modified,
        name=settings.name,
        guestFullName=settings.guest_os,
        guestId=settings.guest_id,
        version=settings.hardware_version,
        uuid=settings.uuid,
        instanceUuid=settings.instance_uuid,
        template=settings.template,
        annotation=settings.annotation,
        files=vim.vm.FileInfo(vmPathName=f"{folder}{settings.home}.vmx", snapshotDirectory=folder, logDirectory=folder),
        hardware=vim.vm.VirtualHardware(
            numCPU=settings.cpus,
            numCoresPerSocket=settings.cores_per_socket,
            memoryMB=settings.memory_mb,
            device=_devices(settings, states),
        ),
        extraConfig=_extra_config(settings, states),
        bootOptions=settings.boot,
        changeTrackingEnabled=settings.change_tracking,
        firmware=settings.firmware,
        keyId=vim.encryption.CryptoKeyId(keyId=f"key-{settings.instance_uuid}")
        if settings.encrypted or settings.vtpm
        else None,
    )


_GUESTS = (
    ("ubuntu", "ubuntu64Guest", "Ubuntu Linux (64-bit)"),
    ("windows", "windows2019srv_64Guest", "Microsoft Windows Server 2019 (64-bit)"),
    ("red hat", "rhel8_64Guest", "Red Hat Enterprise Linux 8 (64-bit)"),
    ("debian", "debian12_64Guest", "Debian GNU/Linux 12 (64-bit)"),
    ("", "otherGuest64", "Other (64-bit)"),
)


def guest_id(full_name: str) -> str:
    """The guest's identifier for its full name, as far as it is known here."""
    return next(identifier for word, identifier, _ in _GUESTS if word in full_name.lower())


def guest_name(identifier: str) -> str:
    """The guest's full name for its identifier; the identifier itself where it is not known here."""
    return next((name for _, known, name in _GUESTS if known == identifier), identifier)


def _extra_config(settings: Settings, states: Sequence[DiskState]) -> list[Any]:
    # Virtual Disk Programming Guide: besides the VM's flag each tracked disk has a key of its own.
    tracked = {f"{state.disk.slot}.ctkEnabled": "TRUE" for state in states if state.change_id}
    options = {"nvram": f"{settings.home}.nvram", **tracked, **settings.extra}
    return [vim.option.OptionValue(key=key, value=value) for key, value in options.items()]


def _devices(settings: Settings, states: Sequence[DiskState]) -> list[Any]:
    disks = [disk_device(state, encrypted=settings.encrypted) for state in states]
    hanging = [*settings.devices, *disks]
    others = [
        clone(each, device=[device.key for device in hanging if device.controllerKey == each.key])
        if bus_of(each)
        else each
        for each in settings.devices
    ]
    at = next((n for n, each in enumerate(others) if isinstance(each, Device.VirtualEthernetCard)), len(others))
    return [*others[:at], *disks, *others[at:]]


def disk_device(state: DiskState, *, encrypted: bool = False) -> Any:
    """Build the ``VirtualDisk`` device of a disk, with its chain of backings."""
    disk = state.disk
    backing: Any = None
    for delta in (None, *state.deltas):
        backing = _backing(disk, f"[{disk.store.name}] {disk.file(delta)}", parent=backing)
    backing.changeId = state.change_id
    if encrypted and hasattr(backing, "keyId"):
        backing.keyId = vim.encryption.CryptoKeyId(keyId=f"key-{disk.uuid}")
    return VirtualDisk(
        **{"shares": vim.SharesInfo(shares=1000, level=vim.SharesInfo.Level.normal), **disk.storage},
        key=disk.key,
        controllerKey=disk.controller.key,
        unitNumber=disk.unit,
        deviceInfo=info(disk.label, f"{state.capacity // 1024:,} KB"),
        backing=backing,
        capacityInKB=state.capacity // 1024,
        capacityInBytes=state.capacity,
        diskObjectId=f"{disk.uuid}-{disk.key}",
    )


def _backing(disk: AttachedDisk, file: str, *, parent: Any) -> Any:
    common = {
        "fileName": file,
        "datastore": disk.store.ref,
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
        **common,
        **delta,
        thinProvisioned=disk.spec.thin,
        eagerlyScrub=True if disk.spec.eager else None,
        writeThrough=False,
        split=False,
        sharing=disk.spec.sharing,
    )
