"""Taking and removing the snapshot of an export."""

from hyperexport.steps import leftovers, snapshots
from hyperexport.steps.job import Job
from hyperexport.vm import SnapshotInfo
from hyperexport.vsphere.snapshots import CreatedSnapshot
from tasks.liveness import run_is_over
from tasks.step import repeatable, step


@repeatable(name="take-snapshot")
def take_snapshot(job: Job) -> CreatedSnapshot:
    """Freeze the VM, with its filesystems quiesced where that is wanted and the guest can."""
    return snapshots.take_snapshot(job)


@step(name="remove-snapshot", task_run_name="remove snapshot {name}")
def remove_snapshot(job: Job, moref: str, name: str) -> None:
    """Remove one snapshot and wait for its consolidation."""
    snapshots.remove_snapshot(job, moref, name)


@step(name="keep-newest-snapshots")
def keep_newest_snapshots(job: Job) -> list[SnapshotInfo]:
    """Remove the oldest of our own snapshots beyond ``--keep-snapshots``."""
    beyond = snapshots.snapshots_beyond_retention(job)
    for snapshot in beyond:
        snapshots.remove_snapshot(job, snapshot.moref, snapshot.name)
    return beyond


@step(name="consolidate-snapshots")
def consolidate_snapshots(job: Job) -> list[SnapshotInfo]:
    """Merge every snapshot into the base disks, whoever made it."""
    return snapshots.consolidate_snapshots(job)


@step(name="remove-leftovers")
def remove_leftovers(job: Job) -> list[str]:
    """Remove what dead runs of this VM left: their snapshots, half-written exports and uploads."""
    removed = leftovers.remove_abandoned_snapshots(job, run_is_over)
    for store in job.stores:
        removed += leftovers.remove_abandoned_stagings(store, job.folder, run_is_over)
    for name in removed:
        job.warn(f"removed {name}, left by an earlier run that did not end")
    return removed
