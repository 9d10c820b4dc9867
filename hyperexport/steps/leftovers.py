"""What a killed run left behind, found by the mark in the thing itself, and removed once the run is provably over."""

import logging
import os
import socket
from collections.abc import Callable

from hyperexport.ownership import Owner, ProcessIdentity, identity_of
from hyperexport.policy.snapshots import SnapshotPlan
from hyperexport.steps.job import Job
from hyperexport.steps.snapshots import remove_snapshot
from hyperexport.store.base import AbandonedStaging, Store

logger = logging.getLogger(__name__)

IsOver = Callable[[Owner], bool]
"""Tells whether an owner's run is provably over; False whenever there is doubt."""


def on_this_machine(owner: Owner) -> bool:
    """Tell whether the run's process is, or was, on this machine, so that its process table can prove its end.

    A container's numbers mean nothing outside of it, even where the machine's name and boot are the same.
    """
    if owner.host != socket.gethostname():
        return False
    then, now = _recorded(owner), identity_of(os.getpid())
    return then is None or now is None or then.boot != now.boot or then.namespace == now.namespace


def process_is_over(owner: Owner) -> bool:
    """Prove from the process table that the run is over: it was on this machine, and its process is gone.

    A run on another machine is never proven over here; the orchestrator has to say. Neither is one whose number
    another process may have been given, unless the mark says which process it was. Never is a clock asked.
    """
    if not on_this_machine(owner):
        return False
    then, here = _recorded(owner), identity_of(os.getpid())
    if then and here and then.boot != here.boot:
        return True
    now = identity_of(owner.pid)
    if then and now:
        return then != now
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # somebody else's, of whom /proc may tell us nothing
    return then is not None and now is None  # it is a zombie: dead, and nobody has taken notice


def _recorded(owner: Owner) -> ProcessIdentity | None:
    return ProcessIdentity.parse(owner.process) if owner.process else None


def remove_abandoned_snapshots(job: Job, plan: SnapshotPlan) -> list[str]:
    """Remove the snapshots of this VM that dead runs of ours left, as planned; a user's are never among them.

    Returns:
        Their names.
    """
    for snapshot in plan.abandoned:
        logger.warning("%s: removing snapshot %s, left by a run that is over", job.vm.name, snapshot.name)
        remove_snapshot(job, snapshot.moref, snapshot.name)
    return [snapshot.name for snapshot in plan.abandoned]


def abandoned_stagings(store: Store, folder: str | None, is_over: IsOver) -> list[AbandonedStaging]:
    """Find half-written exports whose runs are over.

    Args:
        store: Where to look.
        folder: One VM's folder, or None for the whole store.
        is_over: Proves that an owner's run is over.
    """
    return [staging for staging in store.abandoned(folder) if staging.owner is not None and is_over(staging.owner)]


def remove_abandoned_stagings(store: Store, folder: str | None, is_over: IsOver) -> list[str]:
    """Remove half-written exports whose runs are over.

    Args:
        store: Where to look.
        folder: One VM's folder, or None for the whole store.
        is_over: Proves that an owner's run is over.

    Returns:
        ``<vm folder>/<export id>`` of each.
    """
    removed: list[str] = []
    for staging in abandoned_stagings(store, folder, is_over):
        store.remove_abandoned(staging)
        logger.warning("%s: removed the half-written export %s of a run that is over", store.url, staging)
        removed.append(str(staging))
    return removed
