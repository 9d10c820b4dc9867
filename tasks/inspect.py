"""Looking at VMs and at what an export of one would need. Nothing on the server is changed."""

import logging

from hyperexport.policy.incremental import ExportPlan
from hyperexport.steps.job import Job
from hyperexport.steps.plan import check_exportable, make_plan
from hyperexport.steps.stores import check_stores
from hyperexport.vm import VmInfo
from hyperexport.vsphere.inventory import describe, find_vm
from hyperexport.vsphere.session import Session
from tasks.step import repeatable, step

logger = logging.getLogger(__name__)


@repeatable(name="inspect-vm", task_run_name="inspect {name}")
def inspect_vm(session: Session, name: str) -> VmInfo:
    """Find a VM by its exact name or inventory path, and read what there is to know."""
    return describe(session, find_vm(session, name))


@step(name="check-export", task_run_name="check export")
def check_export(job: Job, *, probe: bool) -> None:
    """Refuse at once what can't work: a running VM without a snapshot, no disk to export, a store that takes nothing.

    Args:
        job: The export.
        probe: Whether the stores are proved by writing to them; a dry run writes nothing.
    """
    check_exportable(job)
    if probe:
        check_stores(job.stores)


@repeatable(name="plan-export", task_run_name="plan export")
def plan_export(job: Job, snapshot: str | None) -> ExportPlan:
    """Decide for each disk whether it is transferred, and why."""
    return make_plan(job, snapshot)
