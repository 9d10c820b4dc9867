"""Many VMs: each is a flow run of its own. What is done with all of them is ``hyperexport/jobs/fleet.py``."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Unpack

from prefect.runtime import deployment

from hyperexport.flows.export_vm import export_vm
from hyperexport.flows.fleet_distribution import distribute_exports
from hyperexport.flows.fleet_retry import exported_before
from hyperexport.flows.job_flow import job_flow
from hyperexport.flows.runtime import (
    OPTIONS,
    Profile,
    VSphere,
    name_of,
    options_in_force,
    runner_for,
    shared_by_fleet,
)
from hyperexport.jobs import fleet
from hyperexport.jobs.runner import Shared
from hyperexport.options.keywords import ChosenKeywords
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection, selection_in_force
from hyperexport.prefect_errors import translated
from hyperexport.results import ExportResult, FleetResult
from hyperexport.views.fleet import ONE_CLICK, redo_command
from hyperexport.workarounds.child_runs import own_child_run
from hyperexport.workarounds.flow_calls import tolerate_server_outage
from hyperexport.workarounds.server_outage import wait_for_prefect


def _run_name(parameters: Mapping[str, Any]) -> str:
    return f"export {Selection.model_validate(parameters['selection'])}"


@job_flow("export-fleet", _run_name)
def export_fleet(
    selection: Selection = Selection(),  # noqa: B008
    options: ExportOptions = OPTIONS,
    vsphere: VSphere = None,
    profile: Profile = None,
    **_: Unpack[ChosenKeywords],
) -> FleetResult:
    """Export several virtual machines side by side. One's failure is never another's.

    Args:
        selection: The VMs: by name, folder, tag or pattern. The environment chooses (HYPEREXPORT_MATCH, ...) if empty.
        options: What to do with each, and how. What is not set comes from the environment, the profile, the defaults.
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.
        profile: A saved export profile, or its name.

    Returns:
        The outcome of each VM, and what a cleanup deleted.

    Raises:
        PartialFleetFailure: Some of the VMs failed; the others are exported.
        FleetFailure: All of them failed.
        HyperExportError: No VM is chosen, or the VMs could not be looked up.
    """
    in_force = options_in_force(options, profile)
    return fleet.export_fleet(
        runner_for(vsphere),
        selection_in_force(selection),
        in_force,
        export_one=partial(_as_flow_run, vsphere),
        spread=partial(distribute_exports, vsphere),
        exported_before=partial(exported_before, spread=in_force.fleet.spread),
        redo=partial(redo_command, options=options, vsphere=name_of(vsphere), profile=name_of(profile)),
        retry=ONE_CLICK if deployment.id else None,
    )


def _as_flow_run(vsphere: VSphere, vm: str, options: ExportOptions, shared: Shared) -> ExportResult:
    """Export one VM as a flow run of its own, in the thread that calls."""
    wait_for_prefect()  # a run begins only where it can be entered
    token = shared_by_fleet.set(shared)
    try:
        with translated(f"running the export of {vm}"), own_child_run(export_vm):
            return tolerate_server_outage(export_vm)(vm, options, vsphere=vsphere)
    finally:
        shared_by_fleet.reset(token)
