"""What a VirtualMachineConfigSpec sets of a VM, apart from its devices, and the privilege that each field needs.

vSphere API: VirtualMachineConfigSpec. A field that is unset stays as it is. The same for ReconfigVM_Task, CreateVM_Task
and ImportVApp.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from pyVmomi import VmomiSupport, vim, vmodl

from hyperexport.simulator.devices import adapters, clone
from hyperexport.simulator.hardware import Settings, guest_name

if TYPE_CHECKING:
    from hyperexport.simulator.machine import Machine

_PLAIN: Final = {
    "annotation": "annotation",
    "numCPUs": "cpus",
    "numCoresPerSocket": "cores_per_socket",
    "memoryMB": "memory_mb",
    "firmware": "firmware",
    "guestId": "guest_id",
    "uuid": "uuid",
}
"""Fields of the spec that are fields of ``Settings``."""

_KEPT: Final = {
    "cpuAllocation": "cpuAllocation",
    "memoryAllocation": "memoryAllocation",
    "latencySensitivity": "latencySensitivity",
    "cpuHotAddEnabled": "cpuHotAddEnabled",
    "cpuHotRemoveEnabled": "cpuHotRemoveEnabled",
    "memoryHotAddEnabled": "memoryHotAddEnabled",
    "memoryReservationLockedToMax": "memoryReservationLockedToMax",
    "flags": "flags",
    "tools": "tools",
    "powerOpInfo": "defaultPowerOps",
    "swapPlacement": "swapPlacement",
    "managedBy": "managedBy",
    "locationId": "locationId",
    "maxMksConnections": "maxMksConnections",
    "nestedHVEnabled": "nestedHVEnabled",
    "vPMCEnabled": "vPMCEnabled",
    "messageBusTunnelEnabled": "messageBusTunnelEnabled",
    "guestAutoLockEnabled": "guestAutoLockEnabled",
    "rebootPowerOff": "rebootPowerOff",
    "vmxStatsCollectionEnabled": "vmxStatsCollectionEnabled",
    "alternateGuestName": "alternateGuestName",
    "sevEnabled": "sevEnabled",
    "vAssertsEnabled": "vAssertsEnabled",
}
"""Fields that the configuration shows as they were given, by the name that they have there."""

_ELSEWHERE: Final = frozenset(
    {
        "name",
        "instanceUuid",
        "bootOptions",
        "extraConfig",
        "changeTrackingEnabled",
        "deviceChange",
        "version",
        "files",
        "changeVersion",
        "cpuFeatureMask",
    }
)

KNOWN: Final = frozenset(_PLAIN) | frozenset(_KEPT) | _ELSEWHERE

# vSphere API: the privileges that ReconfigVM_Task and VirtualMachineConfigSpec name for each field.
_PRIVILEGES: Final = {
    "changeTrackingEnabled": "VirtualMachine.Config.ChangeTracking",
    "annotation": "VirtualMachine.Config.Annotation",
    "name": "VirtualMachine.Config.Rename",
    "numCPUs": "VirtualMachine.Config.CPUCount",
    "numCoresPerSocket": "VirtualMachine.Config.CPUCount",
    "cpuHotAddEnabled": "VirtualMachine.Config.CPUCount",
    "cpuHotRemoveEnabled": "VirtualMachine.Config.CPUCount",
    "memoryMB": "VirtualMachine.Config.Memory",
    "memoryHotAddEnabled": "VirtualMachine.Config.Memory",
    "cpuAllocation": "VirtualMachine.Config.Resource",
    "memoryAllocation": "VirtualMachine.Config.Resource",
    "latencySensitivity": "VirtualMachine.Config.Resource",
    "memoryReservationLockedToMax": "VirtualMachine.Config.Resource",
    "extraConfig": "VirtualMachine.Config.AdvancedConfig",
    "swapPlacement": "VirtualMachine.Config.SwapPlacement",
    "managedBy": "VirtualMachine.Config.ManagedBy",
}
_SETTINGS: Final = "VirtualMachine.Config.Settings"


def privileges_for(spec: Any) -> list[str]:
    """The privileges that the fields of a change need, one for each."""
    names = (each.name for each in spec._GetPropertyList() if each.name in KNOWN - {"deviceChange", "changeVersion"})
    return [_PRIVILEGES.get(name, _SETTINGS) for name in names if _is_set(getattr(spec, name))]


def refuse_unknown(spec: Any) -> None:
    """Refuse a change of anything that the simulator does not know.

    Raises:
        vmodl.fault.NotSupported: The spec sets such a field.
    """
    for prop in spec._GetPropertyList():
        if prop.name not in KNOWN and _is_set(getattr(spec, prop.name)):
            raise vmodl.fault.NotSupported(msg=f"The simulator does not change {prop.name}.")


def _is_set(value: Any) -> bool:
    return value is not None and value != []


def changed(settings: Settings, spec: Any, keys: Mapping[int, int]) -> Settings:
    """The settings as a spec wants them, without the name, the instance UUID, change tracking and the devices.

    Args:
        settings: As they are, with the devices that the spec wants.
        spec: The change.
        keys: The keys that devices got, by those that the spec had for them.

    Raises:
        vmodl.MethodFault: The change is not valid.
    """
    new: dict[str, Any] = {
        ours: getattr(spec, theirs) for theirs, ours in _PLAIN.items() if getattr(spec, theirs) is not None
    }
    if spec.guestId is not None:
        new["guest_os"] = guest_name(spec.guestId)
    if spec.firmware not in {None, "bios", "efi"}:
        raise invalid("configSpec.firmware", f"There is no firmware {spec.firmware}.")
    if spec.uuid is not None:
        new["uuid"] = spec.uuid.lower()
    more = dict(settings.more)
    for theirs, ours in _KEPT.items():
        if _is_set(value := getattr(spec, theirs)):
            more[ours] = _over(more.get(ours), value)
    if spec.cpuFeatureMask:
        more["cpuFeatureMask"] = _masks(more.get("cpuFeatureMask", ()), spec.cpuFeatureMask)
    new["boot"] = _boot(settings, spec.bootOptions, keys)
    result = replace(settings, **new, more=more, extra=_extra(settings.extra, spec.extraConfig))
    if result.boot.efiSecureBootEnabled and result.firmware != "efi":
        raise invalid("configSpec.bootOptions.efiSecureBootEnabled", "Secure Boot needs the firmware efi.")
    return result


def _masks(old: Iterable[Any], changes: Iterable[Any]) -> list[Any]:
    # vSphere API: an array update; what is removed is named by its level.
    masks = {each.level: each for each in old}
    for change in changes:
        masks.pop(change.removeKey if change.operation == "remove" else change.info.level, None)
        if change.operation != "remove":
            masks[change.info.level] = change.info
    return list(masks.values())


def _extra(old: Mapping[str, str], options: Iterable[Any]) -> dict[str, str]:
    extra = dict(old)
    for option in options:
        # vSphere API: an empty value removes the key. The nvram and change tracking keys are the server's own.
        if option.key == "nvram" or option.key.endswith(".ctkEnabled"):
            continue
        extra.pop(option.key, None)
        if option.value != "":
            extra[option.key] = str(option.value)
    return extra


def _over(old: Any, new: Any) -> Any:
    """A data object with the fields that a new one sets; any other value as it is."""
    if not isinstance(new, VmomiSupport.DataObject) or not isinstance(old, type(new)):
        return new
    known: Any = new
    fields = {each.name: getattr(new, each.name) for each in known._GetPropertyList()}
    return clone(old, **{name: value for name, value in fields.items() if _is_set(value)})


def _boot(settings: Settings, wanted: Any, keys: Mapping[int, int]) -> Any:
    if wanted is None:
        return settings.boot
    order: list[Any] = []
    nics = {each.key for each in adapters(settings.devices)}
    for each in wanted.bootOrder:
        key = getattr(each, "deviceKey", None)
        if key is None:
            order.append(each)
            continue
        if isinstance(each, vim.vm.BootOptions.BootableEthernetDevice) and keys.get(key, key) not in nics:
            raise invalid("configSpec.bootOptions.bootOrder", f"There is no network adapter with the key {key}.")
        order.append(clone(each, deviceKey=keys.get(key, key)))
    return _over(settings.boot, clone(wanted, bootOrder=order))


def check_boot_order(vm: "Machine") -> None:
    """Refuse a boot order that names a disk that the VM does not have.

    Raises:
        vmodl.fault.InvalidArgument: It does.
    """
    for each in vm.settings.boot.bootOrder:
        disk = isinstance(each, vim.vm.BootOptions.BootableDiskDevice)
        if disk and each.deviceKey not in {one.key for one in vm.disks}:
            raise invalid("configSpec.bootOptions.bootOrder", f"There is no disk with the key {each.deviceKey}.")


def invalid(name: str, why: str) -> Any:
    """The fault for a value that is not valid."""
    return vmodl.fault.InvalidArgument(
        msg=f"A specified parameter was not correct: {name}. {why}", invalidProperty=name
    )
