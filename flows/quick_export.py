"""The short form of an export: the VM, a profile, and what most exports differ in. Everything else is export-vm's."""

from typing import Final

from pydantic import model_serializer

from hyperexport.flows.job_flow import job_flow
from hyperexport.flows.runtime import Profile, VSphere, options_in_force, runner_for
from hyperexport.jobs import export
from hyperexport.options.quick import QuickOptions
from hyperexport.results import ExportResult


class _NothingGiven(QuickOptions):
    """Written down it is ``{}``, so that a form that starts from it sends nothing."""

    @model_serializer
    def _nothing(self) -> dict[str, object]:
        return {}


_OPTIONS: Final[QuickOptions] = _NothingGiven()


@job_flow("quick-export", "export {vm}".format_map)
def quick_export(
    vm: str,
    profile: Profile = None,
    options: QuickOptions = _OPTIONS,
    vsphere: VSphere = None,
) -> ExportResult:
    """Export one virtual machine, with the options of a profile and a few more. The form of export-vm has all options.

    Args:
        vm: The VM's name or its whole inventory path, exactly; the flow inventory lists them in an artifact.
        profile: A saved export profile, or its name.
        options: What is not set comes from the environment, the profile, the defaults.
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.

    Returns:
        What was exported and where it is stored; in a dry run, the plan.

    Raises:
        HyperExportError: The export failed; what was begun has been cleaned up.
    """
    return export.export_vm(runner_for(vsphere), vm, options_in_force(options.as_export_options(), profile))
