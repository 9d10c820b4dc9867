"""A fleet over many workers: each VM is a run of its own deployment, which whichever worker is free takes up.

The fleet's run submits no more than may be in flight, looks how they fare, and reads what came of each where every
export says it: in the failure that it kept with its run, and in the manifest. It outlives any worker but its own; a VM
whose worker died is given to another, once. Prefect does not cancel what a run submitted when that run is cancelled:
this does.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Any, Final, ParamSpec, TypeVar, cast
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.states import Crashed
from prefect.utilities.urls import url_for
from pydantic import ValidationError
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from hyperexport.base.stop import StopSignal
from hyperexport.blocks import VSphereCredentials
from hyperexport.errors import Interrupted, UsageError
from hyperexport.flows.fleet_retry import earlier_runs
from hyperexport.flows.runtime import VSphere
from hyperexport.jobs.fleet import failed_member
from hyperexport.options.precedence import ExportOptions
from hyperexport.policy.placement import Queue
from hyperexport.prefect_errors import translated
from hyperexport.results import FailureReport, FleetMember, FleetOutcome
from hyperexport.steps.run_result import result_of_run
from hyperexport.store.base import Store
from hyperexport.tasks.attempts import attempt as attempt_of_fleet
from hyperexport.tasks.failure_records import recorded_failure
from hyperexport.vsphere.inventory import VmRow
from hyperexport.workarounds.private import document_id_of

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

DEPLOYMENT: Final = "export-vm/export-vm"
"""What a VM is a run of; ``hyperexport serve`` puts it in place."""

ATTEMPTS: Final = 2
"""How many workers a VM may lose. A worker that dies of it would take all others along otherwise."""

SECONDS_BETWEEN_LOOKS: Final = 2.0
SECONDS_TO_BEGIN: Final = 300.0
"""After this a run that a worker took up and did not begin counts as lost with its worker. Prefect lets a process
that begins late after all do nothing, so no VM is exported twice for it."""

SECONDS_WITHOUT_WORKER: Final = 60.0
SECONDS_WITHOUT_SERVER: Final = 1800.0
"""As long as a worker's run waits to report its end (workarounds/server_outage.py)."""

SECONDS_TO_STOP: Final = 25.0
"""How long the exports are waited for when the run is stopped; Prefect kills this process after 30 s."""


@dataclass
class Sent:
    """A VM that was given to the workers."""

    row: VmRow
    attempt: int
    sent: float
    taken_up: float | None = None
    """When it was first seen with a worker and not yet begun."""


def distribute_exports(
    vsphere: VSphere, due: Sequence[VmRow], options: ExportOptions, stores: Sequence[Store], stop: StopSignal
) -> dict[str, FleetMember]:
    """Export the VMs by all workers together, as many at a time as there is room for.

    Args:
        vsphere: A saved block or its name; None for the environment of the workers.
        due: The VMs.
        options: What to do with each; the workers' own environment adds nothing to what is set here.
        stores: Where the manifests are read that say what came of each.
        stop: The run's stop signal.

    Returns:
        What came of each, by managed object id.

    Raises:
        UsageError: There is no deployment to run, or the block was never saved.
    """
    parameters = {"options": given_as_json(options), "vsphere": reference(vsphere)}
    queue = Queue(due, options.fleet)
    members: dict[str, FleetMember] = {}
    ended = ended_before()
    with ExitStack() as stack:
        with translated("handing the VMs to the workers"):
            client = stack.enter_context(get_client(sync_client=True))
            require_deployment(client)
        sent = stack.enter_context(in_flight(client))
        while True:
            while (row := queue.begin()) is not None:
                retry_until_stopped(stop, submit, sent, row, parameters, attempt=1, ended=ended[row.ref.path])
            if not sent:
                return members
            stop.wait(SECONDS_BETWEEN_LOOKS)
            stop.check()
            for run in retry_until_stopped(stop, look, client, sent):
                one = sent.pop(run.id)
                if is_crashed(run) and one.attempt < ATTEMPTS:
                    logger.warning("%s: its worker died (%s); another takes over", one.row.ref.path, _message(run))
                    again = one.attempt + 1
                    retry_until_stopped(
                        stop, submit, sent, one.row, parameters, attempt=again, ended=ended[one.row.ref.path]
                    )
                    continue
                queue.done(one.row)
                members[one.row.ref.moref] = member = member_of(one, run, stores)
                logger.info("%s: %s (%d of %d VMs are done)", member.vm.path, member.outcome, len(members), len(due))


def retry_until_stopped(stop: StopSignal, ask: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Ask the Prefect server again for as long as it is away: the workers go on meanwhile, and so does the fleet.

    A proxy that answers in its place counts as away, too: its page is no answer of Prefect's.

    Asking again is safe: to look changes nothing, and a VM that was submitted already is known by its key.

    Raises:
        Interrupted: The run was asked to stop meanwhile.
        PrefectFailed, ServerUnreachable: It refused, or stayed away.
    """

    def away(error: BaseException) -> bool:
        if isinstance(error, PrefectHTTPStatusError):
            return error.response.is_server_error
        return isinstance(error, httpx.TransportError | httpx.DecodingError | ValidationError | JSONDecodeError)

    def wait(seconds: float) -> None:
        logger.warning("the Prefect server does not answer; the workers continue, and the server is asked again")
        stop.wait(seconds)
        stop.check()

    trying = Retrying(
        retry=retry_if_exception(away),
        stop=stop_after_delay(SECONDS_WITHOUT_SERVER),
        wait=wait_fixed(SECONDS_BETWEEN_LOOKS),
        sleep=wait,
        reraise=True,
    )
    with translated("asking Prefect for the states of the exports"):
        return trying(ask, *args, **kwargs)


def given_as_json(options: ExportOptions) -> dict[str, Any]:
    """The options as a run's parameter. A relative path is meant as this process sees it, not each worker."""
    output = options.destination.output.absolute()
    options = ExportOptions.from_keys({**options.given_keys(), "output": output})
    return options.model_dump(mode="json", exclude_unset=True)


def reference(vsphere: VSphere) -> object:
    """Name a block without its content: what goes into a parameter is stored in the clear.

    Raises:
        UsageError: It was never saved, so no worker could load it.
    """
    if not isinstance(vsphere, VSphereCredentials):
        return vsphere
    saved = document_id_of(vsphere)
    if saved is None:
        raise UsageError(
            "the vSphere credentials block is not saved, so no worker could load it", fix="Save it, or give its name"
        )
    return {"$ref": {"block_document_id": str(saved)}}


def require_deployment(client: SyncPrefectClient) -> None:
    """See that there is something to run.

    Raises:
        UsageError: There is not.
    """
    try:
        client.read_deployment_by_name(DEPLOYMENT)
    except ObjectNotFound:
        raise UsageError(
            f"there is no deployment {DEPLOYMENT}, so no worker could pick up a VM",
            fix="Start hyperexport serve on each worker, or run prefect deploy --all",
        ) from None


def ended_before() -> Counter[str]:
    """For each VM, by its path, how many of its runs ended in earlier attempts of this fleet run.

    A retry starts new ones in their place, and waits for those that are still at work.
    """
    if attempt_of_fleet() == 1:
        return Counter()
    return Counter(run.parameters.get("vm", "") for run in earlier_runs() if run.state and run.state.is_final())


def submit(sent: dict[UUID, Sent], row: VmRow, parameters: dict[str, Any], *, attempt: int, ended: int = 0) -> None:
    """Hand one VM to the workers; a run of the same number that is there already is found by its key."""
    run = cast(
        "FlowRun",
        run_deployment(
            DEPLOYMENT,
            parameters={"vm": row.ref.path, **parameters},
            timeout=0,
            flow_run_name=f"export {row.ref.path}",
            idempotency_key=f"{flow_run.id} {row.ref.moref} {ended + attempt}",
        ),
    )
    sent[run.id] = Sent(row, attempt, time.monotonic())


def look(client: SyncPrefectClient, sent: dict[UUID, Sent]) -> list[FlowRun]:
    """Ask how they fare; answers those that have ended."""
    runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=list(sent))), limit=len(sent))
    now = time.monotonic()
    waiting = [sent[run.id] for run in runs if run.state and run.state.is_scheduled()]
    if waiting and len(waiting) == len(sent) and min(now - one.sent for one in waiting) > SECONDS_WITHOUT_WORKER:
        logger.warning("no worker picks up any of the %d waiting VMs: is hyperexport serve running?", len(waiting))
        for one in waiting:
            one.sent = now
    for run in runs:
        if run.state and run.state.is_pending():
            give_up_if_late(client, run, sent[run.id], now)
    return [run for run in runs if run.state and run.state.is_final()]


def give_up_if_late(client: SyncPrefectClient, run: FlowRun, one: Sent, now: float) -> None:
    """Call a run crashed that a worker took up and never began: it had no heartbeat yet that could stop."""
    one.taken_up = one.taken_up or now
    if now - one.taken_up > SECONDS_TO_BEGIN:
        client.set_flow_run_state(run.id, Crashed(message="a worker took it up and did not begin it"))


def is_crashed(run: FlowRun) -> bool:
    """Whether its process, or its worker, died."""
    return run.state is not None and run.state.is_crashed()


def member_of(one: Sent, run: FlowRun, stores: Sequence[Store]) -> FleetMember:
    """What came of a VM, from its run's last state and from its manifest."""
    assert run.state is not None
    seconds = run.total_run_time.total_seconds()
    url = url_for("flow-run", obj_id=run.id)
    if not run.state.is_completed():
        return failed_member(one.row.ref, _failure_of(run, run.state), seconds, url=url)
    result = result_of_run(stores, one.row.ref, str(run.id))
    message = "; ".join(result.warnings) if result else "exported by its worker into a store that is not seen here"
    return FleetMember(
        vm=one.row.ref, outcome=FleetOutcome.EXPORTED, result=result, message=message, seconds=seconds, url=url
    )


def _failure_of(run: FlowRun, state: State[Any]) -> FailureReport:
    """Why a run failed: what it kept of it itself, or where it could not, what Prefect says of it."""
    if state.is_cancelled():
        return FailureReport(code=Interrupted.code, what=_message(run))
    if state.is_crashed():
        return FailureReport(code="crashed", what=_message(run))
    return recorded_failure(run) or FailureReport(code="internal", what=_message(run))


@contextmanager
def in_flight(client: SyncPrefectClient) -> Generator[dict[UUID, Sent]]:
    """What the workers have. Left by an exception, a cancellation included, it is cancelled and waited for."""
    sent: dict[UUID, Sent] = {}
    try:
        yield sent
    except BaseException:
        cancel(client, sent)
        raise


def cancel(client: SyncPrefectClient, sent: dict[UUID, Sent]) -> None:
    """Have every run stopped, and wait while they take back their snapshots."""
    end = time.monotonic() + SECONDS_TO_STOP
    for run in list(sent):
        try:
            client.set_flow_run_state(run, State[Any](type=StateType.CANCELLING, message="its fleet was stopped"))
        except Exception as error:  # noqa: BLE001 - the other runs still have to be cancelled
            logger.error("run %s could not be cancelled: %s", run, type(error).__name__)
    try:
        while sent and time.monotonic() < end:
            for run in look(client, sent):
                del sent[run.id]
            time.sleep(0.5)
    except Exception as error:  # noqa: BLE001 - the reason why this run ends is another
        logger.error("cannot tell whether the exports have stopped: %s", type(error).__name__)
    if sent:
        logger.warning("%d exports are still stopping on their workers", len(sent))


def _message(run: FlowRun) -> str:
    return (run.state.message if run.state else None) or (run.state_name or "unknown")
