"""The flow that shows VMs without touching them."""

from prefect import flow

from hyperexport.base.display import Listing
from hyperexport.flows.connections import VSphere, stop_signal, vsphere_session
from hyperexport.flows.outcome import told_in_words
from hyperexport.model.vm import VmInfo
from hyperexport.options.selection import Selection, selection_in_force
from hyperexport.tasks.artifacts import artifact_key, show_table
from hyperexport.tasks.inspect import choose_vms, describe_vms
from hyperexport.views.summary import vm_row, vm_rows

MOST_BY_THEMSELVES = 10
"""So many VMs are shown in a table each; more are the rows of one."""


@flow(name="vm-info", persist_result=False)
@told_in_words
def vm_info(selection: Selection = Selection(), vsphere: VSphere = None) -> Listing[VmInfo]:  # noqa: B008
    """Show what vSphere knows of VMs. Nothing on the server is changed.

    Args:
        selection: The VMs: by name, folder, tag or pattern. The environment chooses (HYPEREXPORT_MATCH, ...) if empty.
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.

    Raises:
        VmNotFound, VmAmbiguous: A name fits no VM, or several; or nobody is chosen.
    """
    with stop_signal() as stop, vsphere_session(vsphere, stop) as session:
        found = describe_vms(session, choose_vms(session, selection_in_force(selection)).all_there())
    for vm in found if len(found) <= MOST_BY_THEMSELVES else ():
        show_table(artifact_key("vm-info", vm.name), vm_rows(vm), f"{vm.ref.path}")
    if len(found) > MOST_BY_THEMSELVES:
        show_table(artifact_key("vm-info"), [vm_row(vm) for vm in found], f"{len(found)} VMs")
    return Listing(found)
