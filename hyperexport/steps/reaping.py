"""What dead runs left anywhere on a vCenter and in the stores: found by its mark, and removed. Safe to repeat."""

import logging

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError
from hyperexport.model.progress import Progress, Stage, report
from hyperexport.policy.snapshots import Fate, MarkedSnapshot, judge
from hyperexport.steps.liveness import IsOver
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.snapshot_survey import snapshots_of_all_vms
from hyperexport.vsphere.snapshots import remove_snapshot

logger = logging.getLogger(__name__)


def find_marked(session: Session, is_over: IsOver) -> list[MarkedSnapshot]:
    """Find every snapshot of the vCenter that bears our mark, and say what becomes of it."""
    return [
        marked
        for vm, tree in snapshots_of_all_vms(session)
        if vm.instance_uuid
        for marked in judge(vm, tree, is_over=is_over)
    ]


def reap(session: Session, marked: MarkedSnapshot, *, stop: StopSignal) -> str | None:
    """Remove an abandoned snapshot and wait for its consolidation; leave any other alone.

    Returns:
        Why it could not be removed; None where it is gone or stays by intention.

    Raises:
        Interrupted: The run was stopped; vSphere goes on with the removal by itself.
    """
    if marked.fate is not Fate.ABANDONED:
        return None
    vm, snapshot = marked.vm, marked.snapshot

    def on_progress(percent: int) -> None:
        report(Progress(vm, snapshot.name, Stage.REMOVE_SNAPSHOT, percent, 100, 0))

    logger.warning("%s: removing snapshot %s, left by run %s", vm.path, snapshot.name, marked.owner.run)
    stop.check()
    try:
        remove_snapshot(session, vm, snapshot.moref, on_progress=on_progress, stop=stop)
    except HyperExportError as error:
        stop.check()
        logger.error("%s", error)
        return str(error)
    report(Progress(vm, snapshot.name, Stage.REMOVE_SNAPSHOT, 100, 100, 0, done=True))
    return None
