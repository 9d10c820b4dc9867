"""What a killed run left behind, found by the mark in the thing itself, and removed once the run is provably over."""

import logging
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from hyperexport.ownership import Owner
from hyperexport.policy.snapshots import SnapshotPlan
from hyperexport.steps.job import Job
from hyperexport.steps.snapshots import remove_snapshot
from hyperexport.store.base import AbandonedStaging, Store

logger = logging.getLogger(__name__)

IsOver = Callable[[Owner], bool]
"""Tells whether an owner's run is provably over; False whenever there is doubt."""


def on_this_machine(owner: Owner) -> bool:
    """Tell whether the run's process is, or was, on this machine, so that its process table can prove its end."""
    return owner.host == socket.gethostname()


def process_is_over(owner: Owner) -> bool:
    """Prove from the process table that the run is over: it was on this machine, and its process is gone.

    A run on another machine is never proven over here; the orchestrator has to say. A process id that was given
    again counts as gone when its process began after the mark was made.
    """
    if not on_this_machine(owner) or owner.pid == os.getpid():
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    began = _process_start(owner.pid)
    return began is not None and began > owner.started


def _process_start(pid: int) -> datetime | None:
    """When a process began, where the system tells (Linux: proc(5), the folder's own time stamp)."""
    try:
        return datetime.fromtimestamp(Path(f"/proc/{pid}").stat().st_ctime, UTC)
    except OSError:
        return None


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
