"""Carries out the steps of a job as Prefect tasks, and does for it what only Prefect does.

The limits and budgets that runs share, events, artifacts, saved blocks, and whether another run is over.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Annotated, Any, Final, ParamSpec, TypeVar, cast

from prefect.futures import PrefectFuture, as_completed, wait
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote
from prefect.utilities.urls import url_for

from hyperexport.base import display
from hyperexport.base.display import Page
from hyperexport.base.stop import StopSignal
from hyperexport.blocks import VSphereCredentials
from hyperexport.blocks.vsphere_credentials import load_vsphere
from hyperexport.errors import note_step
from hyperexport.jobs.runner import LeaseUser, Shared, Slots, StepRunner
from hyperexport.model.damaged import DamagedExport
from hyperexport.model.drill import DrillRecord
from hyperexport.model.ownership import Run
from hyperexport.model.restore import RestoreResult
from hyperexport.model.transport import Transport
from hyperexport.model.vm import VmInfo, VmRef
from hyperexport.notify import Notifier
from hyperexport.options.form import Tabs
from hyperexport.options.groups import Bandwidth, Destination, Email
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import ExportResult, SetupFinding, VerifiedExport
from hyperexport.steps.liveness import AtWork, IsOver
from hyperexport.steps.logins import Logins
from hyperexport.steps.step import policy_of
from hyperexport.store.base import StoredExport
from hyperexport.store.s3_settings import S3Settings
from hyperexport.tasks import events
from hyperexport.tasks.artifacts import artifact_key, progress_artifacts, show_markdown
from hyperexport.tasks.attempts import attempt, will_retry
from hyperexport.tasks.bandwidth import throttle_of
from hyperexport.tasks.lease_limits import lease_slots
from hyperexport.tasks.liveness import run_is_at_work, run_is_over, run_may_be_at_work
from hyperexport.tasks.logs import send_engine_logs_to_prefect
from hyperexport.tasks.notifiers import open_notifiers
from hyperexport.tasks.registry import task_of
from hyperexport.tasks.restore_points import offer
from hyperexport.tasks.run_keys import sign_tags_of
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.views.markdown import pages_markdown
from hyperexport.views.pages import markdown_of, rows_of
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.session import Session

P = ParamSpec("P")
R = TypeVar("R")

VSphere = Annotated[VSphereCredentials | str | None, Tabs("Saved block", "Name", "Worker's environment")]
"""A saved block, its name, or None for the environment of the process that the flow runs in (``GOVC_*``)."""

SECONDS_TO_STOP: Final = 8.0
"""How long threads that move bytes are waited for when a run is stopped, so that its cleanup begins within ten seconds;
Prefect kills the process after 30."""


class PrefectRunner(StepRunner):
    """Carries out the steps of the flow run that makes it.

    Args:
        vsphere: The vSphere credentials block, or its name; the environment if None.
        shared: What the fleet shares that this run is a part of.
    """

    def __init__(self, vsphere: VSphere = None, *, shared: Shared | None = None) -> None:
        send_engine_logs_to_prefect()
        url = url_for("flow-run", obj_id=flow_run.id) if flow_run.id else None
        super().__init__(Run(str(flow_run.name or flow_run.id), url), id=str(flow_run.id or ""), shared=shared)
        self._vsphere: VSphere = vsphere
        self._logins: Logins | None = None
        if flow_run.id:
            sign_tags_of(str(flow_run.id))

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1, as Prefect counts."""
        return attempt()

    @property
    def will_retry(self) -> bool:
        """By the retries that the flow was given."""
        return will_retry()

    def __call__(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the step's task."""
        task = cast("Callable[..., R]", task_of(step))
        try:
            return task(*map(quote, args), **_quoted(kwargs))
        except BaseException as error:
            note_step(error, policy_of(step).name)
            raise

    def side_by_side(
        self, step: Callable[..., R], calls: Sequence[Mapping[str, Any]], *, max_concurrency: int, stop: StopSignal
    ) -> list[R]:
        """Run the step's task in the threads of a task runner."""
        task = task_of(step)
        with ExitStack() as stack:
            runner = cast(
                "ThreadPoolTaskRunner[R]",
                stack.enter_context(ThreadPoolTaskRunner(max_workers=max_concurrency)),  # pyright: ignore[reportUnknownArgumentType]
            )
            futures = [cast("PrefectFuture[R]", runner.submit(task, _quoted(call))) for call in calls]  # pyright: ignore[reportUnknownMemberType]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException as error:
                note_step(error, policy_of(step).name)
                stop.set()
                if wait(futures, timeout=SECONDS_TO_STOP).not_done:
                    # Its socket is closed, so what hangs is a question to a server; the runner's own end would wait.
                    stack.pop_all()
                raise
            return [future.result() for future in futures]

    def endpoint(self) -> VSphereEndpoint:
        """The block's, or the environment's.

        Raises:
            UsageError: There is no such block, or a field of it is invalid.
        """
        if self._vsphere is None:
            return VSphereEndpoint.from_environment()
        return block_of(self._vsphere).get_endpoint()

    def s3_settings(self, destination: Destination) -> S3Settings | None:
        """Those of the block that the options name."""
        if destination.s3_credentials is None:
            return None
        from hyperexport.blocks.s3_credentials import load_s3_settings  # noqa: PLC0415 - prefect-aws takes a second to import

        return load_s3_settings(destination.s3_credentials, endpoint=destination.s3_endpoint)

    def bandwidth(self, wanted: Bandwidth) -> AbstractContextManager[Throttle]:
        """The fleet's, or one that may pay from a shared budget."""
        return nullcontext(self.shared.throttle) if self.shared else throttle_of(wanted)

    def lease_slots(self, job: LeaseUser) -> AbstractContextManager[Slots]:
        """Slots of every limit that the options name."""
        return lease_slots(job)

    def notifiers(self, email: Email, *, mails: bool | None = None) -> tuple[Notifier, ...]:
        """The mail server and the saved notification blocks."""
        return open_notifiers(email, mails=mails)

    @property
    def is_over(self) -> IsOver:
        """By the process table, Prefect and the run's login."""
        return partial(run_is_over, logins=self._logins)

    @property
    def at_work(self) -> AtWork:
        """By the process table, Prefect and the run's login."""
        return partial(run_is_at_work, logins=self._logins)

    @property
    def may_be_at_work(self) -> AtWork:
        """Also those of which Prefect says nothing because it does not answer."""
        return partial(run_may_be_at_work, logins=self._logins)

    def watch_logins(self, session: Session, stop: StopSignal) -> None:
        """Ask this server for the logins of other runs."""
        self._logins = Logins(session, stop)

    def check_orchestrator(
        self, options: ExportOptions, vcenter: str | None, vms: Sequence[VmInfo]
    ) -> list[SetupFinding]:
        """Ask the Prefect server for what an export asks of it."""
        from hyperexport.tasks.check_prefect import look_at_prefect  # noqa: PLC0415 - only a check needs it

        return self(look_at_prefect, options, vcenter, vms)

    def progress(self, vm: VmRef | None = None) -> AbstractContextManager[None]:
        """While the block runs, keep progress artifacts."""
        return progress_artifacts(vm)

    def show_markdown(self, key: Sequence[str], markdown: Callable[[], str], title: str) -> None:
        """Create a Markdown artifact."""
        show_markdown(artifact_key(*key), markdown(), title)

    def show_result(self, key: Sequence[str], result: object, title: str) -> None:
        """Create a Markdown artifact of the result's page."""
        show_markdown(artifact_key(*key), markdown_of(result), title)

    def show_rows(self, key: Sequence[str], values: Iterable[object], title: str) -> None:
        """Create a Markdown artifact of one table."""
        self.show_table(key, lambda: rows_of(values), title)

    def show_table(self, key: Sequence[str], rows: Callable[[], list[dict[str, object]]], title: str) -> None:
        """A page: in a table artifact Prefect's UI cuts a cell off, and shows a dash as a bullet."""
        table = Page(title, display.table("", rows()))
        show_markdown(artifact_key(*key), pages_markdown([table]), title)

    def export_completed(self, result: ExportResult) -> None:
        """Emit the event."""
        events.emit_export_completed(result)

    def export_failed(self, vm: VmRef | str, error: BaseException, *, stopped: bool) -> None:
        """Emit the event."""
        events.emit_export_failed(vm, error, stopped=stopped)

    def restore_completed(self, result: RestoreResult) -> None:
        """Emit the event."""
        events.emit_restore_completed(result)

    def restore_failed(self, vm: VmRef | str, error: BaseException, *, stopped: bool) -> None:
        """Emit the event."""
        events.emit_restore_failed(vm, error, stopped=stopped)

    def snapshot_leaked(self, vm: VmRef, *, moref: str, name: str, vcenter: str) -> None:
        """Emit the event."""
        events.emit_snapshot_leaked(vm, moref=moref, name=name, vcenter=vcenter)

    def transport_distrusted(self, vm: VmRef, *, disk: str, transport: Transport, reason: str) -> None:
        """Emit the event."""
        events.emit_transport_distrusted(vm, disk=disk, transport=transport, reason=reason)

    def offer_restore_points(self, names: Sequence[str]) -> None:
        """Offer them in the form of the deployment that picks one."""
        offer(names)

    def drill_finished(self, record: DrillRecord) -> None:
        """Emit the event."""
        events.emit_drill_finished(record)

    def export_damaged(self, export: StoredExport | DamagedExport, verified: VerifiedExport) -> None:
        """Emit the event."""
        events.emit_export_damaged(export, verified)


def _quoted(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Have Prefect pass a task's arguments as they are; it searches all others for the results of other tasks."""
    return {name: quote(value) for name, value in arguments.items()}


def block_of(vsphere: VSphereCredentials | str) -> VSphereCredentials:
    """Load a vSphere credentials block, unless it is one.

    Raises:
        UsageError: There is no block of this name, or a field of it is invalid.
    """
    if isinstance(vsphere, VSphereCredentials):
        return vsphere
    return load_vsphere(vsphere)
