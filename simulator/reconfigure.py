"""ReconfigVM_Task: what a VM's configuration can be changed to here, and the privilege that each part needs.

vSphere API: VirtualMachineConfigSpec. What is asked for and not known here is refused, never ignored. The fields are in
``settings.py``, the devices in ``device_changes.py``.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from hyperexport.simulator import device_changes, settings
from hyperexport.simulator.device_changes import Draft, grow, place_for
from hyperexport.simulator.hardware import make_disk
from hyperexport.simulator.neighbours import free_instance_uuid, require_free
from hyperexport.simulator.spec import DiskSpec
from hyperexport.simulator.world import now

if TYPE_CHECKING:
    from hyperexport.simulator.machine import Machine


def privileges_for(spec: Any) -> list[str]:
    """The privileges that a change needs, one for each part of it."""
    return settings.privileges_for(spec) + device_changes.privileges_for(spec.deviceChange)


def networks_of(vm: "Machine", changes: Any) -> list[Any]:
    """The networks that changed adapters are to be on: Network.Assign is needed on each."""
    backings = (getattr(change.device, "backing", None) for change in changes if change.operation != "remove")
    named = {getattr(each, "network", None) and each.network._moId for each in backings}
    return [network for network in vm.networks() if network.moid in named]


def reconfigure(vm: "Machine", spec: Any) -> None:
    """Apply a change, wholly or not at all.

    Raises:
        vmodl.fault.NotSupported: It asks for something that is not known here.
        vmodl.MethodFault: The change is not valid.
    """
    settings.refuse_unknown(spec)
    if spec.version is not None:
        raise settings.invalid("configSpec.version", "The hardware version is changed by UpgradeVM_Task.")
    if spec.changeVersion and spec.changeVersion != str(vm.settings.change_version):
        raise vim.fault.ConcurrentAccess(msg="The virtual machine was reconfigured by another client.")
    if spec.name is not None and spec.name != vm.settings.name:
        require_free(vm.site.folder, spec.name)
    apply(vm, spec)
    if spec.name is not None:
        vm.rename(spec.name)
    if spec.instanceUuid is not None:
        vm.settings.instance_uuid = free_instance_uuid(vm, spec.instanceUuid)
    if spec.changeTrackingEnabled is not None:
        vm.settings.change_tracking = spec.changeTrackingEnabled
    # A VM that is off gets its maps at once (XO PR #10384); a running one when it is stunned the next time.
    if vm.power == "poweredOff" and (spec.changeTrackingEnabled is not None or spec.deviceChange):
        vm.stunned()
    vm.settings.change_version += 1
    vm.settings.modified = vm.settled = now()
    vm.world.touch()


def apply(vm: "Machine", spec: Any) -> Draft:
    """Give a VM the devices and the plain settings of a spec; answer what came of it.

    Raises:
        vmodl.MethodFault: The spec is not valid; the VM is as it was.
    """
    before, disks = vm.settings, list(vm.disks)
    draft = Draft.of(vm)
    try:
        draft.change(spec.deviceChange)
        vm.settings = settings.changed(replace(before, devices=tuple(draft.devices)), spec, draft.keys)
        vm.disks = draft.disks
        settings.check_boot_order(vm)
    except Exception:
        vm.settings, vm.disks = before, disks
        draft.discard()
        raise
    draft.commit()
    return draft


def add_disk(vm: "Machine", spec: DiskSpec) -> None:
    """Hang one more disk on the VM."""
    draft = Draft.of(vm)
    controller, unit = place_for(draft, spec.controller)
    disk = make_disk(
        spec,
        home=vm.settings.home,
        position=len(vm.disks),
        store=vm.store,
        controller=controller,
        unit=unit,
        tracking=vm.settings.change_tracking,
    )
    draft.disks.append(disk)
    draft.commit()
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
    grow(vm, disk, capacity)
