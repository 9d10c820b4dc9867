"""The job that says what vSphere knows of VMs. Nothing on the server is changed."""

from collections.abc import Sequence
from typing import Final

from hyperexport.base.display import Listing
from hyperexport.jobs.runner import StepRunner
from hyperexport.model.vm import VmInfo
from hyperexport.options.selection import Selection
from hyperexport.steps import inspect
from hyperexport.steps.selection import Chosen, choose_vms
from hyperexport.vsphere.inventory import VmBrief
from hyperexport.vsphere.session import connect

MOST_BY_THEMSELVES: Final = 10
"""So many VMs are shown in a table each; more are the rows of one."""


def vm_info(run: StepRunner, selection: Selection) -> Listing[VmInfo]:
    """Read what vSphere knows of the VMs that are chosen.

    Raises:
        VmNotFound, VmAmbiguous: A name fits no VM, or several; or no VM is chosen.
    """
    with run.stop_signal() as stop, connect(run.endpoint(), stop=stop, run=run.id) as session:
        found = run(inspect.describe_vms, session, run(choose_vms, session, selection).all_there())
    _show(run, found)
    return Listing(found)


def vm_brief(run: StepRunner, selection: Selection) -> list[VmBrief]:
    """Read of the VMs that are chosen only what ``--quiet`` prints: of thousands the rest would take seconds."""
    with run.stop_signal() as stop, connect(run.endpoint(), stop=stop, run=run.id) as session:
        return run(inspect.list_vms, session, run(choose_vms, session, selection).all_there())


def choose(run: StepRunner, selection: Selection) -> Chosen:
    """Find the VMs that are chosen."""
    with run.stop_signal() as stop, connect(run.endpoint(), stop=stop, run=run.id) as session:
        return run(choose_vms, session, selection)


def _show(run: StepRunner, found: Sequence[VmInfo]) -> None:
    if len(found) > MOST_BY_THEMSELVES:
        run.show_rows(("vm-info",), found, f"{len(found)} VMs")
        return
    for vm in found:
        run.show_result(("vm-info", vm.name), vm, vm.ref.path)


def inventory(run: StepRunner) -> list[VmBrief]:
    """List every VM that the user may see, and leave the list with the run as a page that keeps its place.

    Raises:
        VmNotFound: There is none.
    """
    with run.stop_signal() as stop, connect(run.endpoint(), stop=stop, run=run.id) as session:
        found = run(inspect.list_vms, session, run(choose_vms, session, Selection(match=("*",))).all_there())
        address = session.address

    run.show_rows(("inventory", address.partition(":")[0]), found, f"{len(found)} VMs on {address}")
    return found
