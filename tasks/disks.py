"""Moving one disk. Several of these run side by side."""

from hyperexport.model.vm import DiskInfo
from hyperexport.policy.incremental import DiskPlan
from hyperexport.steps import disks
from hyperexport.steps.job import Job
from hyperexport.steps.staging import Copies, Entries
from hyperexport.tasks.step import repeatable


@repeatable(name="export-disk", task_run_name="{plan.decision} {plan.label}")
def export_disk(job: Job, copies: Copies, plan: DiskPlan, disk: DiskInfo, snapshot: str | None) -> Entries:
    """Transfer one disk into every store, or let the base export's bytes stand for it, as the plan says."""
    return disks.export_disk(job, copies, plan, disk, snapshot)
