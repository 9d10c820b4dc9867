"""Whether an export switches change tracking on, which changes the VM's configuration and is never done unasked.

Pure: it decides on what was read of the VM, and says in words what is done and from when on it counts, or why not.
"""

from pydantic import Field

from hyperexport.model.vm import PowerState, Value, VmInfo


class TrackingPlan(Value):
    """What becomes of a VM's change tracking; a dry run shows it, a real run does it."""

    enable: bool = Field(default=False, description="Whether it is switched on.")
    refused: bool = Field(default=False, description="Whether it was asked for and cannot be.")
    words: str = Field(default="", description="What is done, or why not; empty where it was not requested.")
    missed: str = Field(default="", description="What an incremental export loses without it, and the remedy.")


def plan_tracking(vm: VmInfo, *, wanted: bool, incremental: bool, snapshots: int, takes_snapshot: bool) -> TrackingPlan:
    """Decide whether change tracking is switched on.

    ConfigSpec.changeTrackingEnabled takes effect on a running VM at its next stun-unstun cycle: power on, migration,
    resume, or a snapshot created, deleted or reverted (vSphere VDDK Programming Guide 8.0, "Enable Changed Block
    Tracking"). On a VM that is off it takes effect at once (measured on ESXi 8.0.1, vatesfr/xen-orchestra pull request
    10384). A VM that has snapshots already keeps no maps of what their disks hold.

    Args:
        vm: The VM.
        wanted: Whether ``--enable-change-tracking`` was given.
        incremental: Whether ``--incremental`` was.
        snapshots: How many snapshots the VM has when it would be switched on.
        takes_snapshot: Whether the export makes one.
    """
    if not wanted:
        return TrackingPlan(missed=_missed(vm, snapshots) if incremental else "")
    if vm.change_tracking:
        return TrackingPlan(words="change tracking is on already")
    refusal = _refusal(vm, snapshots)
    if refusal:
        return TrackingPlan(refused=True, words=f"change tracking cannot be switched on: {refusal}")
    when = "it takes effect at once, so the next export can be incremental"
    if vm.power_state is not PowerState.OFF:
        begins = "with this export's snapshot" if takes_snapshot else "with the next snapshot"
        when = f"it begins {begins}; the export after the next one is the first to benefit"
    return TrackingPlan(enable=True, words=f"change tracking is switched on in the VM's configuration; {when}")


def _missed(vm: VmInfo, snapshots: int) -> str:
    """What a VM that runs without change tracking costs each night; empty for any other."""
    if vm.change_tracking or vm.power_state is not PowerState.ON:
        return ""
    refusal = _refusal(vm, snapshots)
    remedy = f"it cannot be switched on: {refusal}" if refusal else "add --enable-change-tracking once"
    return f"change tracking of the VM is off, so every disk is transferred whole each time; {remedy}"


def _refusal(vm: VmInfo, snapshots: int) -> str | None:
    if vm.change_tracking_supported is False:
        return f"vSphere does not support it for this VM (hardware version {vm.hardware_version}; at least 7 is needed)"
    if vm.template:
        return "it is a template"
    if snapshots:
        several = "a snapshot" if snapshots == 1 else f"{snapshots} snapshots"
        return f"the VM has {several}; remove or consolidate them first"
    return None
