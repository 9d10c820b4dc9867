"""Switching change tracking on, where that was asked for."""

from hyperexport.policy.change_tracking import TrackingPlan
from hyperexport.policy.snapshots import SnapshotPlan
from hyperexport.steps import change_tracking
from hyperexport.steps.job import Job
from hyperexport.tasks.step import repeatable, step


@step(name="plan-change-tracking", task_run_name="plan change tracking")
def plan_change_tracking(job: Job, snapshots: SnapshotPlan) -> TrackingPlan:
    """Decide whether change tracking is switched on; never unless it was asked for."""
    return change_tracking.make_tracking_plan(job, snapshots)


@repeatable(name="enable-change-tracking", task_run_name="enable change tracking")
def enable_change_tracking(job: Job) -> None:
    """Switch change tracking on in the VM's configuration."""
    change_tracking.enable_change_tracking(job)
