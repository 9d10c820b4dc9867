"""The events for automations: one for each end of an export or restore, a leaked snapshot, a damaged export.

The resource is the VM by its identity, so that an automation can wait for each VM by itself. A payload holds facts
that the manifest or the error's own words hold too, and so no secret. Prefect sends events from a thread of its own;
what it does not take is a warning at most: a backup outlives its orchestrator.
"""

import logging
from typing import Any, Final

from prefect.events import emit_event

from hyperexport.errors import HyperExportError, failed_step
from hyperexport.model.damaged import DamagedExport
from hyperexport.model.drill import DrillRecord
from hyperexport.model.restore import RestoreResult
from hyperexport.model.transport import Transport
from hyperexport.model.vm import VmRef
from hyperexport.results import ExportResult, VerifiedExport
from hyperexport.store.base import StoredExport

logger = logging.getLogger(__name__)

COMPLETED: Final = "hyperexport.export.completed"
FAILED: Final = "hyperexport.export.failed"
STOPPED: Final = "hyperexport.export.stopped"
RESTORED: Final = "hyperexport.restore.completed"
RESTORE_FAILED: Final = "hyperexport.restore.failed"
RESTORE_STOPPED: Final = "hyperexport.restore.stopped"
LEAKED: Final = "hyperexport.snapshot.leaked"
DISTRUSTED: Final = "hyperexport.transport.distrusted"
DAMAGED: Final = "hyperexport.export.damaged"
PROVEN: Final = "hyperexport.drill.passed"
UNPROVEN: Final = "hyperexport.drill.failed"

RESOURCE: Final = "hyperexport.vm."
"""What the id of every resource begins with; the VM's instance uuid follows, or its name where that is unknown."""


def emit_export_completed(result: ExportResult) -> None:
    """Emit the event of a complete export; a dry run has none."""
    manifest = result.manifest
    if manifest is None:
        return
    payload = {
        "export": manifest.export_id,
        "kind": str(manifest.kind),
        "started": manifest.started.isoformat(),
        "seconds": round(result.seconds, 1),
        "bytes_transferred": manifest.transfer.bytes_transferred,
        "bytes_reused": manifest.transfer.bytes_reused,
        "bytes_stored": manifest.stored_bytes,
        "verified": result.verified,
        "warnings": len(result.warnings),
        "wrong_tracking": [entry.disk_label or entry.name for entry in manifest.disks if entry.distrusted],
        "locations": list(result.locations),
        "vcenter": manifest.vcenter,
    }
    _emit(COMPLETED, manifest.vm, payload)


def emit_export_failed(vm: VmRef | str, error: BaseException, *, stopped: bool) -> None:
    """Tell that there is no good export, and why.

    Args:
        vm: The VM; as it was asked for, where it was not found.
        error: What ended it.
        stopped: Whether the run was stopped from outside, so that nothing is wrong.
    """
    _emit(STOPPED if stopped else FAILED, vm, _payload_of(error))


def emit_restore_completed(result: RestoreResult) -> None:
    """Emit the event of a complete restore; the resource is the VM that was exported."""
    plan = result.plan
    payload = {
        "export": plan.export_id,
        "vm": result.vm.path if result.vm else plan.path,
        "moref": result.vm.moref if result.vm else "",
        "vcenter": plan.vcenter,
        "seconds": round(result.seconds, 1),
        "bytes_uploaded": result.uploaded,
        "verified": result.verified,
        "attached": list(result.attached),
        "warnings": len(result.warnings),
    }
    _emit(RESTORED, plan.source, payload)


def emit_restore_failed(vm: VmRef | str, error: BaseException, *, stopped: bool) -> None:
    """Tell that a restore failed or was stopped, and why; arguments as for :func:`emit_export_failed`."""
    _emit(RESTORE_STOPPED if stopped else RESTORE_FAILED, vm, _payload_of(error))


def _payload_of(error: BaseException) -> dict[str, Any]:
    known = isinstance(error, HyperExportError)
    return {
        "step": failed_step(error) or "before the first",
        "code": error.code if known else type(error).__name__,
        "message": str(error) if known else "unexpected; the run's log has its traceback",
    }


def emit_snapshot_leaked(vm: VmRef, *, moref: str, name: str, vcenter: str) -> None:
    """Emit the event of a snapshot of ours that is left on a VM."""
    _emit(LEAKED, vm, {"snapshot": name, "moref": moref, "vcenter": vcenter})


def emit_transport_distrusted(vm: VmRef, *, disk: str, transport: Transport, reason: str) -> None:
    """Tell that a disk was read whole, because its ranges or its change tracking were found to be wrong."""
    _emit(DISTRUSTED, vm, {"disk": disk, "transport": str(transport), "reason": reason})


def emit_export_damaged(export: StoredExport | DamagedExport, verified: VerifiedExport) -> None:
    """Tell what a verification found wrong with an export. One without a proved manifest is known by its folder."""
    found = verified.verification.findings
    findings = [str(finding) for finding in found[:10]]
    payload = {
        "export": export.export_id,
        "location": verified.location,
        "findings": findings,
        "damaged": len(found),
    }
    _emit(DAMAGED, export.folder if isinstance(export, DamagedExport) else export.manifest.vm, payload)


def emit_drill_finished(record: DrillRecord) -> None:
    """Tell whether an export started."""
    payload = {
        "export": record.export_id,
        "drill": record.drill_id,
        "target": str(record.target),
        "sign": str(record.sign),
        "reason": record.reason,
        "seconds": sum(record.seconds.values()),
    }
    _emit(PROVEN if record.passed else UNPROVEN, record.vm, payload)


def _emit(event: str, vm: VmRef | str, payload: dict[str, Any]) -> None:
    known = isinstance(vm, VmRef)
    resource = {
        "prefect.resource.id": RESOURCE + (vm.instance_uuid if known else vm),
        "prefect.resource.name": vm.name if known else vm,
        "hyperexport.path": vm.path if known else vm,
    }
    try:
        emit_event(event, resource=resource, payload=payload)
    except Exception as error:  # noqa: BLE001 - whatever it is, the export is as good as it was
        logger.warning("Prefect did not take the event %s: %s", event, type(error).__name__)
