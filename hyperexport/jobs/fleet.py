"""Many VMs: chosen once, exported side by side within the limits. One's failure is never another's."""

import contextvars
import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Final, Protocol

from hyperexport.base.stop import StopSignal
from hyperexport.errors import FleetFailure, HyperExportError, Interrupted, PartialFleetFailure
from hyperexport.jobs.direct import DirectRunner
from hyperexport.jobs.export import export_vm
from hyperexport.jobs.notices import notifying
from hyperexport.jobs.runner import Shared, StepRunner
from hyperexport.model.identity import VmIdentity
from hyperexport.model.progress_totals import FLEET, report_fleet
from hyperexport.model.vm import VmRef
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection
from hyperexport.policy.cleanup_candidates import Incoming
from hyperexport.policy.placement import Queue
from hyperexport.results import CleanupResult, ExportResult, FailureReport, FleetMember, FleetOutcome, FleetResult
from hyperexport.steps.cleanup import CleanupContext, clean_up_store
from hyperexport.steps.recent import recent_exports
from hyperexport.steps.selection import choose_vms
from hyperexport.steps.stores import open_stores
from hyperexport.steps.wall_clock import ServerTime, ask_server
from hyperexport.store.base import Store
from hyperexport.vsphere.inventory import VmRow
from hyperexport.vsphere.session import connect

logger = logging.getLogger("hyperexport.chosen")

SECONDS_TO_STOP: Final = 25
"""How long the exports are waited for when the run is stopped; Prefect kills the process after 30 s."""

ONCE_FOR_ALL: Final = {
    "email_notify": False,
    "notify_webhook": (),
    "cleanup": False,
    "cleanup_dry_run": False,
    "skip_newer_than": None,
}
"""What the fleet does itself, once, and therefore none of its exports."""

ExportOne = Callable[[str, ExportOptions, Shared], ExportResult]
"""Exports one VM, by its path, with what the fleet shares."""


ExportedBefore = Callable[[Sequence[VmRow], Sequence[Store]], dict[str, FleetMember]]
"""Finds the VMs that an earlier attempt of the same run exported, by managed object id."""


class DistributeExports(Protocol):
    """Has the VMs exported by other processes."""

    def __call__(
        self, due: Sequence[VmRow], options: ExportOptions, stores: Sequence[Store], stop: StopSignal
    ) -> dict[str, FleetMember]:
        """What came of each, by managed object id."""
        ...


def directly(run: DirectRunner) -> ExportOne:
    """Export each VM in this process, by a runner of its own."""

    def export_one(vm: str, options: ExportOptions, shared: Shared) -> ExportResult:
        return export_vm(run.child(shared), vm, options)

    return export_one


def export_fleet(
    run: StepRunner,
    selection: Selection,
    options: ExportOptions,
    *,
    export_one: ExportOne,
    spread: DistributeExports | None = None,
    exported_before: ExportedBefore | None = None,
    redo: Callable[[Sequence[FleetMember]], str],
    retry: str | None = None,
) -> FleetResult:
    """Export several virtual machines side by side.

    Args:
        run: Carries out the steps that concern all of them.
        selection: The VMs.
        options: Those in force.
        export_one: Exports one VM in this process.
        spread: Has them exported by other processes, with ``--spread``.
        exported_before: Finds what an earlier attempt of this run exported; it is not exported again.
        redo: The command that exports again what failed.
        retry: How Prefect does that with one click, where it can.

    Raises:
        PartialFleetFailure: Some of the VMs failed; the others are exported.
        FleetFailure: All of them failed.
        HyperExportError: No VM is chosen, or the VMs could not be looked up.
    """
    began = time.monotonic()
    run.check_options(options)
    place, dry_run = options.destination, options.execution.dry_run
    with (
        notifying(run, str(selection), options) as notices,
        run.stop_signal() as stop,
        run.bandwidth(options.bandwidth) as throttle,
    ):
        with connect(run.endpoint(), stop=stop, run=run.id) as session:
            choice = run(choose_vms, session, selection)
            chosen, missing = choice
            server = ask_server(session)
            identities = {
                row.ref.moref: VmIdentity.of(row.ref, vcenter=session.address, vcenter_uuid=session.instance_uuid)
                for row in chosen
                if not row.uuid_unread  # it may have one: its own export finds out, or is refused
            }
            warnings = notices.fleet_started(f"{len(chosen)} VMs", vcenter=session.address, export_format=place.format)
        logger.info("%s", choice)
        run.show_table(("chosen",), lambda: [chosen_row(row) for row in chosen], f"Chosen by {selection}")
        stores = open_stores(place, throttle=throttle, stop=stop, s3=run.s3_settings(place))
        skipped = exported_before(chosen, stores) if exported_before and not dry_run else {}
        rest = [row for row in chosen if row.ref.moref not in skipped]
        skipped |= leave_out_recent(rest, identities, stores, options, server=server)
        due = [row for row in rest if row.ref.moref not in skipped]
        each = ExportOptions.from_keys({**options.given_keys(), **ONCE_FOR_ALL})
        if spread and options.fleet.spread and not dry_run:
            exported = spread(due, each, stores, stop)
        else:
            shared = Shared(stop, throttle, {row.ref.path: row.ref for row in due}, {}, {})
            with run.progress(FLEET):
                exported = export_all(due, each, shared, export_one)
        members = (
            *(missing_member(name, error) for name, error in missing.items()),
            *(skipped.get(row.ref.moref) or exported[row.ref.moref] for row in chosen),
        )
        cleanups = clean_up_stores(run, stores, options, members, warnings=warnings, server=server)
    failed = [member for member in members if member.failed]
    result = FleetResult(
        dry_run=dry_run,
        members=members,
        cleanups=cleanups,
        warnings=tuple(warnings),
        redo=redo(failed) if failed else None,
        retry=retry if failed else None,
        seconds=time.monotonic() - began,
    )
    show(run, result)
    result = notices.fleet_ended(result)
    fail_on_members(result)
    return result


def show(run: StepRunner, result: FleetResult) -> None:
    """Leave the closing page of the fleet with the run."""

    def page() -> str:
        from hyperexport.views.fleet import fleet_markdown  # noqa: PLC0415 - only where pages are kept

        return fleet_markdown(result)

    run.show_markdown(("fleet",), page, result.summary)


def chosen_row(row: VmRow) -> dict[str, object]:
    """A row of the table of those who are chosen."""
    return {"VM": row.ref.path, "Power state": str(row.power_state), "Guest OS": row.guest_os}


def missing_member(name: str, error: HyperExportError) -> FleetMember:
    """A VM that was named and cannot be found: a failure of this VM only."""
    unknown = VmRef(moref="", name=name, path=name, instance_uuid="")
    return failed_member(unknown, FailureReport.of(error))


def failed_member(
    vm: VmRef, failure: FailureReport, seconds: float | None = None, *, url: str | None = None
) -> FleetMember:
    """A VM that failed, or whose run was stopped."""
    stopped = failure.code == Interrupted.code
    return FleetMember(
        vm=vm,
        outcome=FleetOutcome.STOPPED if stopped else FleetOutcome.FAILED,
        code=failure.code,
        message=str(failure),
        failure=failure,
        seconds=seconds,
        url=url,
    )


def leave_out_recent(
    chosen: Sequence[VmRow],
    identities: Mapping[str, VmIdentity],
    stores: Sequence[Store],
    options: ExportOptions,
    *,
    server: ServerTime | None,
) -> dict[str, FleetMember]:
    """Leave out the VMs that have a young export already, if that was asked for."""
    younger_than = options.fleet.skip_newer_than
    if younger_than is None:
        return {}
    recent = recent_exports(stores, list(identities.values()), younger_than, server=server)
    found = {
        row.ref.moref: recent.get(identities[row.ref.moref]) if row.ref.moref in identities else None for row in chosen
    }
    return {
        row.ref.moref: FleetMember(
            vm=row.ref, outcome=FleetOutcome.SKIPPED, message=f"{export} is newer than --skip-newer-than"
        )
        for row in chosen
        if (export := found[row.ref.moref]) is not None
    }


def export_all(
    due: Sequence[VmRow], options: ExportOptions, shared: Shared, export_one: ExportOne
) -> dict[str, FleetMember]:
    """Export the VMs as many at a time as there is room for, each in a thread.

    When this run is stopped, no other VM starts; those at work are stopped, and waited for while they clean up
    their snapshots: a cancellation reaches only the main thread.

    Returns:
        What came of each, by managed object id.
    """
    queue = Queue(due, options.fleet)
    members: dict[str, FleetMember] = {}
    report_fleet(0, len(due))
    with side_by_side(options.fleet.max_vms, shared.stop) as (pool, running):
        while True:
            while (row := queue.begin()) is not None:
                context = contextvars.copy_context()
                running[pool.submit(context.run, export_member, row, options, shared, export_one)] = row
            if not running:
                return members
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                row = running.pop(future)
                queue.done(row)
                members[row.ref.moref] = future.result()
                report_fleet(len(members), len(due))


@contextmanager
def side_by_side(
    max_concurrency: int, stop: StopSignal
) -> Generator[tuple[ThreadPoolExecutor, dict[Future[FleetMember], VmRow]]]:
    """A pool of threads and what runs in it. Left by an exception, the block stops them and waits for them."""
    running: dict[Future[FleetMember], VmRow] = {}
    with ThreadPoolExecutor(max_workers=max_concurrency, thread_name_prefix="vm") as pool:
        try:
            yield pool, running
        except BaseException:
            stop.set()
            wait(running, timeout=SECONDS_TO_STOP)
            raise


def export_member(row: VmRow, options: ExportOptions, shared: Shared, export_one: ExportOne) -> FleetMember:
    """Export one VM of the fleet; whatever becomes of it, the others go on.

    What is reported is what the export itself raised or returned, never an orchestrator's view of it.
    """
    began = time.monotonic()
    try:
        result = export_one(row.ref.path, options, shared)
    except Exception as error:
        failure = FailureReport.of(error)
        if not isinstance(error, HyperExportError):
            logger.debug("%s: %s", row.ref.path, failure, exc_info=True)
        return failed_member(row.ref, failure, time.monotonic() - began, url=_url(row, shared))
    return FleetMember(
        vm=row.ref,
        outcome=FleetOutcome.PLANNED if result.dry_run else FleetOutcome.EXPORTED,
        result=result,
        message="; ".join(result.warnings),
        seconds=time.monotonic() - began,
        url=_url(row, shared),
    )


def _url(row: VmRow, shared: Shared) -> str | None:
    run = shared.runs.get(row.ref.path)
    return run.url if run else None


def clean_up_stores(
    run: StepRunner,
    stores: Sequence[Store],
    options: ExportOptions,
    members: Sequence[FleetMember],
    *,
    warnings: list[str],
    server: ServerTime | None,
) -> tuple[CleanupResult, ...]:
    """Delete old exports once all VMs are done, if that was asked for and one is exported; a failure is a warning."""
    results = [member.result for member in members if member.result]
    dry_run = options.execution.dry_run
    cleanups: list[CleanupResult] = []
    own = frozenset(result.manifest.export_id for result in results if result.manifest)
    for index, store in enumerate(stores if options.cleanup.wanted and results else ()):
        cleanup_context = CleanupContext(incoming=planned_exports(index, results), own=own, server=server)
        try:
            done = run(clean_up_store, store, options.cleanup, dry_run, cleanup_context, run.is_over, run=run.id)
            warnings += [f"cleanup of {store.url}: {warning}" for warning in done.plan.warnings]
            cleanups.append(done)
        except HyperExportError as error:
            warnings.append(f"cleanup of {store.url} failed: {error}")
    return tuple(cleanups)


def planned_exports(index: int, results: Sequence[ExportResult]) -> tuple[Incoming, ...]:
    """What the planned exports of a dry run will add to the store of this number; nothing once they are there."""
    return tuple(result.incoming[index] for result in results if index < len(result.incoming))


def fail_on_members(result: FleetResult) -> None:
    """Fail where one VM failed, now that all of them had their turn.

    Raises:
        PartialFleetFailure, FleetFailure: They say how many, and how to do again what failed.
    """
    if not result.failed:
        return
    kind = FleetFailure if len(result.failed) == len(result.members) else PartialFleetFailure
    first = result.failed[0]
    error = kind(
        f"{len(result.failed)} of {len(result.members)} VMs failed, such as {first.vm.path}: {first.message}",
        fix=f"After fixing the cause, export only these again: `{result.redo}`",
    )
    error.fleet = result
    raise error
