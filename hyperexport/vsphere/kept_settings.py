"""Which settings of an exported VM come back, which are not settings at all, and which are lost, and why.

The three tables cover every field of ConfigInfo (a test walks them). Devices are ``import_spec.py``'s.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from pyVmomi import vim

from hyperexport.model.restore import LostSetting
from hyperexport.vsphere.configuration import OMITTED
from hyperexport.vsphere.kept_config import KeptConfig

PLAIN: Final = (
    "alternateGuestName",
    "cpuHotAddEnabled",
    "cpuHotRemoveEnabled",
    "firmware",
    "guestAutoLockEnabled",
    "guestId",
    "latencySensitivity",
    "maxMksConnections",
    "memoryHotAddEnabled",
    "messageBusTunnelEnabled",
    "nestedHVEnabled",
    "rebootPowerOff",
    "sevEnabled",
    "swapPlacement",
    "vAssertsEnabled",
    "vPMCEnabled",
    "vmxStatsCollectionEnabled",
)
"""Come back as they are."""

HANDLED: Final = frozenset(
    {
        "annotation",
        "bootOptions",
        "changeTrackingEnabled",
        "cpuAllocation",
        "cpuFeatureMask",
        "defaultPowerOps",
        "extraConfig",
        "flags",
        "hardware",
        "instanceUuid",
        "memoryAllocation",
        "memoryReservationLockedToMax",
        "name",
        "tools",
        "uuid",
        "vAppConfig",
        "version",
    }
)
"""Come back, each in its own way."""

NOT_SETTINGS: Final = frozenset(
    {
        "changeVersion",
        "consolePreferences",
        "contentLibItemInfo",
        "createDate",
        "datastoreUrl",
        "deviceGroups",
        "deviceSwap",
        "files",
        "fixedPassthruHotPlugEnabled",
        "forkConfigInfo",
        "ftEncryptionMode",
        "guestArchitecture",
        "guestFullName",
        "guestIntegrityInfo",
        "guestMonitoringModeInfo",
        "hotPlugMemoryIncrementSize",
        "hotPlugMemoryLimit",
        "initialOverhead",
        "locationId",
        "metroFtEnabled",
        "migrateEncryption",
        "modified",
        "npivTemporaryDisabled",
        "npivWorldWideNameType",
        "numaInfo",
        "pmem",
        "pmemFailoverEnabled",
        "scheduledHardwareUpgradeInfo",
        "sgxInfo",
        "swapStorageObjectId",
        "vmOpNotificationTimeout",
        "vmOpNotificationToAppEnabled",
        "vmStorageObjectId",
        "vmxConfigChecksum",
        "vmxRuntimeConfig",
    }
)
"""State, derived values, and defaults that vSphere chooses again."""

_OF_ITS_HOST: Final = "it names parts of the host that the VM was on"
_OF_THE_ORIGINAL: Final = "it belongs to the original VM"
LOST: Final = {
    "cpuAffinity": _OF_ITS_HOST,
    "ftInfo": "fault tolerance is configured anew on a restored VM",
    "keyId": "the VM was encrypted, and an export has no keys; encrypt the restored VM in vSphere",
    "managedBy": "the extension that managed the VM does not know the restored one",
    "memoryAffinity": _OF_ITS_HOST,
    "metroFtHostGroup": _OF_ITS_HOST,
    "networkShaper": "it is obsolete; shape traffic on the port group",
    "npivDesiredNodeWwns": _OF_THE_ORIGINAL,
    "npivDesiredPortWwns": _OF_THE_ORIGINAL,
    "npivNodeWorldWideName": _OF_THE_ORIGINAL,
    "npivOnNonRdmDisks": _OF_THE_ORIGINAL,
    "npivPortWorldWideName": _OF_THE_ORIGINAL,
    "repConfig": "replication is configured anew on a restored VM",
    "sevSnpEnabled": "it can only be chosen when a VM is made by hand",
    "tdxEnabled": "it can only be chosen when a VM is made by hand",
    "template": "it is restored as a VM; convert it to a template in vSphere",
    "vFlashCacheReservation": "it is obsolete",
    "vcpuConfig": _OF_ITS_HOST,
}
"""Do not come back."""

_FLAGS: Final = (
    "cbrcCacheEnabled",
    "disableAcceleration",
    "diskUuidEnabled",
    "enableLogging",
    "htSharing",
    "snapshotDisabled",
    "snapshotPowerOffBehavior",
    "vbsEnabled",
    "virtualExecUsage",
    "virtualMmuUsage",
    "vvtdEnabled",
)
_TOOLS: Final = (
    "afterPowerOn",
    "afterResume",
    "beforeGuestReboot",
    "beforeGuestShutdown",
    "beforeGuestStandby",
    "syncTimeWithHost",
    "syncTimeWithHostAllowed",
    "toolsUpgradePolicy",
)
_POWER: Final = ("powerOffType", "resetType", "standbyAction", "suspendType")
_BOOT: Final = (
    "bootDelay",
    "bootRetryDelay",
    "bootRetryEnabled",
    "efiSecureBootEnabled",
    "enterBIOSSetup",
    "networkBootProtocol",
)

_OWN_LINES: Final = re.compile(
    r"(?i)migrate\.|vmotion\.|sched\.swap\.derivedname$|.*\.ctkenabled$|nvram$|uuid\.action$|hyperexport\.|"
    r"vm\.genidx?$|guestos\.detailed\.data$|vmware\.tools\.(internal|required)version$|viv\.moid$|"
    r"vmxstats\.filename$|guestinfo\.detailed\.data$|guestinfo\.appinfo$"
)
"""Lines of extraConfig that vSphere writes for each VM anew: state, names of files, and identities."""
_ENCRYPTION: Final = re.compile(r"(?i)encryption\.|vtpm\.|dataFileKey$")


def put_back_settings(
    spec: Any, kept: KeptConfig, new_keys: Mapping[int, int], *, reservations: bool
) -> list[LostSetting]:
    """Give a spec the settings that OVF does not carry.

    Args:
        spec: The VM's configuration to be (vim.vm.ConfigSpec).
        kept: As it was.
        new_keys: The spec's keys of devices that a boot order can name, by those that they had.
        reservations: Whether CPU and memory reservations come back.

    Returns:
        What will not be restored, each with the reason.
    """
    if not kept:
        return [LostSetting("everything that OVF does not carry", "the export does not keep the VM's configuration")]
    lost = [LostSetting(name, _why_lost(name)) for name in kept.names() if _is_lost(name, kept.raw(name))]
    for name in PLAIN:
        if (value := kept.value(name)) not in (None, ""):
            _set(spec, name, value)
    _hardware(spec, kept)
    spec.changeTrackingEnabled = True if kept.raw("changeTrackingEnabled") is True else None
    spec.flags = _part(kept, "flags", vim.vm.FlagInfo, _FLAGS) or spec.flags
    spec.tools = _part(kept, "tools", vim.vm.ToolsConfigInfo, _TOOLS) or spec.tools
    spec.powerOpInfo = _part(kept, "defaultPowerOps", vim.vm.DefaultPowerOpInfo, _POWER) or spec.powerOpInfo
    lost += _boot(spec, kept, new_keys)
    lost += _allocations(spec, kept, reservations=reservations)
    lost += _extra(spec, kept)
    _cpu_mask(spec, kept)
    if kept.raw("vAppConfig") and spec.vAppConfig is None:
        lost.append(LostSetting("vAppConfig", "the OVF descriptor has no vApp properties"))
    lost += [
        LostSetting(name, "its value may be a secret, so the export does not keep it")
        for name in kept.omitted()
        if not _OWN_LINES.match(name)
    ]
    return lost


def _is_lost(name: str, value: object) -> bool:
    known = name in HANDLED or name in NOT_SETTINGS or name in PLAIN
    return not known and value not in (False, 0)


def _why_lost(name: str) -> str:
    return LOST.get(name, "this version of hyperexport does not know it")


def _set(spec: Any, name: str, value: Any) -> None:
    try:
        setattr(spec, name, value)
    except (TypeError, ValueError, AttributeError):
        return  # changed by hand, or of an API that has it no longer


def _part(kept: KeptConfig, name: str, kind: Any, fields: tuple[str, ...]) -> Any:
    """Some fields of a kept object; None where none of them has a value."""
    whole = kept.value(name)
    if not isinstance(whole, kind):
        return None
    values = {field: value for field in fields if (value := getattr(whole, field, None)) is not None}
    return kind(**values) if values else None


def _hardware(spec: Any, kept: KeptConfig) -> None:
    hardware = kept.raw("hardware")
    for theirs, ours in (("numCPU", "numCPUs"), ("numCoresPerSocket", "numCoresPerSocket"), ("memoryMB", "memoryMB")):
        value = hardware.get(theirs) if isinstance(hardware, dict) else None
        if isinstance(value, int) and value > 0:
            setattr(spec, ours, value)


def _boot(spec: Any, kept: KeptConfig, new_keys: Mapping[int, int]) -> list[LostSetting]:
    boot = kept.value("bootOptions")
    if not isinstance(boot, vim.vm.BootOptions):
        return []
    lost: list[LostSetting] = []
    order: list[Any] = []
    for each in boot.bootOrder or ():
        key = getattr(each, "deviceKey", None)
        if key is not None and key not in new_keys:
            lost.append(LostSetting("boot order", f"the device {key} that it names is not restored"))
            continue
        if key is not None:
            each.deviceKey = new_keys[key]
        order.append(each)
    values = {field: value for field in _BOOT if (value := getattr(boot, field, None)) is not None}
    spec.bootOptions = vim.vm.BootOptions(**values, bootOrder=order)
    return lost


def _allocations(spec: Any, kept: KeptConfig, *, reservations: bool) -> list[LostSetting]:
    lost: list[LostSetting] = []
    for name in ("cpuAllocation", "memoryAllocation"):
        value = kept.value(name)
        if not isinstance(value, vim.ResourceAllocationInfo):
            continue
        value.overheadLimit = None
        if value.reservation and not reservations:
            value.reservation = 0
            lost.append(LostSetting(f"{name}.reservation", "it was asked to be left out"))
        setattr(spec, name, value)
    if kept.raw("memoryReservationLockedToMax") is True and reservations:
        spec.memoryReservationLockedToMax = True
    return lost


def _extra(spec: Any, kept: KeptConfig) -> list[LostSetting]:
    there = {option.key for option in spec.extraConfig or ()}
    lost: list[LostSetting] = []
    added: list[Any] = []
    for key, value in kept.extra().items():
        if _ENCRYPTION.match(key):
            lost.append(LostSetting(key, "it is part of the VM's encryption, of which an export has no keys"))
        elif key not in there and value != OMITTED and not _OWN_LINES.match(key):
            added.append(vim.option.OptionValue(key=key, value=value))
    spec.extraConfig = [*(spec.extraConfig or ()), *added]
    return lost


def _cpu_mask(spec: Any, kept: KeptConfig) -> None:
    masks = kept.value("cpuFeatureMask") or []
    spec.cpuFeatureMask = [
        vim.vm.ConfigSpec.CpuIdInfoSpec(operation="add", info=mask)
        for mask in masks
        if isinstance(mask, vim.host.CpuIdInfo)
    ]
