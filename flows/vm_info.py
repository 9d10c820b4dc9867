"""The flow that shows VMs without touching them."""

from prefect import flow

from flows.connections import VSphere, stop_signal, vsphere_session
from flows.outcome import told_in_words
from hyperexport.report.summary import vm_rows
from hyperexport.vm import VmInfo
from tasks.artifacts import artifact_key, show_table
from tasks.inspect import inspect_vm


@flow(name="vm-info", persist_result=False)
@told_in_words
def vm_info(vms: list[str], vsphere: VSphere = None) -> list[VmInfo]:
    """Show what vSphere knows of VMs. Nothing on the server is changed.

    Args:
        vms: Names or whole inventory paths, exactly.
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.

    Raises:
        VmNotFound, VmAmbiguous: A name fits no VM, or several.
    """
    with stop_signal() as stop, vsphere_session(vsphere, stop) as session:
        found = [inspect_vm(session, name) for name in vms]
    for vm in found:
        show_table(artifact_key("vm-info", vm.name), vm_rows(vm), f"{vm.ref.path}")
    return found
