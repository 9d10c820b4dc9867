"""The main job: one VM, from its snapshot to a proven export. Its steps are in ``hyperexport/jobs/export.py``."""

from typing import Annotated, Unpack

from hyperexport.flows.job_flow import job_flow
from hyperexport.flows.runtime import OPTIONS, Profile, VSphere, options_in_force, runner_for
from hyperexport.jobs import export
from hyperexport.options.form import Shown
from hyperexport.options.keywords import OptionKeywords
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import ExportResult


@job_flow("export-vm", "export {vm}".format_map)
def export_vm(
    vm: str,
    options: Annotated[
        ExportOptions, Shown("destination", "snapshot", "incremental", "bandwidth", "execution", "cleanup", "email")
    ] = OPTIONS,
    vsphere: VSphere = None,
    profile: Profile = None,
    **_: Unpack[OptionKeywords],
) -> ExportResult:
    """Export one virtual machine, consistently and at a controlled rate, with proof that the bytes are right.

    Args:
        vm: The VM's name or its whole inventory path, exactly; the flow inventory lists them in an artifact.
        options: What to do, and how. What is not set comes from the environment, the profile, the defaults.
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.
        profile: A saved export profile, or its name.

    Returns:
        What was exported and where it is stored; in a dry run, the plan.

    Raises:
        HyperExportError: The export failed; what was begun has been cleaned up.
    """
    return export.export_vm(runner_for(vsphere), vm, options_in_force(options, profile))
