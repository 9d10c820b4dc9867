"""Looking at VMs and at what an export of one would need. Nothing on the server is changed."""

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from hyperexport.model.vm import VmInfo, VmRef
from hyperexport.options.selection import Selection
from hyperexport.policy.incremental import ExportPlan
from hyperexport.steps import plan
from hyperexport.steps import selection as steps
from hyperexport.steps.job import Job
from hyperexport.tasks.step import repeatable, step
from hyperexport.vsphere.inventory import VmRow, describe, describe_many, find_vm
from hyperexport.vsphere.session import Session

logger = logging.getLogger(__name__)


_found: ContextVar[Mapping[str, VmRef]] = ContextVar("VMs that were found, by path", default={})  # noqa: B039


@contextmanager
def already_found(refs: Sequence[VmRef]) -> Generator[None]:
    """Within the block, do not look for these VMs again when they are named by their paths."""
    token = _found.set({ref.path: ref for ref in refs})
    try:
        yield
    finally:
        _found.reset(token)


def _found_or_sought(session: Session, name: str) -> VmRef:
    # Apart from the tasks, which Prefect pickles with the globals that they name: a ContextVar cannot be.
    return _found.get().get(name) or find_vm(session, name)


@repeatable(name="choose-vms", task_run_name="choose VMs")
def choose_vms(session: Session, selection: Selection) -> steps.Chosen:
    """Find the VMs that are meant."""
    return steps.choose_vms(session, selection)


@repeatable(name="describe-vms", task_run_name="describe VMs")
def describe_vms(session: Session, rows: Sequence[VmRow]) -> list[VmInfo]:
    """Read what there is to know of each."""
    return describe_many(session, [row.ref for row in rows])


@repeatable(name="inspect-vm", task_run_name="inspect {name}")
def inspect_vm(session: Session, name: str) -> VmInfo:
    """Find a VM by its exact name or inventory path, and read what there is to know."""
    return describe(session, _found_or_sought(session, name))


@step(name="check-export", task_run_name="check export")
def check_export(job: Job) -> None:
    """Refuse at once what can't work: a running VM without a snapshot, no disk to export, a store that is full."""
    plan.check_export(job)


@repeatable(name="plan-export", task_run_name="plan export")
def plan_export(job: Job, snapshot: str | None) -> ExportPlan:
    """Decide for each disk whether it is transferred, and why."""
    return plan.make_plan(job, snapshot)
