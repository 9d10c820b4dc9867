"""What a killed run left behind, found by the mark in the thing itself, and removed once the run is provably over."""

import logging
from collections.abc import Iterable

from hyperexport.errors import HyperExportError, Interrupted
from hyperexport.model.vm import SnapshotInfo
from hyperexport.policy.snapshots import SnapshotPlan
from hyperexport.steps.folders import folders_of
from hyperexport.steps.job import Job
from hyperexport.steps.liveness import IsOver
from hyperexport.steps.orphans import remove_abandoned_stagings
from hyperexport.steps.snapshots import remove_snapshot
from hyperexport.steps.step import step
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.sessions import end_session, tagged_sessions

logger = logging.getLogger(__name__)


@step("remove-leftovers")
def remove_leftovers(job: Job, plan: SnapshotPlan) -> list[str]:
    """Remove what dead runs of this VM left: their snapshots, half-written exports and uploads.

    Kept snapshots go, too, where there are more of them than ``--keep-snapshots`` keeps, or the chain is full.

    Returns:
        The names of what is gone; each is a warning of the run, too.
    """
    end_abandoned_sessions(job.session, job.is_over)
    removed = remove_each(job, plan.abandoned, "left by a run that is over")
    remove_each(job, plan.removed_first, plan.why_removed)
    for store in job.stores:
        for folder in sorted({*folders_of(store, job.ref, job.identity), job.folder_in(store)}):
            stagings = remove_abandoned_stagings(store, folder, job.is_over, of=job.owner)
            removed += stagings.removed
            for words in stagings.failed:
                job.warn(f"left by an earlier run, and could not be removed: {words}")
        for words in store.warnings():
            job.warn(f"{store.url}: {words}")
    for name in removed:
        job.warn(f"removed {name}, left by an earlier run that did not end")
    return removed


def end_abandoned_sessions(session: Session, is_over: IsOver) -> int:
    """End the logins that dead runs left, and with them the leases that they hold on their VMs.

    Without the privilege Sessions.TerminateSession they are not seen; then the server ends them by itself, a lease
    after five minutes and a login after thirty.

    Returns:
        How many there were.
    """
    ended = 0
    for login in tagged_sessions(session) or ():
        if is_over(login.owner):
            run, host = login.owner.run, login.owner.host
            logger.warning("ending the session that run %s of %s left on %s", run, host, session.address)
            ended += end_session(session, login.key)
    return ended


def remove_each(job: Job, snapshots: Iterable[SnapshotInfo], why: str) -> list[str]:
    """Remove snapshots of this VM, as planned. One that cannot be removed is a warning, and keeps no other.

    Returns:
        The names of those that are gone.
    """
    gone: list[str] = []
    for snapshot in snapshots:
        logger.warning("%s: removing snapshot %s: %s", job.vm.name, snapshot.name, why)
        try:
            remove_snapshot(job, snapshot.moref, snapshot.name)
        except Interrupted:
            raise
        except HyperExportError as error:
            job.stop.check()
            job.warn(f"snapshot {snapshot.name} stays ({why}): {error}")
        else:
            gone.append(snapshot.name)
    return gone
