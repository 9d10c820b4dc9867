"""The job that says what an incremental export of a VM would transfer, and why."""

from hyperexport.jobs.export import fail_on_leak, prepare_job, snapshot_for
from hyperexport.jobs.runner import StepRunner
from hyperexport.options.precedence import ExportOptions
from hyperexport.policy.export_plan import ExportPlan
from hyperexport.steps import plan, snapshots
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.vsphere.session import connect


def incremental_info(run: StepRunner, vm: str, options: ExportOptions) -> ExportPlan:
    """Say, disk by disk, what an incremental export would transfer, and why.

    Args:
        run: Carries out the steps.
        vm: The VM's name or its whole inventory path, exactly.
        options: Those in force, as :func:`only_looking` makes them.

    Raises:
        SnapshotLeaked: The snapshot that was made for it could not be removed.
    """
    run.check_options(options)
    with run.stop_signal() as stop, connect(run.endpoint(), stop=stop, run=run.id) as session:
        job = prepare_job(run, session, vm, options, stop=stop, throttle=Throttle(None))
        with run.progress(job.ref):
            snapshot_plan = run(snapshots.make_snapshot_plan, job)
            with snapshot_for(run, job, snapshot_plan.make, []) as snapshot:
                found = run(plan.make_plan, job, snapshot.moref if snapshot else None)

    run.show_result(("plan", job.vm.name), found, f"Plan for {job.vm.ref.path}")
    fail_on_leak(job, f"the analysis of {job.ref.path} is done")
    return found


def only_looking(options: ExportOptions) -> ExportOptions:
    """The options for an analysis: incremental, and nothing stays on the VM or goes from it."""
    looking = {"incremental": True, "keep_snapshots": 0, "delete_snapshot": True, "consolidate_snapshots": False}
    return ExportOptions.from_keys({**options.given_keys(), **looking})
