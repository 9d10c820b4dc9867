"""Moving one disk. Several of these run side by side."""

from hyperexport.errors import ExportNotFound
from hyperexport.policy.incremental import Decision, DiskPlan
from hyperexport.steps import disks
from hyperexport.steps.job import Job
from hyperexport.steps.staging import Copies, Entries
from hyperexport.vm import DiskInfo
from tasks.step import repeatable


@repeatable(name="export-disk", task_run_name="{plan.decision} {plan.label}")
def export_disk(job: Job, copies: Copies, plan: DiskPlan, disk: DiskInfo, snapshot: str | None) -> Entries:
    """Transfer one disk into every store, or let the base export's bytes stand for it, as the plan says."""
    if plan.decision is Decision.REUSE:
        try:
            return disks.reuse_disk(job, copies, plan, disk)
        except ExportNotFound as error:  # somebody deleted it since the plan was made
            job.warn(f"{disk.label} is unchanged and was transferred all the same: {error.what}")
    return disks.transfer_disk(job, copies, plan, disk, snapshot)
