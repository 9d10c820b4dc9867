"""From disks to an export: the small files, and the manifest that makes it visible."""

from hyperexport.model.manifest import SnapshotRecord
from hyperexport.policy.incremental import ExportPlan
from hyperexport.steps import package
from hyperexport.steps.job import Job
from hyperexport.steps.staging import Copies, Entries
from hyperexport.store.base import StoredExport
from hyperexport.tasks.step import repeatable, step


@repeatable(name="export-nvram", task_run_name="export nvram")
def export_nvram(job: Job, copies: Copies, snapshot: str | None) -> list[Entries]:
    """Download the VM's nvram, where it has one."""
    return package.export_nvram(job, copies, snapshot)


@repeatable(name="describe-vm", task_run_name="describe vm")
def describe_vm(
    job: Job, copies: Copies, disks: list[Entries], nvram: list[Entries], snapshot: str | None
) -> list[Entries]:
    """Write the descriptor, the checksums and the VM's configuration around the files that were moved."""
    return package.describe_vm(job, copies, disks, nvram, snapshot)


@step(name="publish-export", task_run_name="publish export")
def publish_export(
    job: Job, copies: Copies, files: list[Entries], plan: ExportPlan, snapshot: SnapshotRecord | None
) -> tuple[StoredExport, ...]:
    """Pack the files if an OVA was asked for, and write the manifest: from here on the export is there."""
    return package.publish(job, copies, files, plan, snapshot)
