"""The steps of an export as plain calls in this process, for the runbook: no server, no database, no orchestrator.

They are the same functions that the Prefect tasks call, repeated where the tasks are. Whether an earlier run is over
is told by this machine's process table alone.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Final, NamedTuple, ParamSpec, TypeVar

from hyperexport.base.retry import repeating
from hyperexport.base.stop import StopSignal
from hyperexport.runbook import DiskMove, Steps
from hyperexport.steps import change_tracking, cleanup, disks, leftovers, package, plan, snapshots, verification
from hyperexport.steps.job import Job
from hyperexport.steps.liveness import process_is_over
from hyperexport.steps.staging import Copies, Entries

SECONDS_TO_STOP: Final = 8.0
"""How long threads that move bytes are waited for when a run is stopped, before its cleanup goes on without them."""

P = ParamSpec("P")
R = TypeVar("R")


def directly(stop: StopSignal) -> Steps:
    """Each step as a call of its function.

    Args:
        stop: Ends the waiting between two attempts at a step.
    """
    is_over = process_is_over

    def again(step: Callable[P, R]) -> Callable[P, R]:
        return repeating(step, stop)

    return Steps(
        check_export=plan.check_export,
        plan_snapshots=partial(again(snapshots.make_snapshot_plan), is_over=is_over),
        plan_change_tracking=change_tracking.make_tracking_plan,
        remove_leftovers=partial(leftovers.remove_leftovers, is_over=is_over),
        enable_change_tracking=again(change_tracking.enable_change_tracking),
        take_snapshot=again(snapshots.take_snapshot),
        plan_export=again(plan.make_plan),
        lease_slots=own_limits,
        export_disks=export_disks,
        export_nvram=again(package.export_nvram),
        describe_vm=again(package.describe_vm),
        remove_snapshot=snapshots.remove_snapshot,
        publish_export=package.publish,
        verify_export=again(verification.verify),
        tidy_snapshots=snapshots.tidy_snapshots,
        clean_up=partial(cleanup.clean_up, is_over=is_over),
    )


class OwnLimits(NamedTuple):
    """As many leases as the options allow; nobody else is asked."""

    at_once: int

    def release(self) -> None:
        """Nothing is held."""


def own_limits(job: Job) -> AbstractContextManager[OwnLimits]:
    """Let the run hold a lease for each disk that may move at once."""
    return nullcontext(OwnLimits(job.options.execution.parallel))


def export_disks(
    job: Job, copies: Copies, moves: Sequence[DiskMove], snapshot: str | None, at_once: int
) -> list[Entries]:
    """Move disks side by side, each in a thread, so many at a time.

    On the first failure, or an interruption of the thread that calls, the others are told to stop and are waited for,
    so that nothing reads any more from what is then cleaned up.

    Returns:
        The entries of each, in the order of ``moves``.
    """
    pool = ThreadPoolExecutor(at_once, thread_name_prefix=f"{job.vm.name}-disk")
    futures: list[Future[Entries]] = []
    try:
        for disk_plan, disk in moves:
            move = repeating(disks.export_disk, job.stop, f"{job.vm.name}: {disk_plan.label}")
            futures.append(pool.submit(move, job, copies, disk_plan, disk, snapshot))
        for future in as_completed(futures):
            future.result()
    except BaseException:
        job.stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        wait(futures, timeout=SECONDS_TO_STOP)
        raise
    pool.shutdown()
    return [future.result() for future in futures]
