"""What dead runs left anywhere on a vCenter and in the stores: found by its mark, and removed. Safe to repeat."""

import logging
from collections.abc import Collection

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError
from hyperexport.model.identity import VmIdentity
from hyperexport.model.progress import Progress, Stage, report
from hyperexport.policy.snapshots import SnapshotState, TaggedSnapshot, classify_snapshots
from hyperexport.steps.leftovers import end_abandoned_sessions
from hyperexport.steps.liveness import IsOver
from hyperexport.steps.orphans import Removed, abandoned_stagings, remove_abandoned_stagings
from hyperexport.steps.step import step
from hyperexport.store.base import Store
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.snapshot_survey import snapshots_of_all_vms
from hyperexport.vsphere.snapshots import remove_snapshot

logger = logging.getLogger(__name__)


@step("find-snapshots", retried=True)
def find_tagged_snapshots(session: Session, is_over: IsOver, runs: Collection[str] = ()) -> list[TaggedSnapshot]:
    """Find every snapshot of the vCenter that has our tag, and say what becomes of it.

    The logins of dead runs are ended first: a lease that they hold keeps its VM's snapshots from being removed.

    Args:
        session: The login.
        is_over: Proves that an owner's run is over.
        runs: Runs that the user named, whose kept snapshots go, too.
    """
    end_abandoned_sessions(session, is_over)
    address, server = session.address, session.instance_uuid
    return [
        tagged
        for ref, tree in snapshots_of_all_vms(session)
        for tagged in classify_snapshots(
            ref, tree, vm=VmIdentity.of(ref, vcenter=address, vcenter_uuid=server), is_over=is_over, runs=runs
        )
    ]


@step("reap-stagings", run_name="reap {store.url}", retried=True)
def reap_stagings(store: Store, is_over: IsOver, *, dry_run: bool) -> Removed:
    """Remove the half-written exports of dead runs, or only say which they are."""
    if dry_run:
        return Removed([str(staging) for staging in abandoned_stagings(store, None, is_over)], [])
    return remove_abandoned_stagings(store, None, is_over)


@step("reap-snapshot", run_name="reap {tagged.snapshot.name} of {tagged.vm.name}")
def reap(session: Session, tagged: TaggedSnapshot, *, stop: StopSignal) -> str | None:
    """Remove an abandoned snapshot and wait for its consolidation; leave any other alone.

    Returns:
        Why it could not be removed; None where it is gone or stays by intention.

    Raises:
        Interrupted: The run was stopped; vSphere completes the removal.
    """
    if tagged.state is not SnapshotState.ABANDONED:
        return None
    vm, snapshot = tagged.vm, tagged.snapshot

    def on_progress(percent: int) -> None:
        report(Progress(vm, snapshot.name, Stage.REMOVE_SNAPSHOT, percent, 100, 0))

    logger.warning("%s: removing snapshot %s, left by run %s", vm.path, snapshot.name, tagged.owner.run)
    stop.check()
    try:
        remove_snapshot(session, vm, snapshot.moref, on_progress=on_progress, stop=stop)
    except HyperExportError as error:
        stop.check()
        logger.error("%s", error)
        return str(error)
    report(Progress(vm, snapshot.name, Stage.REMOVE_SNAPSHOT, 100, 100, 0, done=True))
    return None
