"""What an export did, read back from what it left: for another process, such as a fleet on other machines."""

import logging
from collections.abc import Sequence

from hyperexport.errors import HyperExportError
from hyperexport.model.manifest import ExportManifest, FileEntry, vm_folder, whole_size
from hyperexport.model.vm import VmRef
from hyperexport.policy.export_plan import Decision, DiskPlan, ExportPlan
from hyperexport.results import ExportResult
from hyperexport.store.base import Store, StoredExport

logger = logging.getLogger(__name__)


def result_of_run(stores: Sequence[Store], vm: VmRef, run: str) -> ExportResult | None:
    """Find what a run exported of a VM.

    Args:
        stores: Where it may be, the primary store first.
        vm: The VM.
        run: The run's id, which its manifest names.

    Returns:
        The result as far as manifests tell it; None where no store that can be seen from here has it.
    """
    found = [(store, export) for store in stores for export in _of_run(store, vm, run)]
    if not found:
        return None
    manifest = found[0][1].manifest
    return ExportResult(
        dry_run=False,
        plan=_as_carried_out(manifest),
        manifest=manifest,
        locations=tuple(f"{store.url}/{export}" for store, export in found),
        warnings=manifest.warnings,
        seconds=manifest.transfer.seconds,
    )


def _of_run(store: Store, vm: VmRef, run: str) -> list[StoredExport]:
    """Look in the folder that the VM's name gives first, and where it is not there, in all."""
    for folder in (vm_folder(vm), None):
        found = [export for export in _exports(store, folder) if export.manifest.run == run]
        found = [export for export in found if export.manifest.vm.moref == vm.moref]
        if found:
            return found
    return []


def _exports(store: Store, folder: str | None) -> list[StoredExport]:
    try:
        return store.exports(folder)
    except HyperExportError as error:
        logger.warning("%s: what was exported cannot be listed: %s", store.url, error)
        return []


def _as_carried_out(manifest: ExportManifest) -> ExportPlan:
    """The plan that the export must have followed."""
    skipped = [
        DiskPlan(
            key=disk.key,
            label=disk.label,
            file_name="",
            capacity=0,
            decision=Decision.SKIP,
            reason=disk.reason,
            expected_bytes=0,
            whole_bytes=0,
        )
        for disk in manifest.skipped_disks
    ]
    return ExportPlan(
        vm=manifest.vm,
        kind=manifest.kind,
        reason=manifest.reason,
        base=manifest.base,
        last_full=manifest.last_full if manifest.base else None,
        disks=(*(_carried_out(entry, manifest) for entry in manifest.disks), *skipped),
    )


def _carried_out(entry: FileEntry, manifest: ExportManifest) -> DiskPlan:
    return DiskPlan(
        key=entry.disk_key or 0,
        label=entry.disk_label or entry.name,
        file_name=entry.name,
        capacity=entry.capacity or 0,
        decision=Decision.TRANSFER if entry.transferred else Decision.REUSE,
        reason="transferred" if entry.transferred else "unchanged",
        expected_bytes=entry.size if entry.received is None else entry.received,
        whole_bytes=whole_size(entry, manifest.files),
        transport=entry.transport,
    )
