"""What is kept of a run's result for others: a small JSON value, which Prefect stores with the run.

The result itself holds a manifest, plans and all; its summary has a kilobyte, and is read without this package.
"""

from functools import singledispatch
from typing import Any

from pydantic import BaseModel

from hyperexport.convert.values import Conversion
from hyperexport.errors import HyperExportError
from hyperexport.model.restore import RestoreResult
from hyperexport.policy.export_plan import ExportPlan
from hyperexport.results import (
    CleanupResult,
    DrillResult,
    ExportResult,
    FleetResult,
    ReapResult,
    SetupReport,
    VerifiedExport,
)

Summary = dict[str, Any]


@singledispatch
def summary_of(value: object) -> Any:
    """Summarize a run's result, one item of its list, or the error that ended it.

    Raises:
        TypeError: A value of a kind that no run returns.
    """
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is no result of a run")


@summary_of.register
def _(error: BaseException) -> str:
    if isinstance(error, HyperExportError):
        return f"{error} [{error.code}]"
    return f"unexpected {type(error).__name__}"  # its text is not meant for users, and may hold a secret


@summary_of.register
def _(plan: ExportPlan) -> Summary:
    return {
        "vm": plan.vm.path,
        "kind": str(plan.kind),
        "reason": plan.reason,
        "base": plan.base,
        "bytes_to_transfer": plan.transfer_bytes,
        "bytes_saved": plan.saved_bytes,
        "disks": [
            {"disk": disk.label, "decision": str(disk.decision), "reason": disk.reason, "bytes": disk.expected_bytes}
            for disk in plan.disks
        ],
    }


@summary_of.register
def _(result: ExportResult) -> Summary:
    manifest = result.manifest
    return {
        "vm": result.plan.vm.path,
        "dry_run": result.dry_run,
        "export": manifest.export_id if manifest else result.recent,
        "made": manifest is not None,
        "kind": str(result.plan.kind),
        "locations": list(result.locations),
        "bytes_transferred": manifest.transfer.bytes_transferred if manifest else None,
        "bytes_saved": result.saved_bytes,
        "verified": result.verified,
        "snapshot_kept": result.snapshot_kept,
        "cleanups": [summary_of(cleanup) for cleanup in result.cleanups],
        "warnings": list(result.warnings),
        "seconds": round(result.seconds, 1),
        **({"plan": summary_of(result.plan)} if result.dry_run else {}),
    }


@summary_of.register
def _(result: FleetResult) -> Summary:
    return {
        "summary": result.summary,
        "dry_run": result.dry_run,
        "vms": [
            {
                "vm": member.vm.path,
                "outcome": str(member.outcome),
                "export": member.result.manifest.export_id if member.result and member.result.manifest else None,
                "bytes_transferred": member.moved,
                "message": member.message,
                "url": member.url,
            }
            for member in result.members
        ],
        "cleanups": [summary_of(cleanup) for cleanup in result.cleanups],
        "warnings": list(result.warnings),
        "seconds": round(result.seconds, 1),
    }


@summary_of.register
def _(result: CleanupResult) -> Summary:
    return {
        "store": result.store,
        "dry_run": result.dry_run,
        "looked_at": len(result.plan.items),
        "to_delete": [f"{item.folder}/{item.export_id}" for item in result.plan.to_delete],
        "deleted": list(result.deleted),
        "failed": list(result.failed),
        "deferred": list(result.deferred),
        "freed_bytes": result.freed_bytes,
    }


@summary_of.register
def _(result: ReapResult) -> Summary:
    return {
        "vcenter": result.vcenter,
        "dry_run": result.dry_run,
        "snapshots": [item.row() for item in result.snapshots],
        "vms": list(result.vms),
        "stagings": list(result.stagings),
        "failed": list(result.failed),
    }


@summary_of.register
def _(item: VerifiedExport) -> Summary:
    return {
        "export": item.location,
        "result": item.words,
        "findings": [str(finding) for finding in item.verification.findings],
        "not_recorded": item.verification.unrecorded,
    }


@summary_of.register
def _(result: DrillResult) -> Summary:
    record = result.record
    return {
        "export": result.location,
        "vm": result.vm.path,
        "dry_run": result.dry_run,
        "passed": record.passed if record else None,
        "sign": str(record.sign) if record else None,
        "reason": record.reason if record else result.problem,
    }


@summary_of.register
def _(result: RestoreResult) -> Summary:
    return {
        "export": result.plan.export_id,
        "dry_run": result.dry_run,
        "vm": result.vm.path if result.vm else result.plan.path,
        "moref": result.vm.moref if result.vm else None,
        "powered_on": result.powered_on,
        "attached": list(result.attached),
        "verified": result.verified,
        "bytes_uploaded": result.uploaded,
        "does_not_come_back": [f"{lost.setting}: {lost.reason}" for lost in result.plan.lost],
        "warnings": [*result.plan.warnings, *result.warnings],
        "seconds": round(result.seconds, 1),
    }


@summary_of.register
def _(result: Conversion) -> Summary:
    return {
        "export": result.export_id,
        "vm": result.vm.path,
        "dry_run": result.dry_run,
        "to": str(result.to),
        "files": [str(file.path) for file in result.files],
        "warnings": list(result.warnings),
        "seconds": round(result.seconds, 1),
    }


@summary_of.register
def _(report: SetupReport) -> Summary:
    return {"summary": report.summary, "findings": [finding.row() for finding in report.findings]}
