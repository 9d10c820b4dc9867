"""Many VMs: chosen once, exported side by side within the limits, each as a flow run of its own."""

import contextvars
import logging
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Final

from prefect import flow
from prefect.runtime import flow_run

from hyperexport.base.stop import StopSignal
from hyperexport.errors import FleetFailure, HyperExportError, Interrupted, PartialFleetFailure
from hyperexport.flows.connections import (
    OPTIONS,
    Profile,
    VSphere,
    options_in_force,
    s3_settings,
    stop_signal,
    vsphere_session,
)
from hyperexport.flows.export_vm import export_vm
from hyperexport.flows.fleet_spread import export_spread
from hyperexport.flows.notifying import notifying
from hyperexport.flows.outcome import despite_prefect, told_in_words
from hyperexport.model.identity import VmIdentity
from hyperexport.model.vm import VmRef
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection, selection_in_force
from hyperexport.policy.placement import Queue
from hyperexport.policy.retention import Incoming
from hyperexport.results import CleanupResult, ExportResult, FleetMember, FleetOutcome, FleetResult
from hyperexport.steps.cleanup import Occasion
from hyperexport.steps.recent import recent_exports
from hyperexport.steps.stores import open_stores
from hyperexport.steps.wall_clock import ServerTime, ask_server
from hyperexport.store.base import Store
from hyperexport.tasks.artifacts import artifact_key, show_table
from hyperexport.tasks.bandwidth import bandwidth_for
from hyperexport.tasks.cleanup import clean_up
from hyperexport.tasks.inspect import already_found, choose_vms
from hyperexport.tasks.reporting import wait_for_prefect
from hyperexport.views.fleet import redo_command
from hyperexport.vsphere.inventory import VmRow

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


def _run_name() -> str:
    return f"export {Selection.model_validate(flow_run.parameters['selection'])}"[:120]


@flow(name="export-fleet", flow_run_name=_run_name, persist_result=False)
@told_in_words
def export_fleet(
    selection: Selection = Selection(),  # noqa: B008
    options: ExportOptions = OPTIONS,
    vsphere: VSphere = None,
    profile: Profile = None,
) -> FleetResult:
    """Export several virtual machines side by side. One's failure is never another's.

    Args:
        selection: The VMs: by name, folder, tag or pattern. The environment chooses (HYPEREXPORT_MATCH, ...) if empty.
        options: What to do with each, and how. What is not set comes from the environment, the profile, the defaults.
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.
        profile: A saved export profile, or its name.

    Raises:
        PartialFleetFailure: Some of the VMs failed; the others are exported.
        FleetFailure: All of them failed.
        HyperExportError: Nobody is chosen, or it could not be found out who is.
    """
    began = time.monotonic()
    given, options = options, options_in_force(options, profile)
    selection = selection_in_force(selection)
    with (
        notifying(str(selection), options) as notices,
        stop_signal() as stop,
        bandwidth_for(options.bandwidth) as throttle,
    ):
        with vsphere_session(vsphere, stop) as session:
            choice = choose_vms(session, selection)
            chosen, missing = choice
            server = ask_server(session)
            identities = {
                row.ref.moref: VmIdentity.of(row.ref, vcenter=session.address, vcenter_uuid=session.instance_uuid)
                for row in chosen
            }
            warnings = notices.fleet_started(
                f"{len(chosen)} VMs", vcenter=session.address, export_format=options.destination.format
            )
        logger.info("%s", choice)
        show_table(artifact_key("chosen"), [chosen_row(row) for row in chosen], f"Chosen by {selection}")
        stores = open_stores(options.destination, throttle=throttle, stop=stop, s3=s3_settings(options.destination))
        skipped = leave_out_recent(chosen, identities, stores, options, server)
        due = [row for row in chosen if row.ref.moref not in skipped]
        each = ExportOptions.from_keys({**options.given_keys(), **ONCE_FOR_ALL})
        if options.fleet.spread and not options.execution.dry_run:
            exported = export_spread(due, each, vsphere, stores, stop)
        else:
            with already_found([row.ref for row in due]):
                exported = export_all(due, each, vsphere, stop)
        members = (
            *(not_there(name, error) for name, error in missing.items()),
            *(skipped.get(row.ref.moref) or exported[row.ref.moref] for row in chosen),
        )
        cleanups = clean_stores(stores, options, members, warnings, server)
    failed = [member for member in members if member.failed]
    result = FleetResult(
        dry_run=options.execution.dry_run,
        members=members,
        cleanups=cleanups,
        warnings=tuple(warnings),
        redo=redo_command(failed, given, vsphere=_name(vsphere), profile=_name(profile)) if failed else None,
        seconds=time.monotonic() - began,
    )
    show_table(artifact_key("fleet"), [member.row() for member in members], result.summary)
    result = notices.fleet_ended(result)
    conclude(result)
    return result


def chosen_row(row: VmRow) -> dict[str, object]:
    """A row of the table of those who are chosen."""
    return {"VM": row.ref.path, "Power state": str(row.power_state), "Guest OS": row.guest_os}


def not_there(name: str, error: HyperExportError) -> FleetMember:
    """A VM that was named and cannot be found: its own failure, and nobody else's."""
    unknown = VmRef(moref="", name=name, path=name, instance_uuid="")
    return FleetMember(vm=unknown, outcome=FleetOutcome.FAILED, code=error.code, message=str(error))


def leave_out_recent(
    chosen: Sequence[VmRow],
    identities: Mapping[str, VmIdentity],
    stores: Sequence[Store],
    options: ExportOptions,
    server: ServerTime | None,
) -> dict[str, FleetMember]:
    """Leave out the VMs that have a young export already, if that was asked for."""
    younger_than = options.fleet.skip_newer_than
    if younger_than is None:
        return {}
    recent = recent_exports(stores, list(identities.values()), younger_than, server=server)
    found = {row.ref.moref: recent.get(identities[row.ref.moref]) for row in chosen}
    return {
        row.ref.moref: FleetMember(vm=row.ref, outcome=FleetOutcome.SKIPPED, message=f"{export} is young enough")
        for row in chosen
        if (export := found[row.ref.moref]) is not None
    }


def export_all(
    due: Sequence[VmRow], options: ExportOptions, vsphere: VSphere, stop: StopSignal
) -> dict[str, FleetMember]:
    """Export the VMs as many at a time as there is room for.

    Each export is a flow run in a thread of its own. When this run is stopped, nobody begins any more, those at work
    are told, and are waited for while they take back their snapshots: a cancellation reaches only the main thread.

    Returns:
        What came of each, by managed object id.
    """
    queue = Queue(due, options.fleet)
    members: dict[str, FleetMember] = {}
    with side_by_side(options.fleet.max_vms, stop) as (pool, running):
        while True:
            while (row := queue.begin()) is not None:
                future = pool.submit(contextvars.copy_context().run, export_member, row, options, vsphere)
                running[future] = row
            if not running:
                return members
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                row = running.pop(future)
                queue.done(row)
                members[row.ref.moref] = future.result()


@contextmanager
def side_by_side(
    at_once: int, stop: StopSignal
) -> Generator[tuple[ThreadPoolExecutor, dict[Future[FleetMember], VmRow]]]:
    """A pool of threads and what runs in it. Left by an exception, the block stops them and waits for them."""
    running: dict[Future[FleetMember], VmRow] = {}
    with ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="vm") as pool:
        try:
            yield pool, running
        except BaseException:
            stop.set()
            wait(running, timeout=SECONDS_TO_STOP)
            raise


def export_member(row: VmRow, options: ExportOptions, vsphere: VSphere) -> FleetMember:
    """Export one VM of the fleet; whatever becomes of it, the others go on."""
    began = time.monotonic()
    code, result = None, None
    try:
        wait_for_prefect()  # a run begins only where it can be entered
        result = despite_prefect(export_vm)(row.ref.path, options, vsphere=vsphere)
        outcome = FleetOutcome.PLANNED if result.dry_run else FleetOutcome.EXPORTED
        message = "; ".join(result.warnings)
    except Interrupted as error:
        outcome, code, message = FleetOutcome.STOPPED, error.code, str(error)
    except HyperExportError as error:
        outcome, code, message = FleetOutcome.FAILED, error.code, str(error)
    except Exception as error:  # noqa: BLE001 - its own flow run has the traceback
        outcome, code, message = FleetOutcome.FAILED, "internal", f"unexpected {type(error).__name__}"
    return FleetMember(
        vm=row.ref, outcome=outcome, result=result, code=code, message=message, seconds=time.monotonic() - began
    )


def clean_stores(
    stores: Sequence[Store],
    options: ExportOptions,
    members: Sequence[FleetMember],
    warnings: list[str],
    server: ServerTime | None,
) -> tuple[CleanupResult, ...]:
    """Delete old exports once all VMs are done, if that was asked for and one is exported; a failure is a warning."""
    results = [member.result for member in members if member.result]
    dry_run = options.execution.dry_run
    cleanups: list[CleanupResult] = []
    own = frozenset(result.manifest.export_id for result in results if result.manifest)
    for index, store in enumerate(stores if options.cleanup.wanted and results else ()):
        occasion = Occasion(incoming=coming(index, results), own=own, server=server)
        try:
            cleanup = clean_up(store, options.cleanup, dry_run=dry_run, occasion=occasion)
            warnings += [f"cleanup of {store.url}: {doubt}" for doubt in cleanup.plan.doubts]
            cleanups.append(cleanup)
        except HyperExportError as error:
            warnings.append(f"cleanup of {store.url} failed: {error}")
    return tuple(cleanups)


def coming(index: int, results: Sequence[ExportResult]) -> tuple[Incoming, ...]:
    """What the planned exports of a dry run will add to the store of this number; nothing once they are there."""
    return tuple(result.incoming[index] for result in results if index < len(result.incoming))


def conclude(result: FleetResult) -> None:
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
        fix=f"When the reason is mended, export only these again: {result.redo}",
    )
    error.fleet = result
    raise error


def _name(block: object) -> str | None:
    return block if isinstance(block, str) else None
