"""The job that finds what dead runs left on a vCenter and in the stores, and removes it."""

from collections.abc import Collection

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError, SnapshotLeaked
from hyperexport.jobs.runner import StepRunner
from hyperexport.options.precedence import ExportOptions
from hyperexport.policy.snapshots import SnapshotState, TaggedSnapshot
from hyperexport.results import ReapedSnapshot, ReapResult
from hyperexport.steps import reaping, restoring
from hyperexport.steps.liveness import IsOver, over_or_acknowledged
from hyperexport.steps.stores import open_stores
from hyperexport.vsphere.session import Session, connect


def reap_snapshots(run: StepRunner, options: ExportOptions, runs: Collection[str] = ()) -> ReapResult:
    """Remove the snapshots, half-made VMs and half-written exports that runs left which are provably over.

    Args:
        run: Carries out the steps.
        options: Where the exports are.
        runs: Runs that the user says are over: what they left goes, too, and what they kept.

    Raises:
        SnapshotLeaked: Something could not be removed; everything else was.
    """
    run.check_options(options)
    place, dry_run = options.destination, options.execution.dry_run
    failed: list[str] = []
    stagings: list[str] = []
    with (
        run.stop_signal() as stop,
        connect(run.endpoint(), stop=stop, run=run.id) as session,
        run.progress(),
    ):
        run.watch_logins(session, stop)
        is_over = over_or_acknowledged(runs, run.is_over, run.may_be_at_work)
        tagged = run(reaping.find_tagged_snapshots, session, is_over, runs)
        found = [_reap(run, session, one, stop, dry_run=dry_run) for one in tagged]
        vms, unremoved = reap_vms(run, session, is_over, stop, dry_run=dry_run)
        failed += unremoved
        for store in open_stores(place, stop=stop, s3=run.s3_settings(place)):
            try:
                reaped = run(reaping.reap_stagings, store, is_over, dry_run=dry_run)
            except HyperExportError as error:
                stop.check()
                failed.append(f"{store.url}: {error}")
            else:
                stagings += [f"{store.url}/{name}" for name in reaped.removed]
                failed += [f"{store.url}: {words}" for words in (*reaped.failed, *reaped.kept)]
    failed += [item.action for item in found if item.problem is not None]
    result = ReapResult(
        dry_run=dry_run,
        vcenter=session.address,
        snapshots=tuple(found),
        vms=tuple(vms),
        stagings=tuple(stagings),
        failed=tuple(failed),
    )
    run.show_result(("reap", session.address), result, f"Left by dead runs on {session.address}")
    if failed:
        raise SnapshotLeaked(f"{len(failed)} orphans could not be removed: {failed[0]}", fix="Run it again later")
    return result


def reap_vms(
    run: StepRunner, session: Session, is_over: IsOver, stop: StopSignal, *, dry_run: bool
) -> tuple[list[str], list[str]]:
    """Destroy the VMs that restores of dead runs left half made.

    Returns:
        The paths of those that are gone, or in a dry run would be; and what could not be destroyed, with the reason.
    """
    gone: list[str] = []
    failed: list[str] = []
    try:
        found = run(restoring.find_partial_vms, session, is_over)
    except HyperExportError as error:
        stop.check()
        return [], [f"the orphans of restores could not be listed: {error}"]
    for made in found:
        problem = None if dry_run else run(restoring.destroy_partial, session, made, stop=stop)
        gone += [] if problem else [made.ref.path]
        failed += [problem] if problem else []
    return gone, failed


def _reap(
    run: StepRunner, session: Session, tagged: TaggedSnapshot, stop: StopSignal, *, dry_run: bool
) -> ReapedSnapshot:
    """Remove one snapshot, where its run is provably over."""
    if tagged.state is not SnapshotState.ABANDONED:
        return ReapedSnapshot(found=tagged, action="left alone")
    if dry_run:
        return ReapedSnapshot(found=tagged, action="would be removed")
    snapshot = tagged.snapshot
    run.snapshot_leaked(tagged.vm, moref=snapshot.moref, name=snapshot.name, vcenter=session.address)
    problem = run(reaping.reap, session, tagged, stop=stop)
    action = "removed" if problem is None else f"NOT REMOVED: {problem}"
    return ReapedSnapshot(found=tagged, action=action, problem=problem)
