"""Changed block tracking as it is asked for: QueryChangedDiskAreas, with its paging and its faults.

Sources: vSphere API, VirtualMachine.QueryChangedDiskAreas; Virtual Disk Programming Guide, changed block tracking.
"""

from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from hyperexport.formats.vmdk import GRAIN
from hyperexport.simulator import soap
from hyperexport.simulator.disks import Frozen, Range
from hyperexport.simulator.faults import FaultKind
from hyperexport.simulator.hardware import AttachedDisk

if TYPE_CHECKING:
    from hyperexport.simulator.machine import Machine
    from hyperexport.simulator.snapshots import Snapshot

MOST_AREAS = 2000
"""Areas in one answer at most; clients go on from where the answer ends."""

_ALLOCATED = "*"


def changed_areas(vm: "Machine", snapshot_ref: Any, key: int, start: int, change_id: str) -> soap.Written:
    """Answer QueryChangedDiskAreas.

    Raises:
        vim.fault.FileFault: There is no map of changes for this disk at this snapshot.
        vim.fault.NotFound: The snapshot is not one of this VM.
        vmodl.fault.InvalidArgument: The device, the offset or the change id is not valid.
        vim.fault.InvalidPowerState: No snapshot was given, and the VM is not off.
    """
    snapshot = _snapshot_of(vm, snapshot_ref)
    disk, frozen = _disk_at(vm, snapshot, key)
    _fail_on_demand(vm, disk)
    if not 0 <= start < frozen.capacity:
        raise _invalid("startOffset", f"The offset {start} is not on the disk.")
    return _page(_with_omissions(vm, disk, _areas(vm, disk, frozen, change_id)), start, frozen.capacity)


def _snapshot_of(vm: "Machine", ref: Any) -> "Snapshot | None":
    if ref is None:
        if vm.power != "poweredOff":
            off = vim.VirtualMachine.PowerState.poweredOff
            raise vim.fault.InvalidPowerState(
                msg="A snapshot is needed unless the VM is powered off.", requestedState=off, existingState=vm.power
            )
        return None
    for snapshot in vm.all_snapshots():
        if snapshot.moid == ref._moId:
            return snapshot
    raise vim.fault.NotFound(msg="The snapshot is not one of this virtual machine.")


def _disk_at(vm: "Machine", snapshot: "Snapshot | None", key: int) -> tuple[AttachedDisk, Frozen]:
    for disk in snapshot.disks if snapshot else vm.disks:
        if disk.key == key:
            frozen = snapshot.frozen.get(key) if snapshot else disk.image.freeze()
            if frozen is None:
                raise _file_fault(disk)
            return disk, frozen
    raise _invalid("deviceKey", f"There is no disk with the key {key}.")


def _fail_on_demand(vm: "Machine", disk: AttachedDisk) -> None:
    fault = vm.world.faults.take(FaultKind.CBT_FAULT, vm=vm.vm_name, disk=disk.position)
    if fault:
        raise soap.make_fault(
            fault.fault or "FileFault",
            msg=f"Error caused by file {disk.base}",
            file=disk.base,
            invalidProperty="changeId",
        )


def _with_omissions(vm: "Machine", disk: AttachedDisk, areas: list[Range]) -> list[Range]:
    """The areas as a host reports them whose tracking has lost some."""
    fault = vm.world.faults.take(FaultKind.CBT_OMITS, vm=vm.vm_name, disk=disk.position)
    if fault is None:
        return areas
    if fault.at_byte is None:
        return []
    begin = fault.at_byte // GRAIN * GRAIN
    kept: list[Range] = []
    for offset, length in areas:
        before, after = min(offset + length, begin) - offset, offset + length - max(offset, begin + GRAIN)
        kept += [(offset, before)] if before > 0 else []
        kept += [(offset + length - after, after)] if after > 0 else []
    return kept


def _areas(vm: "Machine", disk: AttachedDisk, frozen: Frozen, change_id: str) -> list[Range]:
    if not vm.settings.change_tracking:
        raise _invalid("changeId", "Change tracking is not enabled.")
    if frozen.change_id is None:
        raise _file_fault(disk)
    if change_id == _ALLOCATED:
        return frozen.allocated()
    try:
        return frozen.changed_since(change_id)
    except ValueError as error:
        raise _invalid("changeId", str(error)) from error


def _page(areas: list[Range], start: int, capacity: int) -> soap.Written:
    wanted = [
        (max(offset, start), offset + length - max(offset, start))
        for offset, length in areas
        if offset + length > start
    ]
    page = wanted[:MOST_AREAS]
    end = sum(page[-1]) if len(wanted) > MOST_AREAS else capacity
    return soap.Written(
        f"<returnval><startOffset>{start}</startOffset><length>{end - start}</length>"
        + "".join(f"<changedArea><start>{at}</start><length>{size}</length></changedArea>" for at, size in page)
        + "</returnval>"
    )


def _file_fault(disk: AttachedDisk) -> Any:
    return vim.fault.FileFault(msg=f"Error caused by file {disk.base}", file=disk.base)


def _invalid(argument: str, why: str) -> Any:
    return vmodl.fault.InvalidArgument(
        msg=f"A specified parameter was not correct: {argument}. {why}", invalidProperty=argument
    )
