"""The page of a VM, its row in a table of several, and its key=value pairs. Imports little: VMs are listed fast."""

from hyperexport.base.display import FACTS, Page, Pairs, Table, Tone, Toned, lines, pages_of, pairs_of, row_of, table
from hyperexport.base.units import format_bytes
from hyperexport.model.vm import DiskInfo, NicInfo, PowerState, SnapshotInfo, VmBrief, VmInfo

_TONES = {
    PowerState.ON: Tone.GOOD,
    PowerState.OFF: Tone.BAD,
    PowerState.SUSPENDED: Tone.DOUBTFUL,
    PowerState.UNKNOWN: Tone.UNKNOWN,
}


@pages_of.register
def _(vm: VmInfo) -> tuple[Page, ...]:
    tables = (
        Table("", FACTS, _facts(vm)),
        *(table("Disks", [_disk_row(disk) for disk in vm.disks]) or lines("Disks", ["none"])),
        *table("Network adapters", [_adapter_row(nic) for nic in vm.nics]),
        *table("Snapshots", [_snapshot_row(snapshot) for snapshot in vm.snapshots]),
    )
    return (Page(vm.ref.path, tables),)


@row_of.register
def _(vm: VmInfo) -> dict[str, object]:
    return {
        "VM": vm.ref.path,
        "Power state": _power(vm),
        "Guest OS": vm.guest_os,
        "vCPUs": vm.cpus,
        "Memory": f"{vm.memory_mb} MB",
        "Disks": len(vm.disks),
        "Storage": _size(vm.storage_bytes),
        "Used": format_bytes(vm.used),
    }


@row_of.register
def _(vm: VmBrief) -> dict[str, object]:
    return {
        "VM": vm.name,  # first, to be copied
        "Path": vm.ref.path,
        "Power state": _power(vm),
        "Guest OS": vm.guest_os,
        "vCPUs": vm.cpus,
        "Memory": f"{vm.memory_mb} MB",
        "Storage": _size(vm.storage_bytes),
    }


@pairs_of.register(VmInfo)
@pairs_of.register(VmBrief)
def _(vm: VmInfo | VmBrief) -> Pairs:
    return (
        ("name", vm.name),
        ("path", vm.ref.path),
        ("power_state", vm.power_state),
        ("guest_os", vm.guest_os),
        ("cpu", vm.cpus),
        ("memory_mb", vm.memory_mb),
        ("storage_bytes", "unknown" if vm.storage_bytes is None else vm.storage_bytes),
    )


def _facts(vm: VmInfo) -> tuple[tuple[str, str], ...]:
    notes = (
        (vm.template, "a template"),
        (vm.encrypted, "encrypted"),
        (vm.consolidation_needed, "its disks need consolidation"),
    )
    applying = [words for applies, words in notes if applies]
    return (
        ("VM name", vm.name),
        ("Power state", _power(vm)),
        ("Guest OS", vm.guest_os),
        ("Memory", f"{vm.memory_mb} MB ({vm.memory_mb / 1024:.1f} GB)"),
        ("vCPUs", str(vm.cpus)),
        ("Storage", _size(vm.storage_bytes)),
        ("Used", f"{format_bytes(vm.used)} of {format_bytes(vm.provisioned)} provisioned"),
        ("Path", vm.ref.path),
        ("Firmware", vm.firmware),
        ("Hardware", vm.hardware_version),
        ("VMware Tools", vm.tools_status),
        ("Change tracking", _yes(vm.change_tracking) if vm.change_tracking_supported else "not supported"),
        ("Host", vm.host or "-"),
        ("Datastores", ", ".join(vm.datastores) or "-"),
        *((("Note", ", ".join(applying)),) if applying else ()),
    )


def _power(vm: VmInfo | VmBrief) -> Toned:
    return Toned(vm.power_state, _TONES[vm.power_state])


def _disk_row(disk: DiskInfo) -> dict[str, object]:
    return {
        "Disk": disk.label + _export_limits(disk),
        "Capacity": format_bytes(disk.capacity),
        "Used": "-" if disk.used is None else format_bytes(disk.used),
        "Thin": "-" if disk.thin is None else _yes(disk.thin),
        "Controller": f"{disk.controller}:{disk.unit}",
        "Backing": f"{disk.backing} {disk.file}",
        "Change tracking": _yes(disk.change_id is not None),
    }


def _export_limits(disk: DiskInfo) -> str:
    """Why a disk cannot be exported, or not from a snapshot."""
    if disk.unexportable:
        return f" (cannot be exported: {disk.unexportable})"
    return f" (not from a snapshot: {disk.unsnapshottable})" if disk.unsnapshottable else ""


def _adapter_row(nic: NicInfo) -> dict[str, object]:
    return {
        "Adapter": nic.label,
        "Type": nic.type,
        "Network": nic.network or "-",
        "MAC": nic.mac or "-",
        "Connected": _yes(nic.connected),
    }


def _snapshot_row(snapshot: SnapshotInfo) -> dict[str, object]:
    return {
        "Snapshot": "  " * (snapshot.depth - 1) + snapshot.name + (" (current)" if snapshot.current else ""),
        "Created": f"{snapshot.created:%Y-%m-%d %H:%M} UTC",
        "Quiesced": _yes(snapshot.quiesced),
    }


def _size(count: int | None) -> str:
    return "unknown" if count is None else format_bytes(count)


def _yes(value: bool | None) -> str:
    return "yes" if value else "no"
