"""The flow that shows VMs without touching them."""

from collections.abc import Mapping
from typing import Any, Unpack

from hyperexport.base.display import Listing
from hyperexport.flows.job_flow import job_flow
from hyperexport.flows.runtime import VSphere, runner_for
from hyperexport.jobs import vm_info as info
from hyperexport.model.vm import VmInfo
from hyperexport.options.keywords import SelectionKeywords
from hyperexport.options.selection import Selection, selection_in_force


def _run_name(parameters: Mapping[str, Any]) -> str:
    return f"show {Selection.model_validate(parameters['selection']) or 'the VMs that the environment selects'}"


@job_flow("vm-info", _run_name)
def vm_info(
    selection: Selection = Selection(),  # noqa: B008
    vsphere: VSphere = None,
    **_: Unpack[SelectionKeywords],
) -> Listing[VmInfo]:
    """Show what vSphere knows of VMs. Nothing on the server is changed.

    Args:
        selection: The VMs: by name, folder, tag or pattern. The environment chooses (HYPEREXPORT_MATCH, ...) if empty.
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.

    Returns:
        The description of each VM, in the order of their paths.

    Raises:
        VmNotFound, VmAmbiguous: A name fits no VM, or several; or no VM is chosen.
    """
    return info.vm_info(runner_for(vsphere), selection_in_force(selection))
