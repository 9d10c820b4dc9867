"""Change tracking of the VM: planned, and switched on as planned. The policy is ``policy/change_tracking.py``."""

import logging

from hyperexport.policy.change_tracking import TrackingPlan, plan_tracking
from hyperexport.policy.snapshots import SnapshotPlan
from hyperexport.steps.job import Job
from hyperexport.steps.step import step
from hyperexport.vsphere import change_tracking as vsphere
from hyperexport.vsphere.inventory import describe

logger = logging.getLogger(__name__)


@step("plan-change-tracking")
def make_tracking_plan(job: Job, snapshots: SnapshotPlan) -> TrackingPlan:
    """Decide whether change tracking is switched on, and warn where it was asked for and cannot be."""
    plan = plan_tracking(
        job.vm,
        wanted=job.options.incremental.enable_tracking,
        incremental=job.options.incremental.enabled,
        snapshots=len(snapshots.kept) + len(snapshots.removed),
        takes_snapshot=snapshots.make is not None,
    )
    if plan.words:
        logger.info("%s: %s", job.vm.name, plan.words)
    if plan.refused:
        job.warn(plan.words)
    if plan.missed and job.options.execution.dry_run:
        job.warn(plan.missed)
    job.missed_tracking = plan.missed  # said once, with figures, when the export is there
    return plan


@step("enable-change-tracking", retried=True)
def enable_change_tracking(job: Job) -> None:
    """Switch it on. Safe to repeat.

    Raises:
        PermissionMissing, ServerBusy, ServerFault: vSphere did not take the change.
    """
    vsphere.enable_change_tracking(job.session, job.ref, stop=job.stop)
    if not job.source.from_snapshot:
        # A VM that is off has its change ids at once (vatesfr/xen-orchestra pull request 10384), for the manifest.
        job.own_disks = describe(job.session, job.ref).disks
    logger.warning("%s: change tracking was switched on in the VM's configuration", job.vm.name)
