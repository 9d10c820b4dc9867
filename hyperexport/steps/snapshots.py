"""The snapshot of an export: taken, removed, and how many are kept. The policy itself is ``policy/snapshots.py``."""

import logging
from datetime import UTC, datetime
from threading import Timer
from typing import Final

from hyperexport.errors import Interrupted, SnapshotChainTooLong
from hyperexport.policy import snapshots as policy
from hyperexport.progress import Progress, Stage, report
from hyperexport.steps.job import Job
from hyperexport.stop import StopSignal
from hyperexport.vm import PowerState, SnapshotInfo
from hyperexport.vsphere import snapshots as vsphere
from hyperexport.vsphere.snapshots import CreatedSnapshot

logger = logging.getLogger(__name__)

SECONDS_AFTER_A_STOP: Final = 15.0


def take_snapshot(job: Job) -> CreatedSnapshot:
    """Freeze the VM for the export.

    Raises:
        SnapshotFailed: The server did not make it, the chain is too long, or quiescing was required and failed.
    """
    refusal = policy.chain_refusal(job.vm.snapshots)
    if refusal:
        raise SnapshotChainTooLong(f"{job.ref.path}: {refusal}", fix="Remove or consolidate old snapshots first")
    wanted = job.options.snapshot
    created = vsphere.create_snapshot(
        job.session,
        job.ref,
        name=wanted.name or f"hyperexport-{datetime.now(UTC):%Y%m%dT%H%M%SZ}",
        owner=job.owner,
        quiesce=wanted.quiesces,
        memory=wanted.memory,
        quiesce_required=wanted.quiesce_required,
        tools_running=job.vm.tools_running,
        powered_on=job.vm.power_state is PowerState.ON,
        stop=job.stop,
    )
    for warning in created.warnings:
        job.warn(warning)
    return created


def remove_snapshot(job: Job, moref: str, name: str) -> None:
    """Remove one snapshot and wait for its consolidation, however long it takes, with visible progress.

    When the run was asked to stop, the removal is begun all the same and waited for only a little: vSphere goes on
    with it by itself, and Prefect kills a cancelled run after 30 s.

    Raises:
        SnapshotLeaked: It is still there, and vSphere is not removing it.
    """

    def on_progress(percent: int) -> None:
        report(Progress(job.vm.name, name, Stage.REMOVE_SNAPSHOT, percent, 100, 0))

    enough = StopSignal()
    timer = Timer(SECONDS_AFTER_A_STOP, enough.set)
    timer.daemon = True
    with job.stop.waking(timer.start):
        try:
            vsphere.remove_snapshot(job.session, job.ref, moref, on_progress=on_progress, stop=enough)
        except Interrupted:
            logger.warning("%s: snapshot %s is being removed; vSphere goes on with it", job.vm.name, name)
            return
        finally:
            timer.cancel()
    report(Progress(job.vm.name, name, Stage.REMOVE_SNAPSHOT, 100, 100, 0, done=True))


def snapshots_beyond_retention(job: Job) -> list[SnapshotInfo]:
    """The oldest of our own snapshots beyond ``--keep-snapshots``; never one of a user's."""
    tree = vsphere.snapshot_tree(job.session, job.ref)
    return policy.beyond_retention(tree, vm_uuid=job.ref.instance_uuid, keep=job.options.snapshot.keep)


def consolidate_snapshots(job: Job) -> list[SnapshotInfo]:
    """Merge every snapshot into the base disks, whoever made it, as ``--consolidate-snapshots`` says.

    Returns:
        What was there and is gone.
    """
    tree = list(vsphere.snapshot_tree(job.session, job.ref))
    for snapshot in tree:
        logger.warning("%s: removing snapshot %s of %s", job.vm.name, snapshot.name, snapshot.created)
    vsphere.remove_all_snapshots(job.session, job.ref)
    vsphere.consolidate_disks(job.session, job.ref)
    return tree
