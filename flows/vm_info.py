"""The flow that shows VMs without touching them."""

from collections.abc import Mapping
from typing import Any

from prefect import flow

from hyperexport.base.display import Listing
from hyperexport.flows.outcome import report_failures
from hyperexport.flows.run_names import run_name
from hyperexport.flows.runtime import VSphere, runner_for
from hyperexport.jobs import vm_info as info
from hyperexport.model.vm import VmInfo
from hyperexport.options.selection import Selection, selection_in_force


def _run_name(parameters: Mapping[str, Any]) -> str:
    return f"show {Selection.model_validate(parameters['selection']) or 'the VMs that the environment selects'}"


@flow(name="vm-info", flow_run_name=run_name(_run_name), persist_result=False)
@report_failures
def vm_info(selection: Selection = Selection(), vsphere: VSphere = None) -> Listing[VmInfo]:  # noqa: B008
    """Show what vSphere knows of VMs. Nothing on the server is changed.

    Args:
        selection: The VMs: by name, folder, tag or pattern. The environment chooses (HYPEREXPORT_MATCH, ...) if empty.
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.

    Raises:
        VmNotFound, VmAmbiguous: A name fits no VM, or several; or nobody is chosen.
    """
    return info.vm_info(runner_for(vsphere), selection_in_force(selection))
