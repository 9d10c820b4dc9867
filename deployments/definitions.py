"""Which deployments there are, and the work pools they wait in. Knows flows and Prefect; runs nothing.

Every flow of ours has a deployment without a schedule, so that *Run* in the Prefect UI and the jobs API work; beside
them there are the usual scheduled ones, paused until they are resumed. The pool of processes is what ``hyperexport
serve`` works off; the same deployments can wait in a pool of containers. ``prefect.yaml`` and its siblings say the
same for ``prefect deploy`` (``prefect_file.py``). Entrypoints are module paths, so that a flow's classes are those of
the installed package.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Final, cast
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

import hyperexport
from hyperexport import flows
from hyperexport.blocks import ExportProfile, VSphereCredentials
from hyperexport.prefect_errors import translated
from hyperexport.tasks.check_prefect import SCHEDULE_TAG
from hyperexport.tasks.restore_points import PICK, offered_by, offering
from hyperexport.workarounds.block_types import register_block_type
from hyperexport.workarounds.known_schemas import KnownDeployment
from hyperexport.workarounds.private import parameter_schema_of
from hyperexport.workarounds.time_zones import remember_time_zones

remember_time_zones()

TAG: Final = "hyperexport"

ALONE: Final = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
"""A run that comes while the last one is still going is cancelled; so are all but one of those missed in an outage."""


@dataclass(frozen=True)
class Pool:
    """A work pool of ours.

    Args:
        name: Its name.
        type: Prefect's type of it, which says what each run is: a process, a container, a job in a cluster.
        job_variables: What the deployments set of the pool's own settings.
    """

    name: str
    type: str
    job_variables: dict[str, Any] = field(default_factory=dict[str, Any])


POOL: Final = "hyperexport"
_IMAGE: Final = f"hyperexport:{hyperexport.__version__}"

PROCESS: Final = Pool(POOL, "process")
DOCKER: Final = Pool(
    "hyperexport-docker",
    "docker",
    {
        "image": _IMAGE,
        "image_pull_policy": "IfNotPresent",
        "env": {"HYPEREXPORT_OUTPUT": "/exports"},
        "volumes": ["hyperexport-exports:/exports"],
        "auto_remove": True,
    },
)
KUBERNETES: Final = Pool(
    "hyperexport-kubernetes",
    "kubernetes",
    {
        "image": _IMAGE,
        "image_pull_policy": "IfNotPresent",
        "cpu_request": "500m",
        "memory_request": "512Mi",
        "finished_job_ttl": 86_400,
    },
)
POOLS: Final = (PROCESS, DOCKER, KUBERNETES)


def deployments(pool: Pool = PROCESS) -> list[RunnerDeployment]:
    """All deployments that wait in a pool: one of each flow on demand, then the scheduled ones."""
    return [*on_demand_deployments(pool), *scheduled_deployments(pool)]


def offered_flows() -> list[Flow[..., Any]]:
    """Every flow that can be deployed."""
    return [cast("Flow[..., Any]", getattr(flows, name)) for name in flows.__all__]


def on_demand_deployments(pool: Pool = PROCESS) -> list[RunnerDeployment]:
    """The deployments without a schedule, one for each flow, and named like it: the UI often shows only that name.

    A restore has another one, whose form offers a list of restore points.
    """
    of_flows = [deployment_of(flow, flow.name, pool=pool, tags=[TAG]) for flow in offered_flows()]
    return [*of_flows, deployment_of(flows.restore_vm, PICK.rpartition("/")[2], pool=pool, tags=[TAG])]


def scheduled_deployments(pool: Pool = PROCESS) -> list[RunnerDeployment]:
    """The usual schedules, all paused. Which VMs they are for, the worker's environment says (HYPEREXPORT_MATCH)."""
    nightly = {"snapshot": {"take": True}, "incremental": {"enabled": True}}
    weekly = {"snapshot": {"take": True}, "incremental": {"enabled": True, "force_full": True}}
    return [
        _scheduled(
            flows.export_fleet,
            "backup",
            pool,
            _cron("nightly-incremental", "0 1 * * 1-6", {"options": nightly}),
            _cron("weekly-full", "0 1 * * 0", {"options": weekly}),
        ),
        _scheduled(
            flows.cleanup_exports,
            "tidy",
            pool,
            _cron("daily-cleanup", "0 12 * * *", {"options": {"cleanup": {"max_age": "30d"}}}),
        ),
        _scheduled(flows.inventory, "inventory-hourly", pool, _cron("hourly-inventory", "15 * * * *")),
        _scheduled(flows.reap_snapshots, "reap", pool, _cron("hourly-reap", "30 * * * *")),
        _scheduled(
            flows.restore_drill, "drill", pool, _cron("weekly-drill", "0 8 * * 6", {"within_days": 30, "most": 5})
        ),
        _scheduled(flows.restore_points, "points", pool, _cron("hourly-points", "45 * * * *")),
        _scheduled(flows.report, "weekly", pool, _cron("weekly-report", "0 7 * * 1")),
        _scheduled(flows.verify_exports, "proof", pool, _cron("nightly-verify", "0 6 * * *", {"sample_days": 7})),
    ]


def _cron(slug: str, cron: str, parameters: dict[str, Any] | None = None) -> DeploymentScheduleCreate:
    times = CronSchedule(cron=cron, timezone="UTC")
    return DeploymentScheduleCreate(schedule=times, slug=slug, parameters=parameters or {})


def _scheduled(flow: Flow[..., Any], name: str, pool: Pool, *schedules: DeploymentScheduleCreate) -> RunnerDeployment:
    return deployment_of(
        flow,
        name,
        pool=pool,
        schedules=list(schedules),
        paused=True,
        concurrency_limit=ALONE,
        tags=[TAG, SCHEDULE_TAG],
    )


def deployment_of(flow: Flow[..., Any], name: str, *, pool: Pool = PROCESS, **settings: Any) -> RunnerDeployment:
    """Describe a deployment of a flow.

    Args:
        flow: The flow.
        name: The deployment's name.
        pool: The pool in which its runs wait.
        settings: More of what Prefect's ``RunnerDeployment.from_flow`` takes.
    """
    return KnownDeployment.from_flow(
        flow,
        name,
        description=description_of(flow),
        work_pool_name=pool.name,
        job_variables=pool.job_variables,
        version=hyperexport.__version__,
        entrypoint_type=EntrypointType.MODULE_PATH,
        **settings,
    )


def description_of(flow: Flow[..., Any]) -> str:
    """What the flow does, without the sections of its docstring for programmers; the form describes its parameters."""
    return re.split(r"\n\n(?:Args|Returns|Raises):\n", flow.description or "", maxsplit=1)[0].strip()


@translated("saving a deployment")
def ensure_deployment(deployment: RunnerDeployment) -> UUID:
    """Create a deployment, or bring one that exists up to this version.

    Of an existing one only the entrypoint, the version and the form change. Parameters, schedules, description, tags,
    limits and the pool are what people set in the Prefect UI, and stay.

    Returns:
        Its id.
    """
    with get_client(sync_client=True) as client:
        try:
            there = client.read_deployment_by_name(f"{deployment.flow_name}/{deployment.name}")
        except ObjectNotFound:
            return cast("UUID", deployment.apply())
        schema = parameter_schema_of(deployment)
        if offered := offered_by(there.parameter_openapi_schema or {}):
            schema = offering(schema, offered)
        client.update_deployment(
            there.id,
            DeploymentUpdate(
                version=deployment.version,
                entrypoint=deployment.entrypoint,
                parameter_openapi_schema=schema,
            ),
        )
    return there.id


@translated("registering the block types")
def ensure_block_types() -> None:
    """Have our kinds of blocks on the server, so that they can be made, and picked in forms, in the Prefect UI."""
    for kind in (VSphereCredentials, ExportProfile):
        register_block_type(kind)


@translated("creating the work pool")
def ensure_pool(pool: Pool = PROCESS) -> None:
    """Have the work pool. One that is there is left as its administrator set it."""
    with get_client(sync_client=True) as client:
        template = (
            ProcessWorker.get_default_base_job_template()
            if pool.type == ProcessWorker.type
            else _template_of(pool.type, client.read_worker_metadata())
        )
        try:
            client.create_work_pool(WorkPoolCreate(name=pool.name, type=pool.type, base_job_template=template))
        except ObjectAlreadyExists:
            return


def _template_of(kind: str, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The settings of a type of pool, as the server's list of all types has them."""
    (found,) = [types[kind] for types in known.values() if kind in types]
    return found["default_base_job_configuration"]
