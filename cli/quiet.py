"""Answers for scripts: ``key=value`` lines, whose keys and order are part of the product's contract."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, cast

from hyperexport.base.text import visible
from hyperexport.model.damaged import DamagedExport
from hyperexport.model.history import is_of_the_future
from hyperexport.model.manifest import short_id
from hyperexport.model.vm import VmBrief, VmInfo, VmRef
from hyperexport.options.groups import write_names
from hyperexport.policy.incremental import ExportPlan
from hyperexport.policy.snapshots import Fate
from hyperexport.results import (
    CleanupResult,
    ExportResult,
    FleetMember,
    FleetOutcome,
    Level,
    ReapResult,
    SetupReport,
    StoreContents,
    VerifiedExport,
)
from hyperexport.store.base import StoredExport
from hyperexport.store.listing import StoreListing
from hyperexport.views.survey import StoreSurvey

if TYPE_CHECKING:
    from hyperexport.deployments.automations import Automation
    from hyperexport.deployments.schedules import Schedule


def vm_lines(vm: VmInfo | VmBrief) -> list[str]:
    """What a VM is; exactly these keys in this order."""
    return [
        _line("name", vm.name),
        _line("path", vm.ref.path),
        _line("power_state", vm.power_state),
        _line("guest_os", vm.guest_os),
        _line("cpu", vm.cpus),
        _line("memory_mb", vm.memory_mb),
        _line("storage_bytes", vm.storage_bytes),
    ]


def export_lines(result: ExportResult) -> list[str]:
    """What an export did, or in a dry run would do."""
    manifest, plan = result.manifest, result.plan
    if result.recent:
        return _lines_of_nothing_done(plan.vm, FleetOutcome.SKIPPED, f"{result.recent} is young enough")
    removed = manifest is not None and manifest.snapshot is not None and not result.snapshot_kept
    return [
        _line("vm", plan.vm.name),
        _line("path", plan.vm.path),
        _line("dry_run", result.dry_run),
        _line("export_id", manifest.export_id if manifest else ""),
        _line("kind", plan.kind),
        _line("reason", plan.reason),
        *_numbered("location", result.locations),
        _line("bytes_transferred", manifest.transfer.bytes_transferred if manifest else plan.transfer_bytes),
        _line("bytes_saved", manifest.transfer.bytes_reused if manifest else plan.saved_bytes),
        _line("seconds", f"{result.seconds:.1f}"),
        _line("verified", "" if result.verified is None else result.verified),
        _line("snapshot_removed", removed),
        *_numbered("snapshot_made", filter(None, [result.snapshots.make])),
        *_numbered("snapshot_abandoned", (one.name for one in result.snapshots.abandoned)),
        *_numbered("snapshot_given_up", (one.name for one in result.snapshots.removed)),
        *_numbered("change_tracking", filter(None, [result.tracking.words])),
        _line("warnings", len(result.warnings)),
        _line("bytes_stored", manifest.stored_bytes if manifest else ""),
        *_numbered("shares_with", manifest.shares_with if manifest else ()),
    ]


def member_lines(member: FleetMember) -> list[str]:
    """A VM of a fleet that there was nothing to do for."""
    return _lines_of_nothing_done(member.vm, member.outcome, member.message)


def _lines_of_nothing_done(vm: VmRef, outcome: FleetOutcome, message: str) -> list[str]:
    return [_line("vm", vm.name), _line("path", vm.path), _line("outcome", outcome), _line("message", message)]


def plan_lines(plan: ExportPlan) -> list[str]:
    """What an export would transfer, and why."""
    lines = [
        _line("vm", plan.vm.name),
        _line("path", plan.vm.path),
        _line("kind", plan.kind),
        _line("reason", plan.reason),
        _line("base", plan.base or ""),
    ]
    for position, disk in enumerate(plan.disks):
        lines += [
            _line(f"disk_{position}", disk.label),
            _line(f"disk_{position}_decision", disk.decision),
            _line(f"disk_{position}_reason", disk.reason),
            _line(f"disk_{position}_bytes", disk.expected_bytes),
            _line(f"disk_{position}_capacity", disk.capacity),
            _line(f"disk_{position}_changed_bytes", "" if disk.changed_bytes is None else disk.changed_bytes),
        ]
    return [
        *lines,
        _line("transfer_bytes", plan.transfer_bytes),
        _line("saved_bytes", plan.saved_bytes),
        _line("saved_percent", f"{plan.saved_percent:.1f}"),
    ]


def cleanup_lines(result: CleanupResult) -> list[str]:
    """What a cleanup deleted, or in a dry run would delete."""
    gone = [str(item) for item in result.plan.to_delete] if result.dry_run else list(result.deleted)
    return [
        _line("store", result.store),
        _line("dry_run", result.dry_run),
        *(_line("would_delete" if result.dry_run else "deleted", name) for name in gone),
        *(_line("would_remove" if result.dry_run else "removed", name) for name in result.abandoned),
        *(_line("failed", failure) for failure in result.failed),
        *(_line("deferred", words) for words in result.deferred),
        *(_line("doubt", words) for words in result.plan.doubts),
        *(_line("warning", words) for words in result.plan.unmatched),
        *(_line("unreachable", words) for words in result.plan.unreachable),
        *(_line("damaged", one.words) for one in result.plan.damaged),
        _line("count", len(gone)),
        _line("failures", len(result.failed)),
        _line("kept", len(result.plan.items) - len(gone)),
        _line("freed_bytes", result.plan.freed_bytes if result.dry_run else result.freed_bytes),
        _line("warnings", len(result.plan.warnings)),
    ]


def reaped_lines(result: ReapResult) -> list[str]:
    """What dead runs left, and what was done about it."""
    lines = [_line("vcenter", result.vcenter), _line("dry_run", result.dry_run)]
    for position, item in enumerate(result.snapshots):
        found = item.found
        lines += [
            _line(f"snapshot_{position}", found.snapshot.name),
            _line(f"snapshot_{position}_vm", found.vm.path),
            _line(f"snapshot_{position}_age_seconds", int(item.age.total_seconds())),
            _line(f"snapshot_{position}_state", found.fate),
            _line(f"snapshot_{position}_action", item.action),
        ]
    return [
        *lines,
        *_numbered("staging", result.stagings),
        _line("abandoned", len(result.having(Fate.ABANDONED))),
        _line("in_doubt", len(result.having(Fate.IN_DOUBT))),
        _line("stagings", len(result.stagings)),
    ]


def check_lines(report: SetupReport) -> list[str]:
    """What was tried, and what came of it."""
    lines = [
        line
        for position, finding in enumerate(report.findings)
        for line in (
            _line(f"check_{position}", finding.what),
            _line(f"check_{position}_result", finding.level),
            _line(f"check_{position}_finding", finding.words),
            _line(f"check_{position}_fix", finding.fix or ""),
        )
    ]
    counts = ((level, len(report.having(level))) for level in Level)
    return [*lines, *(_line(str(level), count) for level, count in counts)]


def verified_lines(export: VerifiedExport) -> list[str]:
    """Whether an export is what it was."""
    found = export.verification
    return [
        _line("location", export.location),
        _line("verified", "" if export.deleted else found.ok),
        *_numbered("finding", found.findings),
        *_numbered("deleted", [True] if export.deleted else []),
        *_numbered("unrecorded", filter(None, [found.unrecorded])),
    ]


def stored_lines(store: str, listing: StoreListing) -> list[str]:
    """What a store holds: a block for each export, with an empty line between them."""
    contents = StoreContents(store=store, exports=listing.exports)
    added, shared = contents.added_bytes, contents.shared_with
    blocks = [_stored(store, export, added[str(export)], shared[str(export)]) for export in listing.exports]
    blocks += [damaged_lines(store, one) for one in listing.damaged]
    return [line for block in blocks for line in ("", *block)][1:]


def _stored(store: str, export: StoredExport, added: int, shared: Sequence[str]) -> list[str]:
    manifest = export.manifest
    return [
        _line("store", store),
        _line("vm", manifest.vm.name),
        _line("path", manifest.vm.path),
        _line("export", export),
        _line("id", short_id(str(export))),
        _line("started", manifest.started.isoformat()),
        _line("kind", manifest.kind),
        _line("stored_bytes", added),
        _line("bytes_transferred", manifest.transfer.bytes_transferred),
        _line("verified", manifest.verified.isoformat() if manifest.verified else ""),
        _line("preserved", manifest.preserve),
        *_numbered("shares_with", shared),
        *([_line("in_future", True)] if is_of_the_future(manifest, datetime.now(UTC)) else []),
        *_numbered("damage", manifest.damage),
    ]


def damaged_lines(store: str, damaged: DamagedExport) -> list[str]:
    """An export, or a VM's folder, that cannot be relied on."""
    return [
        _line("store", store),
        _line("export", damaged),
        _line("damage", damaged.reason),
        _line("problem", damaged.problem),
    ]


def preserved_lines(store: str, export: StoredExport) -> list[str]:
    """An export that was marked as preserved, or is so no longer."""
    return [_line("store", store), _line("export", export), _line("preserved", export.manifest.preserve)]


def profile_lines(name: str, options: Mapping[str, object]) -> list[str]:
    """A saved profile, and what it sets."""
    return [_line("profile", name), *(_line(key, as_flag(value)) for key, value in options.items())]


def config_lines(values: Sequence[tuple[str, str, str]], secrets: Mapping[str, str], runs: str) -> list[str]:
    """Every option's value and source, then which secrets are set, and where a command runs."""
    lines = [line for key, value, source in values for line in (_line(key, value), _line(f"{key}.source", source))]
    return [*lines, *(_line(name, state) for name, state in secrets.items()), _line("runs", runs)]


def as_flag(value: object) -> str:
    """A JSON value as a flag takes it; empty where there is none."""
    if isinstance(value, list):
        return write_names(cast("list[object]", value))
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def schedule_lines(schedule: "Schedule") -> list[str]:
    """A schedule, and when it fires."""
    return [
        _line("name", schedule.name),
        _line("flow", schedule.flow),
        _line("when", schedule.when),
        _line("next", schedule.next.isoformat() if schedule.next else ""),
        _line("active", schedule.active),
    ]


def survey_lines(found: StoreSurvey, rpo: timedelta) -> list[str]:
    """How well each VM of a store is protected: the store's lines, then a block for each VM."""
    lines = [_line("store", found.store), _line("problem", found.problem or ""), _line("vms", len(found.vms))]
    lines += [_line("late", len(found.late(rpo))), _line("unreadable", len(found.unproved))]
    lines += [_line("damaged", one.words) for one in found.unproved]
    for vm in found.vms:
        facts = vm.facts(found.taken, rpo)
        lines += ["", _line("vm", vm.name), *(_line(key, _plain(facts[key])) for key in _SURVEYED)]
        lines += _numbered("missing", vm.missing(found.taken, rpo))
    return lines


_SURVEYED = ("path", "late", "last_success", "age_seconds", "last_verified", "exports", "stored_bytes")


def _plain(value: object) -> object:
    return "" if value is None else value


def automation_lines(automation: "Automation") -> list[str]:
    """One automation."""
    return [
        _line("automation", automation.name),
        _line("enabled", automation.enabled),
        _line("when", automation.when),
    ]


def _numbered(key: str, values: Iterable[object]) -> list[str]:
    """One line for each value: ``location=``, ``location_2=``, ..."""
    return [_line(key if number == 1 else f"{key}_{number}", value) for number, value in zip(count(1), values)]


def _line(key: str, value: object) -> str:
    """One line, whatever the value holds: no line break in a VM's name makes a key of its own."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"{key}={visible(text)}"
