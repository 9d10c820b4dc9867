"""Whether Prefect would do its part tonight: its server, the limits that the options name, workers for schedules."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import prefect
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import WorkPoolStatus
from prefect.exceptions import ObjectNotFound

from hyperexport.errors import HyperExportError
from hyperexport.model.vm import VmInfo
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import Level, SetupFinding
from hyperexport.steps.check import failed
from hyperexport.steps.step import step
from hyperexport.tasks.bandwidth import open_budget
from hyperexport.tasks.lease_limits import limit_name

SCHEDULE_TAG: Final = "hyperexport-schedule"
"""What every schedule of ours is tagged with."""

_SECONDS_FOR_AN_ANSWER: Final = 10.0


@step("check-prefect", run_name="check Prefect")
def look_at_prefect(options: ExportOptions, vcenter: str | None, vms: Sequence[VmInfo]) -> list[SetupFinding]:
    """Ask the Prefect server for what an export asks of it.

    Args:
        options: Those in force.
        vcenter: The vCenter's address; None where it is not known.
        vms: The VMs that are chosen.
    """
    try:
        with get_client(sync_client=True, httpx_settings={"timeout": _SECONDS_FOR_AN_ANSWER}) as client:
            names = _limit_names(options, vcenter, vms)
            return [_server(client), *_bandwidth(options), *_closed(client, names), *_workers(client)]
    except Exception as error:  # noqa: BLE001 - whatever its client raises, it is a finding
        words = f"the Prefect API gives an invalid answer ({type(error).__name__})"
        fix = "Check PREFECT_API_URL, and the server there"
        return [SetupFinding(what="Prefect", level=Level.FAIL, words=words, fix=fix)]


def _server(client: SyncPrefectClient) -> SetupFinding:
    theirs, ours = client.api_version(), prefect.__version__
    same = theirs.split(".")[:2] == ours.split(".")[:2]
    return SetupFinding(
        what="Prefect server",
        level=Level.OK if same else Level.WARN,
        words=f"it answers, version {theirs}" + ("" if same else f", and this machine has {ours}"),
        fix=None if same else "Bring both to the same version; a server should not be older than its clients",
    )


def _bandwidth(options: ExportOptions) -> Iterator[SetupFinding]:
    name = options.bandwidth.shared
    if name is None:
        return
    what = f"shared bandwidth {name}"
    try:
        with open_budget(name, make=options.bandwidth.limit):
            yield SetupFinding(what=what, level=Level.OK, words="its limit is there, or would be made")
    except HyperExportError as error:
        yield failed(what, error)


def _limit_names(options: ExportOptions, vcenter: str | None, vms: Sequence[VmInfo]) -> list[str]:
    if vcenter is None:
        return []
    hosts = sorted({vm.host for vm in vms if vm.host}) if options.execution.leases_per_host else []
    whole = [limit_name(vcenter)] if options.execution.leases_per_vcenter else []
    return [*whole, *(limit_name(vcenter, host) for host in hosts)]


def _closed(client: SyncPrefectClient, names: Iterable[str]) -> Iterator[SetupFinding]:
    """Limits of 0, under which no run can start."""
    for name in names:
        try:
            limit = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            continue  # made with the first export
        if limit.active and limit.limit == 0:
            yield SetupFinding(
                what=f"limit {name}",
                level=Level.FAIL,
                words="it is set to 0, so no export may begin there",
                fix=f"Raise it: prefect gcl update '{name}' --limit 4",
            )


def _workers(client: SyncPrefectClient) -> Iterator[SetupFinding]:
    """Schedules whose runs no worker would pick up."""
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[SCHEDULE_TAG]))
    waiting: dict[str, list[str]] = {}
    for deployment in client.read_deployments(deployment_filter=ours, limit=200):
        if not deployment.paused and any(schedule.active for schedule in deployment.schedules):
            waiting.setdefault(deployment.work_pool_name or "", []).append(deployment.name)
    for pool, names in sorted(waiting.items()):
        yield _pool(client, pool, names)
    if not waiting:
        yield SetupFinding(what="workers", level=Level.OK, words="nothing is scheduled, so none is needed")


def _pool(client: SyncPrefectClient, pool: str, names: Sequence[str]) -> SetupFinding:
    what, listed = f"work pool {pool}", ", ".join(sorted(names))
    try:
        status = client.read_work_pool(pool).status
    except ObjectNotFound:
        words = f"it does not exist, so the schedules {listed} would not run"
        return SetupFinding(what=what, level=Level.FAIL, words=words, fix="Start hyperexport serve, which creates it")
    if status is WorkPoolStatus.READY:
        return SetupFinding(what=what, level=Level.OK, words=f"a worker waits for the schedules {listed}")
    if status is WorkPoolStatus.PAUSED:
        words = f"it is paused, so the schedules {listed} would not run"
        return SetupFinding(what=what, level=Level.FAIL, words=words, fix=f"prefect work-pool resume {pool}")
    words = f"there is no worker, so the schedules {listed} would not run"
    return SetupFinding(what=what, level=Level.FAIL, words=words, fix="Start hyperexport serve, or a prefect worker")
