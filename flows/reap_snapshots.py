"""The flow that finds what dead runs left on a vCenter and in the stores, and removes it. Made to be scheduled."""

from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError, SnapshotLeaked
from hyperexport.flows.connections import (
    OPTIONS,
    Profile,
    VSphere,
    options_in_force,
    s3_settings,
    stop_signal,
    vsphere_session,
)
from hyperexport.flows.outcome import told_in_words
from hyperexport.options.form import Shown
from hyperexport.options.precedence import ExportOptions
from hyperexport.policy.snapshots import Fate, MarkedSnapshot
from hyperexport.results import ReapedSnapshot, ReapResult
from hyperexport.steps.stores import open_stores
from hyperexport.tasks.artifacts import artifact_key, progress_artifacts, show_table
from hyperexport.tasks.events import tell_of_leak
from hyperexport.tasks.reaping import find_snapshots, reap_snapshot, reap_stagings
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.vsphere.session import Session


def _run_name() -> str:
    return "reap snapshots (dry run)" if flow_run.parameters["dry_run"] else "reap snapshots"


@flow(name="reap-snapshots", flow_run_name=_run_name, persist_result=False)
@told_in_words
def reap_snapshots(
    vsphere: VSphere = None,
    dry_run: bool = False,
    options: Annotated[ExportOptions, Shown("destination")] = OPTIONS,
    profile: Profile = None,
) -> ReapResult:
    """Remove the snapshots and half-written exports that runs left which are provably over.

    Only what bears this tool's own mark is looked at. A snapshot that was kept on purpose stays; one whose run is
    not provably over is left alone, and reported with its age.

    Args:
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.
        dry_run: Only say what would be removed.
        options: Where the exports are. What is not set comes from the environment, the profile, the defaults.
        profile: A saved export profile, or its name.

    Raises:
        SnapshotLeaked: Something could not be removed; everything else was.
    """
    options = options_in_force(options, profile)
    dry_run = dry_run or options.execution.dry_run
    failed: list[str] = []
    with stop_signal() as stop, vsphere_session(vsphere, stop) as session, progress_artifacts():
        found = [_reap(session, marked, stop, dry_run=dry_run) for marked in find_snapshots(session)]
        stagings: list[str] = []
        for store in open_stores(
            options.destination, throttle=Throttle(None), stop=stop, s3=s3_settings(options.destination)
        ):
            try:
                reaped = reap_stagings(store, dry_run=dry_run)
                stagings += [f"{store.url}/{name}" for name in reaped.removed]
                failed += [f"{store.url}: {words}" for words in reaped.failed]
            except HyperExportError as error:
                stop.check()
                failed.append(f"{store.url}: {error}")
    failed += [item.action for item in found if item.action.startswith("NOT REMOVED")]
    result = ReapResult(
        dry_run=dry_run,
        vcenter=session.address,
        snapshots=tuple(found),
        stagings=tuple(stagings),
        failed=tuple(failed),
    )
    show_table(artifact_key("reap", session.address), rows_of(result), f"Left by dead runs on {session.address}")
    if failed:
        raise SnapshotLeaked(f"{len(failed)} leftovers could not be removed: {failed[0]}", fix="Run it again later")
    return result


def _reap(session: Session, marked: MarkedSnapshot, stop: StopSignal, *, dry_run: bool) -> ReapedSnapshot:
    """Do to one snapshot what its fate asks for."""
    if marked.fate is not Fate.ABANDONED:
        return ReapedSnapshot(found=marked, action="left alone")
    if dry_run:
        return ReapedSnapshot(found=marked, action="would be removed")
    tell_of_leak(marked.vm, moref=marked.snapshot.moref, name=marked.snapshot.name, vcenter=session.address)
    problem = reap_snapshot(session, marked, stop)
    return ReapedSnapshot(found=marked, action=f"NOT REMOVED: {problem}" if problem else "removed")


def rows_of(result: ReapResult) -> list[dict[str, object]]:
    """The rows of the run's table: snapshots, then half-written exports."""
    done = "would be removed" if result.dry_run else "removed"
    rows = [item.row() for item in result.snapshots]
    return rows + [{"snapshot": name, "state": "half-written export", "action": done} for name in result.stagings]
