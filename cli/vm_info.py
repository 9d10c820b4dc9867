"""``hyperexport --vm-info``: what vSphere knows of the VMs."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hyperexport.base.units import format_bytes
from hyperexport.cli.command import VmCommand
from hyperexport.cli.execution import ask_for_password, direct_runner, uses_prefect
from hyperexport.cli.failures import Failure
from hyperexport.cli.output import Output, key_value, make_table, yes_no
from hyperexport.model.vm import DiskInfo, PowerState, VmBrief, VmInfo

_MOST_BY_THEMSELVES: Final = 10
_DOTS: Final = {
    PowerState.ON: "green",
    PowerState.OFF: "red",
    PowerState.SUSPENDED: "yellow",
    PowerState.UNKNOWN: "dim",
}


class ShowVms(VmCommand):
    """Show the VMs."""

    def run(self, output: Output) -> list[Failure]:
        """Read and show the VMs; with ``--quiet`` read only what that prints: of thousands the rest takes seconds."""
        ask_for_password(self)
        if output.is_quiet:
            for vm in self._read_brief():
                output.answer("vms", pretty=lambda _console: None, quiet=vm_lines(vm), document={})
            return []
        vms = self._read()
        for position, vm in enumerate(vms):
            output.answer(
                "vms",
                pretty=lambda console, vm=vm, position=position: show_one_of_vms(console, vm, position, vms),
                quiet=(),
                document={**vm.model_dump(mode="json"), "storage_bytes": vm.storage_bytes},
            )
        return []

    def _read(self) -> Sequence[VmInfo]:
        if uses_prefect(self):
            from hyperexport.flows import vm_info

            return vm_info(self.selection, vsphere=self.vsphere)
        from hyperexport.jobs.vm_info import vm_info

        return vm_info(direct_runner(self), self.selection)

    def _read_brief(self) -> Sequence[VmInfo | VmBrief]:
        if uses_prefect(self):
            return self._read()
        from hyperexport.jobs.vm_info import vm_brief

        return vm_brief(direct_runner(self), self.selection)


def show_vm(console: Console, vm: VmInfo) -> None:
    """Show a VM: its properties, disks, network adapters and snapshots."""
    console.print(_properties(vm))
    if vm.disks:
        columns = ("Disk", "Capacity", "Used", "Thin", "Controller", "Backing", "Change tracking")
        console.print(make_table("Disks", columns, (_disk_row(disk) for disk in vm.disks)))
    else:
        console.print("It has no disks.")
    if vm.nics:
        rows = ((nic.label, nic.type, nic.network or "-", nic.mac or "-", yes_no(nic.connected)) for nic in vm.nics)
        console.print(make_table("Network adapters", ("Adapter", "Type", "Network", "MAC", "Connected"), rows))
    if vm.snapshots:
        rows = (
            (
                "  " * (snapshot.depth - 1) + snapshot.name + (" (current)" if snapshot.current else ""),
                f"{snapshot.created:%Y-%m-%d %H:%M} UTC",
                yes_no(snapshot.quiesced),
            )
            for snapshot in vm.snapshots
        )
        console.print(make_table("Snapshots", ("Snapshot", "Made", "Quiesced"), rows))


def show_one_of_vms(console: Console, vm: VmInfo, position: int, vms: Sequence[VmInfo]) -> None:
    """Show one of a few VMs whole; of many, the first stands for all: one table, with a row for each."""
    if len(vms) <= _MOST_BY_THEMSELVES:
        show_vm(console, vm)
    elif position == 0:
        columns = ("VM", "Power State", "Guest OS", "vCPUs", "Memory", "Disks", "Storage", "Used")
        console.print(make_table(f"{len(vms)} VMs", columns, map(_vm_row, vms)))


def _vm_row(vm: VmInfo) -> tuple[str | Text, ...]:
    return (
        vm.ref.path,
        Text("● ", style=_DOTS[vm.power_state]).append(vm.power_state, style="default"),
        vm.guest_os,
        str(vm.cpus),
        f"{vm.memory_mb} MB",
        str(len(vm.disks)),
        _size(vm.storage_bytes),
        format_bytes(vm.used),
    )


def _properties(vm: VmInfo) -> Table:
    power = Text("● ", style=_DOTS[vm.power_state]).append(vm.power_state, style="default")
    memory = f"{vm.memory_mb} MB ({vm.memory_mb / 1024:.1f} GB)"
    tracking = yes_no(vm.change_tracking) if vm.change_tracking_supported else "not supported"
    notes = [
        words
        for applies, words in (
            (vm.template, "a template"),
            (vm.encrypted, "encrypted"),
            (vm.consolidation_needed, "its disks need consolidation"),
        )
        if applies
    ]
    rows: list[tuple[str, str | Text]] = [
        ("VM Name", vm.name),
        ("Power State", power),
        ("Guest OS", vm.guest_os),
        ("Memory", memory),
        ("vCPUs", str(vm.cpus)),
        ("Storage", _size(vm.storage_bytes)),
        ("Used", f"{format_bytes(vm.used)} of {format_bytes(vm.provisioned)} provisioned"),
        ("Path", vm.ref.path),
        ("Firmware", vm.firmware),
        ("Hardware", vm.hardware_version),
        ("VMware Tools", vm.tools_status),
        ("Change Tracking", tracking),
        ("Host", vm.host or "-"),
        ("Datastores", ", ".join(vm.datastores) or "-"),
    ]
    if notes:
        rows.append(("Note", ", ".join(notes)))
    return make_table("VM Information", ("Property", "Value"), rows)


def _disk_row(disk: DiskInfo) -> tuple[str, ...]:
    return (
        disk.label + _export_limits(disk),
        format_bytes(disk.capacity),
        "-" if disk.used is None else format_bytes(disk.used),
        "-" if disk.thin is None else yes_no(disk.thin),
        f"{disk.controller}:{disk.unit}",
        f"{disk.backing} {disk.file}",
        yes_no(disk.change_id is not None),
    )


def _size(count: int | None) -> str:
    return "unknown" if count is None else format_bytes(count)


def _export_limits(disk: DiskInfo) -> str:
    """Why a disk cannot be exported, or not from a snapshot."""
    if disk.unexportable:
        return f" (cannot be exported: {disk.unexportable})"
    return f" (not from a snapshot: {disk.unsnapshottable})" if disk.unsnapshottable else ""


def vm_lines(vm: VmInfo | VmBrief) -> list[str]:
    """What a VM is; exactly these keys in this order."""
    return [
        key_value("name", vm.name),
        key_value("path", vm.ref.path),
        key_value("power_state", vm.power_state),
        key_value("guest_os", vm.guest_os),
        key_value("cpu", vm.cpus),
        key_value("memory_mb", vm.memory_mb),
        key_value("storage_bytes", "unknown" if vm.storage_bytes is None else vm.storage_bytes),
    ]
