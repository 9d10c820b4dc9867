"""Looking at VMs. Nothing on the server is changed."""

from collections.abc import Mapping, Sequence

from hyperexport.model.vm import VmInfo, VmRef
from hyperexport.steps.step import step
from hyperexport.vsphere.inventory import VmBrief, VmRow, brief_many, describe, describe_many, find_vm
from hyperexport.vsphere.session import Session


@step("inspect-vm", run_name="inspect {name}", retried=True)
def inspect_vm(session: Session, name: str, found: Mapping[str, VmRef]) -> VmInfo:
    """Find a VM by its exact name or inventory path, and read what there is to know.

    Args:
        session: Logged in.
        name: The VM's name or path.
        found: VMs that were found already, by path: those of a fleet.
    """
    return describe(session, found.get(name) or find_vm(session, name))


@step("describe-vms", run_name="describe VMs", retried=True)
def describe_vms(session: Session, rows: Sequence[VmRow]) -> list[VmInfo]:
    """Read what there is to know of each."""
    return describe_many(session, [row.ref for row in rows])


@step("list-vms", run_name="list VMs", retried=True)
def list_vms(session: Session, rows: Sequence[VmRow]) -> list[VmBrief]:
    """Read of each the few facts that ``--quiet`` prints."""
    return brief_many(session, rows)
