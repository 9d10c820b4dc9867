"""ReconfigVM_Task: what a VM's configuration can be changed to here, and the privilege that each part needs.

vSphere API: VirtualMachineConfigSpec. What is asked for and not known here is refused, never ignored.
"""

from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from hyperexport.simulator.hardware import attach
from hyperexport.simulator.spec import DiskSpec
from hyperexport.simulator.world import now

if TYPE_CHECKING:
    from hyperexport.simulator.machine import Machine

_KNOWN = frozenset({"changeTrackingEnabled", "annotation", "deviceChange", "numCPUs", "memoryMB"})

_PRIVILEGES = {
    "changeTrackingEnabled": "VirtualMachine.Config.ChangeTracking",
    "annotation": "VirtualMachine.Config.Annotation",
    "numCPUs": "VirtualMachine.Config.CPUCount",
    "memoryMB": "VirtualMachine.Config.Memory",
}


def privileges_for(spec: Any) -> list[str]:
    """The privileges that a change needs, one for each part of it."""
    needed = [privilege for name, privilege in _PRIVILEGES.items() if getattr(spec, name) is not None]
    for change in spec.deviceChange:
        adds = change.operation == "add"
        needed.append("VirtualMachine.Config.AddNewDisk" if adds else "VirtualMachine.Config.DiskExtend")
    return needed


def reconfigure(vm: "Machine", spec: Any) -> None:
    """Apply a change.

    Raises:
        vmodl.fault.NotSupported: It asks for something that is not known here.
        vmodl.MethodFault: The change is not valid.
    """
    for prop in spec._GetPropertyList():
        if prop.name not in _KNOWN and getattr(spec, prop.name):
            raise vmodl.fault.NotSupported(msg=f"The simulator does not change {prop.name}.")
    if spec.annotation is not None:
        vm.settings.annotation = spec.annotation
    if spec.numCPUs is not None:
        vm.settings.cpus = spec.numCPUs
    if spec.memoryMB is not None:
        vm.settings.memory_mb = spec.memoryMB
    for change in spec.deviceChange:
        _change_disk(vm, change)
    if spec.changeTrackingEnabled is not None:
        _set_change_tracking(vm, enabled=spec.changeTrackingEnabled)
    vm.settings.change_version += 1
    vm.settings.modified = vm.settled = now()
    vm.world.touch()


def _set_change_tracking(vm: "Machine", *, enabled: bool) -> None:
    vm.settings.change_tracking = enabled
    # A VM that is off gets its maps at once (XO PR #10384); a running one when it is stunned the next time.
    if vm.power == "poweredOff":
        vm.stunned()


def _change_disk(vm: "Machine", change: Any) -> None:
    device = change.device
    if not isinstance(device, vim.vm.device.VirtualDisk):
        raise vmodl.fault.NotSupported(msg="The simulator changes no devices but disks.")
    capacity = device.capacityInBytes or device.capacityInKB * 1024
    if change.operation == "add":
        add_disk(vm, DiskSpec(capacity, used=0.0, mode=device.backing.diskMode or "persistent"))
    elif change.operation == "edit":
        resize_disk(vm, device.key, capacity)
    else:
        raise vmodl.fault.NotSupported(msg="The simulator removes no disks.")


def add_disk(vm: "Machine", spec: DiskSpec) -> None:
    """Hang one more disk on the VM."""
    disk = attach(spec, home=vm.settings.home, position=len(vm.disks), tracking=vm.settings.change_tracking)
    vm.disks.append(disk)
    vm.world.touch()


def resize_disk(vm: "Machine", key: int, capacity: int) -> None:
    """Make a disk larger.

    Raises:
        vim.fault.InvalidDeviceSpec: There is no such disk, or it would become smaller.
        vim.fault.InvalidDeviceOperation: The VM has a snapshot, so its disks keep their size.
    """
    disk = next((each for each in vm.disks if each.key == key), None)
    if disk is None:
        raise vim.fault.InvalidDeviceSpec(msg=f"There is no disk with the key {key}.", deviceIndex=0)
    if capacity == disk.image.capacity:
        return
    if vm.snapshot_roots:
        raise vim.fault.InvalidDeviceOperation(msg="A disk of a VM with snapshots cannot be extended.", deviceIndex=0)
    try:
        disk.image.resize(capacity)
    except ValueError as error:
        raise vim.fault.InvalidDeviceSpec(msg=str(error), deviceIndex=0) from error
    vm.world.touch()
