"""Finding and removing what dead runs left."""

from hyperexport.base.stop import StopSignal
from hyperexport.policy.snapshots import MarkedSnapshot
from hyperexport.steps import leftovers, reaping
from hyperexport.store.base import Store
from hyperexport.tasks.liveness import run_is_over
from hyperexport.tasks.step import repeatable, step
from hyperexport.vsphere.session import Session


@repeatable(name="find-snapshots")
def find_snapshots(session: Session) -> list[MarkedSnapshot]:
    """Find every snapshot of the vCenter that this tool made, and say which of them dead runs left."""
    leftovers.end_abandoned_sessions(session, run_is_over)
    return reaping.find_marked(session, run_is_over)


@step(name="reap-snapshot", task_run_name="reap {marked.snapshot.name} of {marked.vm.name}")
def reap_snapshot(session: Session, marked: MarkedSnapshot, stop: StopSignal) -> str | None:
    """Remove a snapshot that a dead run left; answers why it could not be removed, if so."""
    return reaping.reap(session, marked, stop=stop)


@repeatable(name="reap-stagings", task_run_name="reap {store.url}")
def reap_stagings(store: Store, *, dry_run: bool) -> leftovers.Removed:
    """Remove the half-written exports of dead runs, or only say which they are."""
    if dry_run:
        return leftovers.Removed([str(one) for one in leftovers.abandoned_stagings(store, None, run_is_over)], [])
    return leftovers.remove_abandoned_stagings(store, None, run_is_over)
