"""What an export reads: a snapshot made for it, or a VM that is off as it is; and which disks that gives.

Pure. A dry run and the real run ask the same function, before anything is changed.
"""

from collections.abc import Iterable

from pydantic import Field

from hyperexport.model.vm import DiskInfo, PowerState, Value, VmInfo


class SourcePlan(Value):
    """What an export reads, and why."""

    from_snapshot: bool = Field(description="Whether a snapshot is made to read from.")
    why: str = Field(default="", description="Why no snapshot is made though one was asked for; else empty.")
    needs_snapshot: str = Field(default="", description="Why the export is refused without --snapshot; else empty.")
    not_quiesced: str = Field(default="", description="Why the guest cannot be quiesced though it should be.")
    how_to_quiesce: str = Field(default="", description="What to do so that it can; empty where not_quiesced is.")


def plan_source(vm: VmInfo, *, wanted: bool, kept: bool, quiesces: bool) -> SourcePlan:
    """Decide whether an export reads from a snapshot.

    A VM that is off needs none, and gets one only to be kept. A template cannot have one.

    Args:
        vm: The VM.
        wanted: Whether ``--snapshot`` was given.
        kept: Whether the snapshot stays on the VM after the export.
        quiesces: Whether the guest's filesystems should be quiesced.
    """
    if vm.power_state is PowerState.OFF:
        if vm.template:
            return SourcePlan(from_snapshot=False, why="it is a template, which is off and cannot have one")
        if wanted and kept:
            return SourcePlan(from_snapshot=True)
        return SourcePlan(from_snapshot=False, why="the VM is off, so it is read as it is" if wanted else "")
    if not wanted:
        return SourcePlan(from_snapshot=False, needs_snapshot=f"{vm.ref.path} is {vm.power_state}")
    why, remedy = _not_quiesced(vm) if quiesces else ("", "")
    return SourcePlan(from_snapshot=True, not_quiesced=why, how_to_quiesce=remedy)


def _not_quiesced(vm: VmInfo) -> tuple[str, str]:
    """Why the guest cannot be quiesced, and what to do about it; two empty texts where it can."""
    if vm.power_state is PowerState.SUSPENDED:
        why = f"{vm.ref.name} is suspended, so its guest cannot be quiesced, and what it had in memory is not exported"
        return why, "Resume the VM or shut it down"
    if not vm.tools_running:
        why = f"VMware Tools are not running in {vm.ref.name}, so its filesystems cannot be quiesced"
        return why, "Start VMware Tools in the guest"
    return "", ""


def as_read(disks: Iterable[DiskInfo], *, from_snapshot: bool) -> tuple[DiskInfo, ...]:
    """The VM's disks, with those marked as not exportable that a snapshot leaves out, where one is read."""
    return tuple(
        disk.model_copy(update={"unexportable": disk.unexportable or disk.unsnapshottable}) if from_snapshot else disk
        for disk in disks
    )
