"""Disks that go from the VM that was imported with them to a VM that gets them.

The way that vSphere documents and ``govc import.vmdk`` takes: detach the disk without deleting its file, attach the
file to the other VM. Between the two the file belongs to no VM. So the call that detaches the disks also
writes into the first VM's notes where they are going: a cleanup after a crash finds there what to look for.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from pyVmomi import vim

from hyperexport.base.stop import StopSignal
from hyperexport.errors import ServerFault, UsageError
from hyperexport.model.manifest import FileEntry
from hyperexport.model.vm import VmRef
from hyperexport.vsphere.collector import properties
from hyperexport.vsphere.devices import controller_name, device_label, short_name
from hyperexport.vsphere.faults import GONE, is_caused_by
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.vm_tasks import run_task

_device = vim.vm.device
_GOING: Final = "[hyperexport-disks "
_PATTERN: Final = re.compile(r"\[hyperexport-disks (\{.*?\})\]")
_UNITS: Final = (
    # vSphere Configuration Maximums: units of a controller; a SCSI controller itself takes unit 7.
    (_device.ParaVirtualSCSIController, tuple(unit for unit in range(64) if unit != 7)),
    (_device.VirtualSCSIController, tuple(unit for unit in range(16) if unit != 7)),
    (_device.VirtualAHCIController, tuple(range(30))),
    (_device.VirtualNVMEController, tuple(range(15))),
    (_device.VirtualIDEController, (0, 1)),
)


class UnitAddress(NamedTuple):
    """A free place for a disk."""

    controller_key: int
    unit: int
    name: str
    """In words: ``SCSI controller 0, unit 1``."""


class Moving(NamedTuple):
    """Disks on their way, as the first VM's notes name them."""

    target: str
    """The managed object id of the VM that gets them."""
    files: tuple[str, ...]


class MissingController(NamedTuple):
    """A disk that needs a place."""

    kind: str
    """The type of the controller that it was on, such as ``ParaVirtualSCSIController``; any if empty."""
    label: str


def missing_controller(disk: FileEntry) -> MissingController:
    """A disk of an export that needs a place."""
    return MissingController(re.sub(r"\d+$", "", disk.disk_controller or ""), disk.disk_label or disk.name)


def free_units(session: Session, target: VmRef, disks: Sequence[MissingController]) -> tuple[UnitAddress, ...]:
    """Find a free place on a VM for each disk: on a controller of the kind that it was on, or else on any.

    Raises:
        UsageError: There are not enough.
    """
    devices = _devices(session, target)
    taken = {(each.controllerKey, each.unitNumber) for each in devices}
    addresses: list[UnitAddress] = []
    for disk in disks:
        controllers = [
            each for each in devices if _units_of(each) and not isinstance(each, _device.VirtualIDEController)
        ]
        controllers.sort(key=lambda each: short_name(each) != disk.kind)
        spot = next(_free_on(controllers, taken), None)
        if spot is None:
            raise UsageError(
                f"{target.path} has no free place for {disk.label}",
                fix="Add a SCSI controller to it in vSphere",
            )
        taken.add((spot.controller_key, spot.unit))
        addresses.append(spot)
    return tuple(addresses)


def _free_on(controllers: Iterable[Any], taken: set[tuple[int, int]]) -> Iterable[UnitAddress]:
    return (
        UnitAddress(controller.key, unit, f"{device_label(controller)}, unit {unit}")
        for controller in controllers
        for unit in _units_of(controller)
        if (controller.key, unit) not in taken
    )


def _units_of(device: Any) -> tuple[int, ...]:
    return next((units for kind, units in _UNITS if isinstance(device, kind)), ())


def disk_files(session: Session, vm: VmRef, disks: Sequence[FileEntry]) -> tuple[str, ...]:
    """The files of a VM's disks, by the places that the export names."""
    devices = _devices(session, vm)
    controllers = {each.key: each for each in devices}
    places = {
        (controller_name(controllers.get(each.controllerKey)), each.unitNumber or 0): each.backing.fileName
        for each in devices
        if isinstance(each, _device.VirtualDisk)
    }
    return tuple(places[(disk.disk_controller or "", disk.disk_unit or 0)] for disk in disks)


def detach(session: Session, vm: VmRef, moving: Moving, annotation: str, *, stop: StopSignal) -> None:
    """Take disks off a VM without deleting their files, and note in the same call where they are going."""
    disks = [
        each
        for each in _devices(session, vm)
        if isinstance(each, _device.VirtualDisk) and each.backing.fileName in moving.files
    ]
    changes = [_device.VirtualDeviceSpec(operation="remove", device=disk) for disk in disks]
    going = json.dumps(moving._asdict(), separators=(",", ":"))
    spec = vim.vm.ConfigSpec(deviceChange=changes, annotation=f"{annotation}\n{_GOING}{going}]")
    doing = f"detaching the restored disks from {vm.path}"
    run_task(session, vm, vm_object(session, vm).ReconfigVM_Task, spec, doing=doing, stop=stop, answer=True)


def attach(
    session: Session, vm: VmRef, files: Sequence[str], addresses: Sequence[UnitAddress], *, stop: StopSignal
) -> None:
    """Attach existing disks to a VM, all of them or none."""
    changes = [
        _device.VirtualDeviceSpec(
            operation="add",
            device=_device.VirtualDisk(
                key=-(number + 1),
                controllerKey=spot.controller_key,
                unitNumber=spot.unit,
                backing=_device.VirtualDisk.FlatVer2BackingInfo(fileName=file, diskMode="persistent"),
            ),
        )
        for number, (file, spot) in enumerate(zip(files, addresses, strict=True))
    ]
    spec = vim.vm.ConfigSpec(deviceChange=changes)
    doing = f"attaching the restored disks to {vm.path}"
    run_task(session, vm, vm_object(session, vm).ReconfigVM_Task, spec, doing=doing, stop=stop)


def moving_of(annotation: str) -> Moving | None:
    """The disks on their way that a VM's notes name; None where they name none."""
    found = _PATTERN.search(annotation)
    try:
        document = json.loads(found[1]) if found else None
        return Moving(str(document["target"]), tuple(map(str, document["files"]))) if document else None
    except (ValueError, LookupError, TypeError):
        return None


def reattach(session: Session, vm: VmRef, moving: Moving) -> list[str]:
    """Attach those disks to their first VM again that did not reach the VM that was to get them.

    Returns:
        Their files.
    """
    doing = f"looking for the disks of {vm.path}"
    target = session.reference(vim.VirtualMachine, moving.target)
    try:
        values = properties(session, target, ("config.hardware.device",), doing=doing)
    except ServerFault as error:
        if not is_caused_by(error, GONE):
            raise
        values = {}
    devices = values.get("config.hardware.device", ())
    arrived = {name for each in devices for name in _chain(getattr(each, "backing", None))}
    own = {each.backing.fileName for each in _devices(session, vm) if isinstance(each, _device.VirtualDisk)}
    lost = [file for file in moving.files if file not in arrived and file not in own]
    if lost:
        addresses = free_units(session, vm, [MissingController("", file) for file in lost])
        attach(session, vm, lost, addresses, stop=StopSignal())
    return lost


def _chain(backing: Any) -> Iterable[str]:
    """The files of a disk: with a snapshot, its first file is a parent of the one that is written to."""
    while backing is not None:
        if name := getattr(backing, "fileName", None):
            yield name
        backing = getattr(backing, "parent", None)


def _devices(session: Session, vm: VmRef) -> list[Any]:
    doing = f"reading the devices of {vm.path}"
    values = properties(session, vm_object(session, vm), ("config.hardware.device",), doing=doing)
    return list(values.get("config.hardware.device", ()))
