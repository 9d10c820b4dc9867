"""The steps of an export as Prefect tasks, for the runbook (``hyperexport/runbook.py``)."""

from collections.abc import Sequence

from hyperexport.flows.parallel import side_by_side
from hyperexport.model.manifest import SnapshotRecord
from hyperexport.model.rates import RateRecorder
from hyperexport.results import ExportResult
from hyperexport.runbook import DiskMove, Steps
from hyperexport.steps.job import Job
from hyperexport.steps.staging import Copies, Entries
from hyperexport.tasks.artifacts import artifact_key, show_markdown
from hyperexport.tasks.change_tracking import enable_change_tracking, plan_change_tracking
from hyperexport.tasks.cleanup import clean_up
from hyperexport.tasks.disks import export_disk
from hyperexport.tasks.events import tell_of_leak
from hyperexport.tasks.inspect import check_export, plan_export
from hyperexport.tasks.lease_limits import lease_slots
from hyperexport.tasks.package import describe_vm, export_nvram, publish_export
from hyperexport.tasks.snapshots import plan_snapshots, remove_leftovers, remove_snapshot, take_snapshot, tidy_snapshots
from hyperexport.tasks.verify import verify_export
from hyperexport.views.summary import export_markdown


def as_tasks() -> Steps:
    """Each step as the task of its name."""
    return Steps(
        check_export=check_export,
        plan_snapshots=plan_snapshots,
        plan_change_tracking=plan_change_tracking,
        remove_leftovers=remove_leftovers,
        enable_change_tracking=enable_change_tracking,
        take_snapshot=take_snapshot,
        plan_export=plan_export,
        lease_slots=lease_slots,
        export_disks=export_disks,
        export_nvram=export_nvram,
        describe_vm=describe_vm,
        remove_snapshot=remove_snapshot,
        publish_export=publish_export,
        verify_export=verify_export,
        tidy_snapshots=tidy_snapshots,
        clean_up=clean_up,
        leaked=tell_of_leaked_snapshot,
    )


def export_disks(
    job: Job, copies: Copies, moves: Sequence[DiskMove], snapshot: str | None, at_once: int
) -> list[Entries]:
    """Run the task of each disk, so many side by side."""
    calls = [{"job": job, "copies": copies, "plan": plan, "disk": disk, "snapshot": snapshot} for plan, disk in moves]
    return side_by_side(export_disk, calls, at_once=at_once, stop=job.stop)


def tell_of_leaked_snapshot(job: Job, snapshot: SnapshotRecord) -> None:
    """Tell automations of it."""
    tell_of_leak(job.ref, moref=snapshot.moref, name=snapshot.name, vcenter=job.session.address)


def show_result(job: Job, result: ExportResult, *, recorder: RateRecorder) -> None:
    """Leave the closing page with the run."""
    kind, title = ("plan", "Plan for") if result.dry_run and not result.recent else ("export", "Export of")
    title = "Nothing to do for" if result.recent else title
    show_markdown(
        artifact_key(kind, job.vm.name), export_markdown(result, recorder.rates), f"{title} {job.vm.ref.path}"
    )
