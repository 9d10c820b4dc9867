"""Which deployments there are, and the work pool they wait in. Knows flows and Prefect; runs nothing.

Every flow of ours has a deployment without a schedule, so that *Run* in the Prefect UI and the jobs API work. All
wait in one process work pool: ``hyperexport serve`` is a worker of it, and so is any ``prefect worker``.
Entrypoints are module paths, so that a flow's classes are those of the installed package.
"""

from typing import Any, Final, cast

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

import flows
from blocks import ExportProfile, VSphereCredentials

POOL: Final = "hyperexport"
ON_DEMAND: Final = "on-demand"
"""The name of each flow's deployment without a schedule."""

TAG: Final = "hyperexport"

ALONE: Final = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
"""A run that comes while the last one is still going is cancelled; so are all but one of those missed in an outage."""


def offered_flows() -> list[Flow[..., Any]]:
    """Every flow that can be deployed."""
    return [cast("Flow[..., Any]", getattr(flows, name)) for name in flows.__all__]


def on_demand_deployments() -> list[RunnerDeployment]:
    """The deployments without a schedule, one for each flow."""
    return [deployment_of(flow, ON_DEMAND, tags=[TAG]) for flow in offered_flows()]


def deployment_of(flow: Flow[..., Any], name: str, **settings: Any) -> RunnerDeployment:
    """Describe a deployment of a flow in our work pool.

    Args:
        flow: The flow.
        name: The deployment's name.
        settings: More of what Prefect's ``Flow.to_deployment`` takes.
    """
    deployment = flow.to_deployment(name, work_pool_name=POOL, entrypoint_type=EntrypointType.MODULE_PATH, **settings)
    return cast("RunnerDeployment", deployment)


def ensure_block_types() -> None:
    """Have our kinds of blocks on the server, so that they can be made, and picked in forms, in the Prefect UI."""
    for kind in (VSphereCredentials, ExportProfile):
        kind.register_type_and_schema()  # pyright: ignore[reportUnusedCoroutine] - not without a loop


def ensure_pool() -> None:
    """Have the work pool. One that is there is left as its administrator set it."""
    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=POOL, type=ProcessWorker.type, base_job_template=template))
        except ObjectAlreadyExists:
            return
