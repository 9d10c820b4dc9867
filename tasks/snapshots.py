"""Planning, taking and removing the snapshots of an export."""

from hyperexport.policy.snapshots import SnapshotPlan
from hyperexport.steps import leftovers, snapshots
from hyperexport.steps.job import Job
from hyperexport.tasks.liveness import run_is_over
from hyperexport.tasks.step import repeatable, step
from hyperexport.vsphere.snapshots import CreatedSnapshot


@repeatable(name="plan-snapshots", task_run_name="plan snapshots")
def plan_snapshots(job: Job) -> SnapshotPlan:
    """Decide what becomes of the VM's snapshots: which is made, which are removed and why, which stay."""
    return snapshots.make_snapshot_plan(job, run_is_over)


@repeatable(name="take-snapshot", task_run_name="take snapshot")
def take_snapshot(job: Job, name: str) -> CreatedSnapshot:
    """Freeze the VM, with its filesystems quiesced where that is wanted and the guest can."""
    return snapshots.take_snapshot(job, name)


@step(name="remove-snapshot", task_run_name="remove snapshot {name}")
def remove_snapshot(job: Job, moref: str, name: str) -> None:
    """Remove one snapshot and wait for its consolidation."""
    snapshots.remove_snapshot(job, moref, name)


@step(name="tidy-snapshots", task_run_name="tidy snapshots")
def tidy_snapshots(job: Job, plan: SnapshotPlan, made: str | None) -> None:
    """Remove the snapshots that the plan gives up after the export."""
    snapshots.tidy_snapshots(job, plan, made)


@step(name="remove-leftovers", task_run_name="remove leftovers")
def remove_leftovers(job: Job, plan: SnapshotPlan) -> list[str]:
    """Remove what dead runs of this VM left: their snapshots, half-written exports and uploads."""
    return leftovers.remove_leftovers(job, plan, run_is_over)
