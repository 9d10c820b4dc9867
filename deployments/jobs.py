"""Jobs are flow runs: submitting, looking, cancelling, each translated to one call of the Prefect API.

Nothing is kept here. A job's id is its flow run's, so after a restart every job is still there.
"""

from typing import Any, Final
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound

from hyperexport.deployments.job_model import JobDetails, JobProgress, JobStatus
from hyperexport.flows import export_vm
from hyperexport.views.chart import without_pictures

JOB_TAG: Final = "hyperexport-job"
_JOBS: Final = FlowRunFilterTags(all_=[JOB_TAG])


class JobNotFound(LookupError):
    """There is no job of this id."""


class JobFinished(Exception):
    """The job has ended: there is nothing left to cancel."""


async def submit(client: PrefectClient, parameters: dict[str, Any], *, flow: str = export_vm.name) -> UUID:
    """Have a job run as soon as a worker is free.

    Args:
        client: The Prefect API.
        parameters: Those of the flow.
        flow: Its name.

    Returns:
        Its id.
    """
    deployment = await client.read_deployment_by_name(f"{flow}/{flow}")
    run = await client.create_flow_run_from_deployment(
        deployment.id, parameters=parameters, tags=[*deployment.tags, JOB_TAG]
    )
    return run.id


async def newest(client: PrefectClient, *, limit: int, offset: int, state: StateType | None) -> list[JobStatus]:
    """List jobs, the newest first.

    Args:
        client: The Prefect API.
        limit: At most how many.
        offset: How many are left out at first.
        state: Only those in this state.
    """
    only = FlowRunFilterState(type=FlowRunFilterStateType(any_=[state])) if state else None
    runs = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(tags=_JOBS, state=only),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=limit,
        offset=offset,
    )
    return [JobStatus(**_status(run)) for run in runs]


async def details(client: PrefectClient, job: UUID) -> JobDetails:
    """Look at one job.

    Raises:
        JobNotFound: There is none of this id.
    """
    run = await _read(client, job)
    artifacts = await client.read_artifacts(
        artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
    )
    progress = [
        JobProgress(percent=float(str(artifact.data)), description=artifact.description or "")
        for artifact in artifacts
        if artifact.type == "progress"
    ]
    pages = [str(artifact.data) for artifact in artifacts if artifact.type == "markdown"]
    return JobDetails(
        **_status(run),
        progress=sorted(progress, key=lambda item: item.description),
        summary=without_pictures(pages[-1]) if pages else None,
    )


async def cancel(client: PrefectClient, job: UUID) -> None:
    """Have a job stopped; it cleans up behind itself, which takes seconds.

    Raises:
        JobNotFound: There is none of this id.
        JobFinished: It has ended already.
    """
    run = await _read(client, job)
    if run.state and run.state.is_final():
        raise JobFinished(f"job {job} has ended: {run.state.name}")
    await client.set_flow_run_state(job, State[Any](type=StateType.CANCELLING))


async def count(client: PrefectClient, state: StateType) -> int:
    """Count the jobs in a state."""
    return await client.count_flow_runs(
        flow_run_filter=FlowRunFilter(tags=_JOBS, state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[state])))
    )


async def _read(client: PrefectClient, job: UUID) -> FlowRun:
    try:
        run = await client.read_flow_run(job)
    except ObjectNotFound:
        run = None
    if run is None or JOB_TAG not in run.tags:
        raise JobNotFound(f"there is no job {job}")
    return run


def _status(run: FlowRun) -> dict[str, Any]:
    state = run.state
    failed = state is not None and (state.is_failed() or state.is_crashed())
    return {
        "id": run.id,
        "vm": str(run.parameters.get("vm", "")),
        "state": state.name if state else "Unknown",
        "finished": state is not None and state.is_final(),
        "submitted": run.created,
        "started": run.start_time,
        "ended": run.end_time,
        "error": state.message if state and failed else None,
    }
