"""A VM's virtual devices, read into the product's own values.

Pure: takes what pyVmomi has deserialised and returns :mod:`hyperexport.model.vm`'s records. Knows which disks vSphere
cannot snapshot or export, and why.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pyVmomi import vim

from hyperexport.base.units import KIB
from hyperexport.model.vm import DiskInfo, NicInfo

_device = vim.vm.device

_LARGEST_DISK: Final = 64 * KIB**4
"""Bytes. vSphere's own limit is 62 TB ("Configuration Maximums")."""
_SNAPSHOT_PROOF: Final = {
    "independent_persistent": "it is an independent disk, which a snapshot leaves out; change its mode in vSphere",
    "independent_nonpersistent": "it is an independent disk, which a snapshot leaves out; change its mode in vSphere",
}


def disks(devices: Iterable[Any], *, used: Mapping[int, int] | None = None) -> tuple[DiskInfo, ...]:
    """Read the disks among a VM's devices, in the VM's order.

    Args:
        devices: ``config.hardware.device`` of a VM or of a snapshot.
        used: Bytes taken on the datastore by device key, where they are known.
    """
    every = tuple(devices)
    by_key = {device.key: device for device in every}
    return tuple(
        _disk(device, by_key.get(device.controllerKey), used=(used or {}).get(device.key))
        for device in every
        if isinstance(device, _device.VirtualDisk)
    )


def nics(devices: Iterable[Any], *, networks: Mapping[str, str]) -> tuple[NicInfo, ...]:
    """Read the network adapters among a VM's devices.

    Args:
        devices: ``config.hardware.device``.
        networks: Names of distributed port groups and opaque networks by their key.
    """
    return tuple(
        NicInfo(
            label=device_label(device),
            type=short_name(device).removeprefix("Virtual"),
            network=network_name(device.backing, networks),
            mac=device.macAddress,
            connected=bool(device.connectable and device.connectable.connected),
        )
        for device in devices
        if isinstance(device, _device.VirtualEthernetCard)
    )


def short_name(obj: Any) -> str:
    """The last part of an API type's name: ``ParaVirtualSCSIController``."""
    return type(obj).__name__.rpartition(".")[2]


def controller_name(controller: Any) -> str:
    """A controller as a lease's keys name it: its type and bus number."""
    return f"{short_name(controller)}{controller.busNumber}" if controller else "unknown"


def network_name(backing: Any, networks: Mapping[str, str]) -> str | None:
    """The network that a network adapter's backing names; distributed port groups are named by ``networks``."""
    port = _of(backing, "port")
    key = port.portgroupKey if port else _of(backing, "opaqueNetworkId")
    return networks.get(key or "") or _of(backing, "deviceName") or key


def device_label(device: Any) -> str:
    """A device as vSphere's client shows it."""
    return device.deviceInfo.label if device.deviceInfo else f"{short_name(device)} {device.key}"


def _disk(device: Any, controller: Any, *, used: int | None) -> DiskInfo:
    backing = device.backing
    capacity = device.capacityInBytes or (device.capacityInKB or 0) * KIB
    return DiskInfo(
        key=device.key,
        label=device_label(device),
        capacity=capacity,
        used=used,
        thin=_of(backing, "thinProvisioned"),
        controller=controller_name(controller),
        unit=device.unitNumber or 0,
        backing=short_name(backing).removesuffix("BackingInfo"),
        file=_of(backing, "fileName") or "",
        mode=_of(backing, "diskMode") or "persistent",
        backing_uuid=_of(backing, "uuid"),
        content_id=_of(backing, "contentId"),
        change_id=_of(backing, "changeId"),
        unexportable=_why_unexportable(backing, capacity=capacity),
        unsnapshottable=_why_unsnapshottable(backing, controller),
        shared=_shared(backing, controller) is not None,
    )


def has_vtpm(devices: Iterable[Any]) -> bool:
    """Tell whether a virtual TPM is among a VM's devices."""
    return any(isinstance(device, _device.VirtualTPM) for device in devices)


def _why_unexportable(backing: Any, *, capacity: int) -> str | None:
    """Give the reason, in words that stand after "skipped: "; None where vSphere can export the disk of a VM off."""
    if not 0 < capacity <= _LARGEST_DISK:
        return f"the server says that it has {capacity} bytes, which cannot be"
    if _of(backing, "keyId"):
        # vSphere security guide: an OVF cannot be exported from an encrypted VM.
        return "it is encrypted, and vSphere exports no encrypted disk"
    return _raw(backing)


def _why_unsnapshottable(backing: Any, controller: Any) -> str | None:
    """Give the reason why no snapshot has the disk; the export of a VM that is off has it."""
    return _SNAPSHOT_PROOF.get(_of(backing, "diskMode") or "") or _shared(backing, controller)


def _shared(backing: Any, controller: Any) -> str | None:
    if _of(backing, "sharing") == "sharingMultiWriter":
        return "it is shared for writing with other VMs (multi-writer), which vSphere cannot snapshot"
    if _of(controller, "sharedBus") not in (None, "noSharing"):
        return "its controller shares the SCSI bus with other VMs, which vSphere cannot snapshot"
    return None


def _raw(backing: Any) -> str | None:
    if _of(backing, "compatibilityMode") == "physicalMode":
        return "it is a raw device mapping in physical mode, which vSphere cannot snapshot"
    if isinstance(backing, _device.VirtualDisk.RawDiskVer2BackingInfo):
        return "it is a raw device of the host, which vSphere cannot snapshot"
    if isinstance(backing, _device.VirtualDisk.LocalPMemBackingInfo):
        return "it lies in the host's persistent memory, which vSphere does not export"
    return None


def _of(obj: Any, name: str) -> Any:
    """A field that only some of the API's backings have."""
    return getattr(obj, name, None)
