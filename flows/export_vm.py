"""The main job: one VM, from its snapshot to a proven export. Its steps are in ``hyperexport/jobs/export.py``."""

from typing import Annotated

from prefect import flow

from hyperexport.flows.outcome import report_failures
from hyperexport.flows.run_names import run_name
from hyperexport.flows.runtime import OPTIONS, Profile, VSphere, options_in_force, runner_for
from hyperexport.jobs import export
from hyperexport.options.form import Shown
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import ExportResult


@flow(name="export-vm", flow_run_name=run_name("export {vm}".format_map), persist_result=False)
@report_failures
def export_vm(
    vm: str,
    options: Annotated[
        ExportOptions, Shown("destination", "snapshot", "incremental", "bandwidth", "execution", "cleanup", "email")
    ] = OPTIONS,
    vsphere: VSphere = None,
    profile: Profile = None,
) -> ExportResult:
    """Export one virtual machine, consistently and at a controlled rate, with proof that the bytes are right.

    Args:
        vm: The VM's name or its whole inventory path, exactly.
        options: What to do, and how. What is not set comes from the environment, the profile, the defaults.
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.
        profile: A saved export profile, or its name.

    Raises:
        HyperExportError: The export failed; what was begun has been cleaned up.
    """
    return export.export_vm(runner_for(vsphere), vm, options_in_force(options, profile))
