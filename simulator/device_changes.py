"""Devices added to a VM, edited and removed: ``deviceChange`` of a VirtualMachineConfigSpec.

vSphere API: VirtualDeviceConfigSpec. A whole list of changes is worked out on a draft first, so that one that is
refused leaves nothing behind.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from hyperexport.simulator import devices
from hyperexport.simulator.devices import Device, adapters, bus_of, clone
from hyperexport.simulator.hardware import AttachedDisk, make_disk
from hyperexport.simulator.neighbours import choose_mac
from hyperexport.simulator.spec import DiskSpec

if TYPE_CHECKING:
    from hyperexport.simulator.machine import Machine

_PATH = re.compile(r"\[(?P<store>[^\]]+)\] ?(?P<path>.+)")
_SINGLE = (Device.VirtualVideoCard, Device.VirtualVMCIDevice)


def privileges_for(changes: Sequence[Any]) -> list[str]:
    """The privileges that changes of devices need, one for each."""
    needed: list[str] = []
    for change in changes:
        if not isinstance(change.device, Device.VirtualDisk):
            edits = change.operation == "edit"
            needed.append("VirtualMachine.Config." + ("EditDevice" if edits else "AddRemoveDevice"))
        elif change.operation == "add":
            made = change.fileOperation is not None
            needed.append("VirtualMachine.Config." + ("AddNewDisk" if made else "AddExistingDisk"))
        elif change.operation == "remove":
            needed.append("VirtualMachine.Config.RemoveDisk")
        else:
            needed.append("VirtualMachine.Config.DiskExtend")
    return needed


@dataclass
class Draft:
    """A VM's devices as they are to become.

    Args:
        vm: The VM.
        devices: All but the disks.
        disks: The disks.
    """

    vm: "Machine"
    devices: list[Any]
    disks: list[AttachedDisk]
    keys: dict[int, int] = field(default_factory=dict[int, int])
    """The keys that new devices got, by those that the spec had for them."""
    made: list[AttachedDisk] = field(default_factory=list[AttachedDisk])
    detached: list[AttachedDisk] = field(default_factory=list[AttachedDisk])
    deleted: list[AttachedDisk] = field(default_factory=list[AttachedDisk])

    @classmethod
    def of(cls, vm: "Machine") -> "Draft":
        """A draft that changes nothing yet."""
        return cls(vm, list(vm.settings.devices), list(vm.disks))

    def discard(self) -> None:
        """Nothing of it is to be."""
        for disk in self.made:
            disk.store.disks.pop(disk.base, None)

    def commit(self) -> None:
        """Let the VM have the devices."""
        for disk in (*self.detached, *self.deleted):
            disk.attached = False
        for disk in self.deleted:
            disk.store.disks.pop(disk.base, None)
        for disk in self.disks:
            disk.attached = True
            disk.store.disks[disk.base] = disk
        self.vm.settings.devices = tuple(self.devices)
        self.vm.disks = self.disks
        self.vm.rewire()

    def change(self, changes: Sequence[Any]) -> None:
        """Work changes out, controllers first.

        Raises:
            vmodl.MethodFault: One of them is not valid.
        """
        numbered = sorted(enumerate(changes), key=lambda each: bus_of(each[1].device) is None)
        for index, change in numbered:
            act = {"add": self._add, "edit": self._edit, "remove": self._remove}[str(change.operation)]
            act(index, change)

    # -- adding --------------------------------------------------------------------------------------------------------

    def _add(self, index: int, change: Any) -> None:
        device = change.device
        if isinstance(device, Device.VirtualDisk):
            self._add_disk(index, change)
        elif bus_of(device) or isinstance(device, Device.VirtualPCIController):
            self._add_controller(index, device)
        elif isinstance(device, Device.VirtualEthernetCard):
            self._add_nic(index, device)
        elif isinstance(device, Device.VirtualCdrom):
            at, unit = self._place(index, device)
            key = devices.disk_key(at, unit)
            self._take(device, clone(device, key=key, controllerKey=at.key, unitNumber=unit))
        elif isinstance(device, _SINGLE):
            self.devices = [each for each in self.devices if not isinstance(each, type(device))]
            self._take(device, clone(device, key=500 if isinstance(device, _SINGLE[0]) else 12000))
        else:
            raise vmodl.fault.NotSupported(msg=f"The simulator has no device of the type {device._wsdlName}.")

    def _take(self, wanted: Any, device: Any) -> None:
        self.devices.append(device)
        if wanted.key is not None:
            self.keys[wanted.key] = device.key

    def _add_controller(self, index: int, device: Any) -> None:
        if isinstance(device, Device.VirtualPCIController):
            self.keys[device.key] = devices.PCI_KEY
            return
        wanted = devices.controller(type(device), device.busNumber)
        there = next((each for each in self.devices if each.key == wanted.key), None)
        if there is not None and isinstance(there, Device.VirtualIDEController) and (device.key or 0) < 0:
            self.keys[device.key] = there.key  # vSphere API: every VM has its two IDE controllers already
            return
        bus = bus_of(device)
        if there is not None or bus is None or device.busNumber >= bus.controllers:
            raise invalid_device(index, f"There is no bus {device.busNumber} left for a {device._wsdlName}.")
        if isinstance(device, Device.VirtualSCSIController):
            wanted.sharedBus = device.sharedBus or wanted.sharedBus
        self._take(device, wanted)

    def _place(self, index: int, device: Any) -> tuple[Any, int]:
        """Where a new device is to hang: its controller, and the unit number there."""
        key = self.keys.get(device.controllerKey, device.controllerKey)
        taken = [
            *((each.controllerKey, each.unitNumber) for each in self.devices),
            *((each.controller.key, each.unit) for each in self.disks),
        ]
        at = next((each for each in self.devices if each.key == key and bus_of(each)), None)
        if at is None:
            raise invalid_device(index, f"There is no controller with the key {device.controllerKey}.")
        bus, unit = bus_of(at), device.unitNumber
        if unit is None or unit < 0:
            unit = devices.free_unit(at, taken)
        if bus is None or unit not in bus.units or (at.key, unit) in taken:
            raise invalid_device(index, f"The place {device.unitNumber} of the controller {key} is not free.")
        return at, unit

    def _add_disk(self, index: int, change: Any) -> None:
        device = change.device
        if device.controllerKey is None:
            at, unit = place_for(self, "pvscsi")
        else:
            at, unit = self._place(index, device)
        file = device.backing.fileName if device.backing else ""
        if change.fileOperation is None:
            disk = replace(self._existing(index, file), controller=at, unit=unit, position=self._position())
            disk.image.set_tracking(False)
        else:
            disk = self._new(index, device, at, unit)
            self.made.append(disk)
        self.disks.append(disk)
        if device.key is not None:
            self.keys[device.key] = disk.key

    def _new(self, index: int, device: Any, at: Any, unit: int) -> AttachedDisk:
        capacity = device.capacityInBytes or (device.capacityInKB or 0) * 1024
        backing = device.backing
        if not isinstance(backing, Device.VirtualDisk.FlatVer2BackingInfo):
            raise vim.fault.DeviceUnsupportedForVmPlatform(
                msg=f"Device '{index}' is not supported by the platform.", property="backing", deviceIndex=index
            )
        try:
            spec = DiskSpec(
                capacity,
                used=0.0,
                thin=backing.thinProvisioned is not False,
                eager=bool(backing.eagerlyScrub),
                mode=backing.diskMode or "persistent",
                sharing=backing.sharing,
            )
        except ValueError as error:
            raise invalid_device(index, str(error)) from error
        store = self.vm.store
        if not spec.thin and capacity > store.free_space:
            raise no_space(store)
        tracking = self.vm.settings.change_tracking
        home = self.vm.settings.home
        disk = make_disk(
            spec, home=home, position=self._position(), store=store, controller=at, unit=unit, tracking=tracking
        )
        disk.storage = kept_of(device)
        # A new disk whose place is named, if only by its datastore, is empty; see import_spec.py.
        disk.awaits_content = not backing.fileName
        return disk

    def _existing(self, index: int, file: str) -> AttachedDisk:
        found = _PATH.fullmatch(file or "")
        if not found:
            raise invalid_device(index, f"'{file}' is not the path of a disk.")
        store = next((each for each in self.vm.datastores() if each.name == found["store"]), None)
        disk = store.disks.get(found["path"]) if store else None
        if disk is None:
            raise vim.fault.FileNotFound(msg=f"File {file} was not found", file=file)
        if disk.attached and disk not in self.detached:
            raise vim.fault.FileLocked(msg=f"Unable to access file {file} since it is locked", file=file)
        return disk

    def _position(self) -> int:
        used = {disk.position for disk in self.disks}
        return next(number for number in range(len(used) + 1) if number not in used)

    def _add_nic(self, index: int, device: Any) -> None:
        number = next(n for n in range(64) if n + devices.NIC_KEY not in {each.key for each in self.devices})
        network = self._network(index, device.backing)
        mac, kind = choose_mac(self.vm, device.addressType, device.macAddress)
        made = devices.nic(type(device), number, network, mac, kind)
        if device.connectable is not None:
            made.connectable = _connected(device.connectable)
        if device.wakeOnLanEnabled is not None:
            made.wakeOnLanEnabled = device.wakeOnLanEnabled
        self._take(device, made)

    def _network(self, index: int, backing: Any) -> Any:
        if not isinstance(backing, Device.VirtualEthernetCard.NetworkBackingInfo):
            raise invalid_device(index, "The simulator has standard port groups only.")
        for network in self.vm.networks():
            if (backing.network and network.moid == backing.network._moId) or (
                not backing.network and network.name == backing.deviceName
            ):
                return network
        raise invalid_device(index, f"There is no network {backing.deviceName}.")

    # -- editing -------------------------------------------------------------------------------------------------------

    def _edit(self, index: int, change: Any) -> None:
        device = change.device
        if isinstance(device, Device.VirtualDisk):
            self._edit_disk(index, device)
            return
        at = next((n for n, each in enumerate(self.devices) if each.key == device.key), None)
        if at is None or not isinstance(device, type(self.devices[at])):
            raise invalid_device(index, f"There is no {device._wsdlName} with the key {device.key}.")
        old = self.devices[at]
        if isinstance(device, Device.VirtualEthernetCard):
            network = self._network(index, device.backing) if device.backing else None
            mac, kind = old.macAddress, old.addressType
            if (device.macAddress, device.addressType) != (mac, kind) and (device.macAddress or device.addressType):
                mac, kind = choose_mac(self.vm, device.addressType or kind, device.macAddress)
            new = clone(old, macAddress=mac, addressType=kind)
            if network is not None:
                new.backing, new.deviceInfo = (
                    devices.nic_backing(network),
                    devices.info(old.deviceInfo.label, network.name),
                )
            if device.connectable is not None:
                new.connectable = _connected(device.connectable)
            if device.wakeOnLanEnabled is not None:
                new.wakeOnLanEnabled = device.wakeOnLanEnabled
            self.devices[at] = new
        else:
            self.devices[at] = clone(device, controllerKey=old.controllerKey, unitNumber=old.unitNumber)

    def _edit_disk(self, index: int, device: Any) -> None:
        at = next((n for n, each in enumerate(self.disks) if each.key == device.key), None)
        if at is None:
            raise vim.fault.InvalidDeviceSpec(msg=f"There is no disk with the key {device.key}.", deviceIndex=index)
        disk = self.disks[at]
        capacity = device.capacityInBytes or (device.capacityInKB or 0) * 1024
        if capacity:
            grow(self.vm, disk, capacity)
        backing = device.backing
        mode = getattr(backing, "diskMode", None) or disk.spec.mode
        sharing = getattr(backing, "sharing", None) or disk.spec.sharing
        if (mode, sharing) == (disk.spec.mode, disk.spec.sharing) and not kept_of(device):
            return
        if self.vm.snapshot_roots:
            raise vim.fault.InvalidDeviceOperation(msg="The VM has snapshots, so its disks keep their mode.")
        spec = replace(disk.spec, mode=mode, sharing=sharing)
        self.disks[at] = replace(disk, spec=spec, storage={**disk.storage, **kept_of(device)})

    # -- removing ------------------------------------------------------------------------------------------------------

    def _remove(self, index: int, change: Any) -> None:
        key = change.device.key
        disk = next((each for each in self.disks if each.key == key), None)
        if disk is not None:
            self.disks.remove(disk)
            (self.deleted if change.fileOperation == "destroy" else self.detached).append(disk)
            return
        device = next((each for each in self.devices if each.key == key), None)
        if device is None:
            raise invalid_device(index, f"There is no device with the key {key}.")
        on_it = [*(each.controllerKey for each in self.devices), *(each.controller.key for each in self.disks)]
        if key in on_it:
            raise vim.fault.InvalidDeviceOperation(msg="Devices hang on the controller.", deviceIndex=index)
        self.devices.remove(device)


def place_for(draft: Draft, kind: str) -> tuple[Any, int]:
    """A free place on a controller of a kind, which is added where there is none.

    Raises:
        vim.fault.InvalidVmConfig: There is no free place on as many controllers as a VM can have.
    """
    taken = [
        *((each.controllerKey, each.unitNumber) for each in draft.devices),
        *((each.controller.key, each.unit) for each in draft.disks),
    ]
    made, _ = devices.CONTROLLERS[kind]
    for each in draft.devices:
        if type(each) is made and (unit := devices.free_unit(each, taken)) is not None:
            return each, unit
    more = devices.next_controller(made, draft.devices)
    if more is None:
        raise vim.fault.InvalidVmConfig(msg=f"There is no free place for a disk on {kind}.", property="device")
    nics = adapters(draft.devices)
    draft.devices.insert(draft.devices.index(nics[0]) if nics else len(draft.devices), more)
    unit = devices.free_unit(more, taken)
    assert unit is not None
    return more, unit


def grow(vm: "Machine", disk: AttachedDisk, capacity: int) -> None:
    """Make a disk larger.

    Raises:
        vim.fault.InvalidDeviceSpec: It would become smaller.
        vim.fault.InvalidDeviceOperation: The VM has a snapshot, so its disks keep their size.
    """
    if capacity == disk.image.capacity:
        return
    if vm.snapshot_roots:
        raise vim.fault.InvalidDeviceOperation(msg="A disk of a VM with snapshots cannot be extended.", deviceIndex=0)
    try:
        disk.image.resize(capacity)
    except ValueError as error:
        raise vim.fault.InvalidDeviceSpec(msg=str(error), deviceIndex=0) from error
    vm.world.touch()


def kept_of(device: Any) -> dict[str, Any]:
    """The fields of a disk's device that are kept as they are given."""
    return {name: value for name in ("shares", "storageIOAllocation") if (value := getattr(device, name)) is not None}


def _connected(wanted: Any) -> Any:
    return clone(
        devices.connectable(True),
        startConnected=wanted.startConnected,
        connected=bool(wanted.connected),
        allowGuestControl=bool(wanted.allowGuestControl),
    )


def invalid_device(index: int, why: str) -> Any:
    """The fault for a device that cannot be as the spec wants it."""
    return vim.fault.InvalidDeviceSpec(msg=f"Invalid configuration for device '{index}'. {why}", deviceIndex=index)


def no_space(store: Any) -> Any:
    """The fault for a datastore that is full."""
    return vim.fault.NoDiskSpace(
        msg=f"Insufficient disk space on datastore '{store.name}'.", file=f"[{store.name}]", datastore=store.name
    )
