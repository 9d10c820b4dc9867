"""What a killed run left behind, found by the mark in the thing itself, and removed once the run is provably over."""

import logging
from typing import NamedTuple

from hyperexport.errors import HyperExportError, Interrupted
from hyperexport.model.ownership import Owner
from hyperexport.policy.snapshots import SnapshotPlan
from hyperexport.steps.folders import folders_of
from hyperexport.steps.job import Job
from hyperexport.steps.liveness import IsOver
from hyperexport.steps.snapshots import remove_snapshot
from hyperexport.store.base import AbandonedStaging, Store
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.sessions import end_session, marked_sessions

logger = logging.getLogger(__name__)


def remove_leftovers(job: Job, plan: SnapshotPlan, is_over: IsOver) -> list[str]:
    """Remove what dead runs of this VM left: their snapshots, half-written exports and uploads.

    Returns:
        The names of what is gone; each is a warning of the run, too.
    """
    end_abandoned_sessions(job.session, is_over)
    removed = remove_abandoned_snapshots(job, plan)
    for store in job.stores:
        for folder in sorted({*folders_of(store, job.ref, job.identity), job.folder_in(store)}):
            stagings = remove_abandoned_stagings(store, folder, is_over, of=job.owner)
            removed += stagings.removed
            for words in stagings.failed:
                job.warn(f"left by an earlier run, and could not be removed: {words}")
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
    for key, owner in marked_sessions(session):
        if is_over(owner):
            logger.warning("ending the session that run %s of %s left on %s", owner.run, owner.host, session.address)
            ended += end_session(session, key)
    return ended


def remove_abandoned_snapshots(job: Job, plan: SnapshotPlan) -> list[str]:
    """Remove the snapshots of this VM that dead runs of ours left, as planned; a user's are never among them.

    Returns:
        Their names.
    """
    for snapshot in plan.abandoned:
        logger.warning("%s: removing snapshot %s, left by a run that is over", job.vm.name, snapshot.name)
        remove_snapshot(job, snapshot.moref, snapshot.name)
    return [snapshot.name for snapshot in plan.abandoned]


def abandoned_stagings(
    store: Store, folder: str | None, is_over: IsOver, *, of: Owner | None = None
) -> list[AbandonedStaging]:
    """Find half-written exports whose runs are over.

    Args:
        store: Where to look.
        folder: One folder, or None for the whole store.
        is_over: Proves that an owner's run is over.
        of: The run whose VM they must be of; None for those of every VM.
    """
    return [
        staging
        for staging in store.abandoned(folder)
        if staging.owner is not None and (of is None or staging.owner.may_share_vm(of)) and is_over(staging.owner)
    ]


class Removed(NamedTuple):
    """What became of half-written exports."""

    removed: list[str]
    """``<vm folder>/<export id>`` of each that is gone."""
    failed: list[str]
    """The others that should be, each with its reason."""


def remove_abandoned_stagings(store: Store, folder: str | None, is_over: IsOver, *, of: Owner | None = None) -> Removed:
    """Remove half-written exports whose runs are over.

    Args:
        store: Where to look.
        folder: One folder, or None for the whole store.
        is_over: Proves that an owner's run is over.
        of: The run whose VM they must be of; None for those of every VM.

    Returns:
        What was removed, and what could not be; one that fails is no reason to leave the others.

    Raises:
        StoreUnusable, StoreUnreachable: Nobody knows which there are.
    """
    removed: list[str] = []
    failed: list[str] = []
    for staging in abandoned_stagings(store, folder, is_over, of=of):
        try:
            store.remove_abandoned(staging)
        except Interrupted:
            raise
        except HyperExportError as error:
            logger.warning("%s: %s could not be removed: %s", store.url, staging, error)
            failed.append(f"{staging}: {error}")
            continue
        logger.warning("%s: removed the half-written export %s of a run that is over", store.url, staging)
        removed.append(str(staging))
    try:
        for name in store.sweep(folder):
            logger.info("%s: swept up what a crash left of %s", store.url, name)
    except Interrupted:
        raise
    except HyperExportError as error:
        failed.append(f"what a crash left in {store.url}: {error}")
    return Removed(removed, failed)
