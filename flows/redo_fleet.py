"""The flow that exports again what failed in a fleet run: it presses Prefect's Retry."""

from typing import Any, Final
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.utilities.urls import url_for

from hyperexport.errors import UsageError
from hyperexport.flows.job_flow import job_flow
from hyperexport.prefect_errors import translated

FLEET: Final = "export-fleet"
_FAILED: Final = [StateType.FAILED, StateType.CRASHED]


@job_flow("redo-fleet", "redo what failed {run}".format_map)
def redo_fleet(run: str = "") -> dict[str, str]:
    """Export again the VMs that failed in a fleet run. The run continues: what it exported is not exported again.

    Args:
        run: The id of the fleet run (export-fleet). The last one that failed if empty.

    Returns:
        The fleet run that continues: its id, name and page.

    Raises:
        UsageError: There is no such run, it did not fail, or no deployment can continue it; nothing was done.
    """
    with translated("redoing a fleet run"), get_client(sync_client=True) as client:
        failed = _named(client, run) if run else _last(client)
        if failed.state is None or failed.state.type not in _FAILED:
            state = failed.state.name if failed.state else "none"
            raise UsageError(f"fleet run {failed.name} did not fail: its state is {state}")
        if failed.deployment_id is None:
            raise UsageError(
                f"fleet run {failed.name} was started by a command, which no worker can continue",
                fix="Run the command on its closing page",
            )
        again = State[Any](type=StateType.SCHEDULED, name="AwaitingRetry", message="Retry by redo-fleet")
        client.set_flow_run_state(failed.id, again, force=True)
    return {"id": str(failed.id), "name": failed.name, "url": url_for("flow-run", obj_id=failed.id) or ""}


def _named(client: SyncPrefectClient, run: str) -> FlowRun:
    try:
        found = client.read_flow_run(UUID(run.rstrip("/").rpartition("/")[2]))  # the address of its page is as good
        if client.read_flow(found.flow_id).name == FLEET:
            return found
    except (ValueError, ObjectNotFound):
        pass
    raise UsageError(f"there is no run of {FLEET} with the id {run}", fix="Copy it from the run's page")


def _last(client: SyncPrefectClient) -> FlowRun:
    found = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[FLEET])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_FAILED))),
        sort=FlowRunSort.START_TIME_DESC,
        limit=1,
    )
    if not found:
        raise UsageError(f"no run of {FLEET} has failed")
    return found[0]
