"""A fleet run that is retried continues: what its earlier attempts exported.

Prefect runs a retried flow from its beginning. What was exported is known by the child runs that completed, and proved
by the manifests that name them.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.runtime import flow_run
from prefect.utilities.urls import url_for

from hyperexport.prefect_errors import translated
from hyperexport.results import FleetMember, FleetOutcome
from hyperexport.steps.run_result import result_of_run
from hyperexport.store.base import Store
from hyperexport.tasks.attempts import attempt
from hyperexport.vsphere.inventory import VmRow

_A_PAGE: Final = 200
"""As many runs as Prefect's API gives in one answer."""


def exported_before(chosen: Sequence[VmRow], stores: Sequence[Store], *, spread: bool) -> dict[str, FleetMember]:
    """Find the VMs that earlier attempts of this fleet run exported.

    Args:
        chosen: The VMs of the fleet.
        stores: Where the manifests are that prove it.
        spread: Whether workers exported them, whose stores may be out of sight here: then their runs' state counts.

    Returns:
        Those that need not be exported again, by managed object id.
    """
    if attempt() == 1:
        return {}
    completed = {run.parameters.get("vm"): run for run in earlier_runs() if run.state and run.state.is_completed()}
    members: dict[str, FleetMember] = {}
    for row in chosen:
        run = completed.get(row.ref.path)
        result = result_of_run(stores, row.ref, str(run.id)) if run else None
        if run and (result or spread):
            members[row.ref.moref] = FleetMember(
                vm=row.ref,
                outcome=FleetOutcome.EXPORTED,
                result=result,
                message="exported by an earlier attempt of this run",
                seconds=run.total_run_time.total_seconds(),
                url=url_for("flow-run", obj_id=run.id),
            )
    return members


def earlier_runs() -> list[FlowRun]:
    """The child runs that this fleet run has begun so far, in all its attempts."""
    ours = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[UUID(str(flow_run.id))]))
    found: list[FlowRun] = []
    with translated("listing the runs of this fleet"), get_client(sync_client=True) as client:
        while page := client.read_flow_runs(flow_run_filter=ours, limit=_A_PAGE, offset=len(found)):
            found += page
    return found
