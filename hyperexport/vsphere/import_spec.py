"""The import spec of an export: what vSphere makes of its OVF descriptor, with what OVF loses put back.

vSphere API: OvfManager.CreateImportSpec. Its answer is a plain VirtualMachineConfigSpec, which may be edited before
ImportVApp: so everything is there from the VM's first moment, and there is no half-configured VM to clean up.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from pyVmomi import vim

from hyperexport.errors import ImportRefused, UsageError
from hyperexport.model.manifest import FileEntry
from hyperexport.model.restore import Identity, LostSetting, Provisioning
from hyperexport.vsphere.devices import controller_name
from hyperexport.vsphere.faults import words
from hyperexport.vsphere.kept_config import KeptConfig, decode, label_of, type_of
from hyperexport.vsphere.kept_settings import put_back_settings
from hyperexport.vsphere.session import Session

_device = vim.vm.device

_PLACE: Final = re.compile(r"/([A-Za-z]+\d+):(\d+)$")
_PROVISIONING: Final = {
    Provisioning.THIN: "thin",
    Provisioning.THICK: "thick",
    Provisioning.EAGER: "eagerZeroedThick",
}
_BUILT_IN: Final = (
    "Keyboard",
    "PointingDevice",
    "PCIController",
    "PS2Controller",
    "SIOController",
    "IDEController",
    "VMCIDevice",
    "VirtualMachineVideoCard",
    "VirtualVideoCard",
    "VirtualDisk",
)
"""What every VM has, or what is looked at by itself."""


class ImportFile(NamedTuple):
    """A file that the import asks for."""

    import_key: str
    path: str
    """As the descriptor names it."""
    disk: bool
    """Whether it is a disk, sent by POST; anything else goes by PUT."""


@dataclass
class ImportSpec:
    """What ImportVApp is given, and the files that it will ask for."""

    spec: Any
    """vim.vm.VmImportSpec"""
    files: tuple[ImportFile, ...]
    warnings: tuple[str, ...]

    @property
    def config(self) -> Any:
        """The VM's configuration to be (vim.vm.ConfigSpec)."""
        return self.spec.configSpec


@dataclass(frozen=True)
class Edits:
    """How the spec is to differ from what the descriptor says.

    Args:
        disks: The disks that are restored; the VM gets no other.
        identity: Whether MAC addresses and UUIDs are kept.
        provisioning: How space is taken; as each disk was if None.
        disconnected: Leave every network adapter disconnected.
        annotation: The VM's notes while it is being made.
        bare: Make nothing but a carrier of the disks, with no network adapter and the least of everything else.
        isolated: Make a VM that no user gets: without reservations, and its guest cannot connect an adapter.
        memory_mib: MiB of memory; as much as the VM had if None.
    """

    disks: Sequence[FileEntry]
    identity: Identity
    provisioning: Provisioning | None
    disconnected: bool
    annotation: str
    bare: bool = False
    isolated: bool = False
    memory_mib: int | None = None


def create_import_spec(
    session: Session,
    descriptor: str,
    *,
    name: str,
    pool: Any,
    datastore: Any,
    host: Any,
    networks: Mapping[str, Any],
    provisioning: Provisioning,
) -> ImportSpec:
    """Have vSphere read the descriptor. Nothing is made.

    Args:
        session: The login.
        descriptor: The OVF descriptor's text.
        name: The VM's name to be.
        pool: The resource pool (vim.ResourcePool).
        datastore: Where its files go (vim.Datastore).
        host: The host that it is checked against (vim.HostSystem), or None.
        networks: The target (vim.Network) for each network of the descriptor.
        provisioning: How the disks take their space.

    Raises:
        ImportRefused: The server lists errors; the message carries them.
        PermissionMissing, ServerUnreachable, ServerBusy: As they say.
    """
    params = vim.OvfManager.CreateImportSpecParams(
        entityName=name,
        locale="",
        deploymentOption="",
        hostSystem=host,
        networkMapping=[
            vim.OvfManager.NetworkMapping(name=source, network=target) for source, target in networks.items()
        ],
        diskProvisioning=_PROVISIONING[provisioning],
    )
    doing = f"reading the descriptor of {name}"
    create = session.content.ovfManager.CreateImportSpec
    result = session.read(create, descriptor, pool, datastore, params, doing=doing)
    if result.error or result.importSpec is None:
        reasons = "; ".join(words(fault) for fault in result.error or ()) or "it gives no reason"
        raise ImportRefused(f"{session.address} cannot import {name}: {reasons}")
    if not isinstance(result.importSpec, vim.vm.VmImportSpec):
        raise ImportRefused(f"{session.address} does not read the descriptor of {name} as that of one VM")
    files = tuple(ImportFile(item.deviceId, item.path, not item.create) for item in result.fileItem or ())
    return ImportSpec(result.importSpec, files, tuple(words(fault) for fault in result.warning or ()))


def edit_import_spec(made: ImportSpec, kept: KeptConfig, edits: Edits) -> list[LostSetting]:
    """Put back what OVF loses, and leave out what is not to be restored.

    Returns:
        What will not be restored, each with the reason.

    Raises:
        UsageError: The spec has no place for a disk of the export.
    """
    editor = _Editor(made, kept, edits)
    editor.keep_disks()
    made.config.annotation = edits.annotation
    if edits.bare:
        editor.strip()
        return []
    editor.edit_controllers()
    editor.edit_disks()
    editor.edit_adapters()
    editor.edit_video()
    editor.edit_identity()
    lost = put_back_settings(made.config, kept, editor.new_keys(), reservations=not edits.isolated)
    if edits.memory_mib:
        made.config.memoryMB = edits.memory_mib
    return [*lost, *editor.lost, *editor.lost_devices()]


class _Editor:
    def __init__(self, made: ImportSpec, kept: KeptConfig, edits: Edits) -> None:
        self._made = made
        self._config = made.config
        self._kept = kept
        self._edits = edits
        self.lost: list[LostSetting] = []

    # -- what is in the spec -------------------------------------------------------------------------------------------

    @property
    def _devices(self) -> list[Any]:
        return [change.device for change in self._config.deviceChange]

    def _of_kind(self, kind: Any) -> list[Any]:
        return [device for device in self._devices if isinstance(device, kind)]

    @property
    def _adapters(self) -> list[Any]:
        return self._of_kind(_device.VirtualEthernetCard)

    def _place(self, disk: Any) -> tuple[str, int]:
        """Where a disk of the spec is to hang, as a manifest names it."""
        controllers = {each.key: each for each in self._of_kind(_device.VirtualController)}
        return controller_name(controllers.get(disk.controllerKey)), disk.unitNumber or 0

    # -- disks ---------------------------------------------------------------------------------------------------------

    def keep_disks(self) -> None:
        """Leave out the disks that are not restored, and the files that nothing asks for any more."""
        wanted = {entry.name for entry in self._edits.disks}
        places = {self._place(disk): disk for disk in self._of_kind(_device.VirtualDisk)}
        asked = [file for file in self._made.files if file.disk]
        by_file: dict[str, Any] = {}
        for file in asked:
            found = _PLACE.search(file.import_key)
            if found and (disk := places.get((found[1], int(found[2])))) is not None:
                by_file[file.path] = disk
        if len(by_file) != len(asked):  # a server that names its devices otherwise: by where the disk was
            was = {entry.name: (entry.disk_controller or "", entry.disk_unit or 0) for entry in self._edits.disks}
            by_file = {name: places[place] for name, place in was.items() if place in places}
        missing = wanted - by_file.keys()
        if missing:
            raise UsageError(f"the descriptor has no place for {', '.join(sorted(missing))}")
        kept = {id(by_file[name]) for name in wanted}
        self._config.deviceChange = [
            change
            for change in self._config.deviceChange
            if not isinstance(change.device, _device.VirtualDisk) or id(change.device) in kept
        ]
        self._made.files = tuple(file for file in self._made.files if not file.disk or file.path in wanted)
        self._disk_of = {name: by_file[name] for name in wanted}

    def edit_disks(self) -> None:
        """Give each disk its mode, its sharing and the way in which it takes space."""
        kept = kept_disks(self._kept)
        for entry in self._edits.disks:
            disk = self._disk_of[entry.name]
            was = kept.get((entry.disk_controller or "", entry.disk_unit or 0), {})
            old = _dictionary(was.get("backing"))
            backing = disk.backing
            for name in ("diskMode", "sharing", "writeThrough"):
                if isinstance(old.get(name), str | bool) and hasattr(backing, name):
                    setattr(backing, name, old[name])
            provisioning = self._edits.provisioning or provisioning_of(old)
            if hasattr(backing, "thinProvisioned") and provisioning:
                backing.thinProvisioned = provisioning is Provisioning.THIN
                backing.eagerlyScrub = True if provisioning is Provisioning.EAGER else None
            self._edit_io(disk, was)

    def _edit_io(self, disk: Any, was: dict[str, Any]) -> None:
        allocation = decode(was.get("storageIOAllocation"))
        shares = decode(was.get("shares"))
        if isinstance(allocation, vim.StorageResourceManager.IOAllocationInfo):
            disk.storageIOAllocation = allocation
        elif isinstance(shares, vim.SharesInfo) and shares.level != "normal":
            disk.shares = shares

    # -- other devices -------------------------------------------------------------------------------------------------

    def edit_controllers(self) -> None:
        """Give each SCSI controller the sharing of its bus."""
        kept = {
            f"{type_of(device).rpartition('.')[2]}{device.get('busNumber')}": device
            for device in self._kept.of_type("Controller")
        }
        for controller in self._of_kind(_device.VirtualSCSIController):
            shared = kept.get(controller_name(controller), {}).get("sharedBus")
            if isinstance(shared, str):
                controller.sharedBus = shared

    def edit_adapters(self) -> None:
        """Give each network adapter its address and the way in which it is connected."""
        kept = self._kept_adapters
        if self._kept and len(kept) != len(self._adapters):
            self.lost.append(
                LostSetting(
                    "network adapters",
                    f"the VM had {len(kept)} and its descriptor has {len(self._adapters)}, so their MAC addresses and "
                    "connections are new",
                )
            )
            kept = []
        for adapter, was in zip(self._adapters, kept, strict=False):
            self._edit_adapter(adapter, was)
        for adapter in self._adapters if self._edits.disconnected else ():
            adapter.connectable = adapter.connectable or _device.VirtualDevice.ConnectInfo(allowGuestControl=True)
            adapter.connectable.startConnected = adapter.connectable.connected = False
            if self._edits.isolated:
                # vSphere API: otherwise VMware Tools in the guest may connect it.
                adapter.connectable.allowGuestControl = False

    def _edit_adapter(self, adapter: Any, was: dict[str, Any]) -> None:
        if self._edits.identity is Identity.KEEP and isinstance(was.get("macAddress"), str):
            # An address that vSphere has assigned once is refused as such for another VM; one set by hand is taken.
            adapter.addressType, adapter.macAddress = "manual", was["macAddress"]
        connection = _dictionary(was.get("connectable"))
        if isinstance(connection.get("startConnected"), bool):
            adapter.connectable = adapter.connectable or _device.VirtualDevice.ConnectInfo(allowGuestControl=True)
            adapter.connectable.startConnected = connection["startConnected"]
            adapter.connectable.connected = False if not connection["startConnected"] else adapter.connectable.connected
        for name in ("wakeOnLanEnabled", "uptCompatibilityEnabled"):
            if isinstance(was.get(name), bool) and hasattr(adapter, name):
                setattr(adapter, name, was[name])
        allocation = decode(was.get("resourceAllocation"))
        if isinstance(allocation, _device.VirtualEthernetCard.ResourceAllocation):
            adapter.resourceAllocation = allocation
            if self._edits.isolated:
                adapter.resourceAllocation.reservation = 0

    @property
    def _kept_adapters(self) -> list[dict[str, Any]]:
        return [device for device in self._kept.devices if "macAddress" in device]

    def edit_video(self) -> None:
        """Give the video card its memory and displays."""
        for was in self._kept.of_type("VirtualMachineVideoCard"):
            for card in self._of_kind(_device.VirtualVideoCard):
                for name in ("videoRamSizeInKB", "numDisplays", "useAutoDetect", "enable3DSupport", "use3dRenderer"):
                    if was.get(name) is not None and isinstance(was[name], int | str):
                        setattr(card, name, was[name])

    def edit_identity(self) -> None:
        """Give the VM the UUIDs that it had, where they are kept."""
        if self._edits.identity is Identity.KEEP:
            self._config.uuid = self._kept.text("uuid") or self._config.uuid
            self._config.instanceUuid = self._kept.text("instanceUuid") or self._config.instanceUuid

    def strip(self) -> None:
        """Leave only the disks and their controllers."""
        config = self._config
        config.deviceChange = [
            change
            for change in config.deviceChange
            if isinstance(change.device, _device.VirtualDisk | _device.VirtualController)
        ]
        config.extraConfig = []
        config.vAppConfig = None
        config.numCPUs = config.numCoresPerSocket = 1
        config.memoryMB = 128
        config.bootOptions = None
        self._made.files = tuple(file for file in self._made.files if file.disk)

    def new_keys(self) -> dict[int, int]:
        """The spec's key for each device of the exported VM that a boot order can name."""
        keys: dict[int, int] = {}
        for place, device in kept_disks(self._kept).items():
            for entry in self._edits.disks:
                if (entry.disk_controller, entry.disk_unit or 0) == place and isinstance(device.get("key"), int):
                    keys[device["key"]] = self._disk_of[entry.name].key
        kept = self._kept_adapters
        if len(kept) == len(self._adapters):
            keys |= {
                was["key"]: adapter.key
                for was, adapter in zip(kept, self._adapters, strict=True)
                if isinstance(was.get("key"), int)
            }
        return keys

    def lost_devices(self) -> Iterable[LostSetting]:
        """The devices of the exported VM that the spec does not have."""
        there = [type(device).__name__.rpartition(".")[2] for device in self._devices]
        for device in self._kept.devices:
            kind = type_of(device).rpartition(".")[2]
            if "macAddress" in device or kind.endswith(_BUILT_IN):
                continue
            if kind == "VirtualTPM":
                yield LostSetting(
                    "virtual TPM",
                    "its secrets cannot be exported; add a new one, and have the recovery keys of BitLocker ready",
                )
            elif kind in there:
                there.remove(kind)
                if kind == "VirtualCdrom" and _dictionary(device.get("backing")).get("fileName"):
                    yield LostSetting(label_of(device), "its image is no part of an export; the drive is empty")
            else:
                yield LostSetting(label_of(device), f"an OVF descriptor does not have it ({kind}); add it by hand")


def networks_of_descriptor(descriptor: str) -> tuple[str, ...]:
    """The names of the networks that an OVF descriptor has adapters on.

    Raises:
        ImportRefused: It is not XML.
    """
    try:
        root = ET.fromstring(descriptor.encode())  # noqa: S314 - expat refuses entities that grow
    except ET.ParseError as error:
        raise ImportRefused(f"the export's OVF descriptor is not XML: {error}") from error
    connected = (each.text for each in root.iter() if each.tag.rpartition("}")[2] == "Connection")
    return tuple(dict.fromkeys(name for name in connected if name))


def provisioning_of_disks(
    kept: KeptConfig, disks: Iterable[FileEntry], wanted: Provisioning | None
) -> dict[str, Provisioning]:
    """How each disk will take its space, by its file: as asked for, else as it was, else thin."""
    places = {place: provisioning_of(_dictionary(device.get("backing"))) for place, device in kept_disks(kept).items()}
    return {
        disk.name: wanted or places.get((disk.disk_controller or "", disk.disk_unit or 0)) or Provisioning.THIN
        for disk in disks
    }


def kept_disks(kept: KeptConfig) -> dict[tuple[str, int], dict[str, Any]]:
    """The kept disks by the places that they were at, as a manifest names them."""
    controllers = {each.get("key"): each for each in kept.of_type("Controller")}
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for device in kept.of_type("VirtualDisk"):
        controller = controllers.get(device.get("controllerKey"))
        name = f"{type_of(controller).rpartition('.')[2]}{controller.get('busNumber')}" if controller else "unknown"
        unit = device.get("unitNumber")
        found[name, unit if isinstance(unit, int) else 0] = device
    return found


def provisioning_of(backing: Mapping[str, Any]) -> Provisioning | None:
    """The provisioning of a kept disk; None where it is unknown."""
    if backing.get("thinProvisioned") is True:
        return Provisioning.THIN
    if backing.get("eagerlyScrub") is True:
        return Provisioning.EAGER
    return Provisioning.THICK if backing.get("thinProvisioned") is False else None


def _dictionary(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]
