"""What is said of the values that a notebook shows: an export, a plan, VMs, a store's contents, a cleanup.

Importing this module registers it with ``hyperexport/base/display.py``. The same words as in the Prefect UI
(``summary.py``), of the same values.
"""

from collections.abc import Iterable

from hyperexport.base.display import Page, Table, Tone, Toned, lines, pages_of, row_of, table
from hyperexport.base.units import format_bytes, format_elapsed
from hyperexport.convert import Conversion
from hyperexport.files import Extracted, GuestEntry, VolumeInfo
from hyperexport.files.filesystems import Kind
from hyperexport.model.restore import RestoreResult
from hyperexport.policy.incremental import ExportPlan
from hyperexport.policy.snapshots import SnapshotState
from hyperexport.results import CleanupResult, ExportResult, FleetResult, Level, ReapResult, SetupReport, VerifiedExport
from hyperexport.views import stored, vms  # noqa: F401  # pyright: ignore[reportUnusedImport] - register pages
from hyperexport.views.markdown import pages_markdown
from hyperexport.views.summary import (
    FACTS,
    cleanup_rows,
    damage_of,
    disk_rows,
    export_facts,
    snapshot_lines,
    what_to_look_at,
)


def markdown_of(value: object) -> str:
    """What is to be said of a value, as Markdown for the Prefect UI."""
    return pages_markdown(pages_of(value))


def rows_of(values: Iterable[object]) -> list[dict[str, object]]:
    """Values as the rows of one table."""
    return [row for value in values if (row := row_of(value)) is not None]


_LEVELS = {Level.OK: Tone.GOOD, Level.WARN: Tone.DOUBTFUL, Level.FAIL: Tone.BAD}
_DISKS = ("Disk", "Decision", "Why", "Capacity")


@pages_of.register
def _(plan: ExportPlan) -> tuple[Page, ...]:
    most = "at most " if plan.undecided else ""
    title = f"Would export {plan.vm.path}: {plan.kind}, {plan.reason}"
    moved = f"{most}{format_bytes(plan.transfer_bytes)} to transfer, {format_bytes(plan.saved_bytes)} saved"
    disks = Table("", (*_DISKS, "Expected", "File"), disk_rows(plan, None))
    return (Page(title, (disks, *lines("", [f"{moved} ({plan.saved_percent:.0f} %)"]))),)


@pages_of.register
def _(result: ExportResult) -> tuple[Page, ...]:
    cleanups = tuple(page for cleanup in result.cleanups for page in pages_of(cleanup))
    warnings = lines("Warnings", result.warnings)
    if result.recent:
        return (Page(f"Nothing to do for {result.plan.vm.path}: {result.recent} is young enough", warnings),)
    snapshots = lines("Snapshots and change tracking", snapshot_lines(result))
    if result.manifest is None:
        (plan,) = pages_of(result.plan)
        where = lines("Where it would be kept", result.locations)
        note = lines("", ["Dry run: nothing was changed"])
        return (Page(plan.title, (*plan.tables, *snapshots, *where, *warnings, *note)), *cleanups)
    manifest = result.manifest
    tables = (
        Table("", FACTS, tuple(export_facts(result, manifest))),
        Table("Disks", (*_DISKS, "Stored", "File"), disk_rows(result.plan, manifest)),
        *lines("Where it is", result.locations),
        *snapshots,
        *lines("Damage", damage_of(result)),
        *warnings,
        *lines("What to look at", what_to_look_at(result, manifest)),
    )
    return (Page(f"Exported {manifest.vm.path} in {format_elapsed(result.seconds)}", tables), *cleanups)


@pages_of.register
def _(result: CleanupResult) -> tuple[Page, ...]:
    deleted = "would be deleted" if result.dry_run else "deleted"
    number = len(result.plan.to_delete if result.dry_run else result.deleted)
    title = f"Cleanup of {result.store}: {number} of {len(result.plan.items)} exports {deleted}"
    tables = (
        *table("", cleanup_rows(result)),
        *lines("Could not be deleted", result.failed),
        *lines("Left for now", result.deferred),
        *lines("Half-written exports of dead runs", result.abandoned),
        *lines("Not deleted because a clock is in doubt", result.plan.doubts),
        *lines("Warnings", result.plan.unmatched),
        *lines("Limits that cannot be kept", result.plan.unreachable),
        *lines("Damaged: neither counted nor deleted", [one.words_and_remedy for one in result.plan.damaged]),
    )
    return (Page(title, tables),)


@row_of.register
def _(item: VerifiedExport) -> dict[str, object]:
    return item.row()


@pages_of.register
def _(result: FleetResult) -> tuple[Page, ...]:
    tables = (
        *table("", [member.row() for member in result.members]),
        *lines("Warnings", result.warnings),
        *lines("To export again only what failed", [words for words in (result.retry, result.redo) if words]),
    )
    cleanups = tuple(page for cleanup in result.cleanups for page in pages_of(cleanup))
    return (Page(result.summary, tables), *cleanups)


@pages_of.register
def _(result: ReapResult) -> tuple[Page, ...]:
    orphans, verb = len(result.having(SnapshotState.ABANDONED)), "would be removed" if result.dry_run else "removed"
    tables = (
        *table("Snapshots", [item.row() for item in result.snapshots]),
        *lines(f"Half-made VM {verb}", result.vms),
        *lines(f"Half-written export {verb}", result.stagings),
        *lines("Could not be removed", result.failed),
        *lines("", [f"{result.vcenter}: {orphans} snapshots and {len(result.stagings)} half-written exports {verb}"]),
    )
    return (Page(f"Left by dead runs on {result.vcenter}" + (" (dry run)" if result.dry_run else ""), tables),)


@pages_of.register
def _(report: SetupReport) -> tuple[Page, ...]:
    rows = [{**finding.row(), "Result": Toned(finding.level, _LEVELS[finding.level])} for finding in report.findings]
    return (Page(report.summary, table("", rows)),)


@pages_of.register
def _(result: Conversion) -> tuple[Page, ...]:
    done = "Would convert" if result.dry_run else "Converted"
    took = "" if result.dry_run else f" in {format_elapsed(result.seconds)}"
    size, needed = ("Size at most", "Space needed at most") if result.dry_run else ("Size", "Space on disk")
    rows: list[dict[str, object]] = [
        {
            "File": str(file.path),
            "Made of": file.source or "-",
            size: format_bytes(file.size),
            needed: format_bytes(file.allocated),
        }
        for file in result.files
    ]
    tables = (*table("", rows), *lines("Warnings", result.warnings))
    return (Page(f"{done} {result.vm.path}, export {result.export_id}, to {result.to}{took}", tables),)


@pages_of.register
def _(result: RestoreResult) -> tuple[Page, ...]:
    plan = result.plan
    what = f"{plan.source.path}, export {plan.export_id}"
    took = f" in {format_elapsed(result.seconds)}"
    title = f"Would restore {what}" if result.dry_run else f"Restored {what}{took}"
    done = [] if result.dry_run else [("Verified", _verified_words(result)), ("Powered on", _yes(result.powered_on))]
    files: list[dict[str, object]] = [
        {
            "File": file.name,
            "Disk": file.label or "-",
            "Upload": format_bytes(file.size),
            "Capacity": format_bytes(file.capacity) if file.capacity is not None else "-",
            "Provisioning": str(file.provisioning or "-"),
        }
        for file in plan.files
    ]
    lost: list[dict[str, object]] = [{"Setting": each.setting, "Why": each.reason} for each in plan.lost]
    tables = (
        Table("", FACTS, (*plan.facts(), *done)),
        *table("Files", files),
        *table("Does not come back", lost),
        *lines("Attached disks", result.attached),
        *lines("Warnings", (*plan.warnings, *result.warnings)),
    )
    return (Page(title, tables),)


def _verified_words(result: RestoreResult) -> str:
    return "yes, the server has what was sent" if result.verified else "NO, not everything was compared"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


@row_of.register
def _(volume: VolumeInfo) -> dict[str, object]:
    return {"Volume": volume.name, "Filesystem": volume.filesystem or "not readable", "Size": format_bytes(volume.size)}


@row_of.register
def _(entry: GuestEntry) -> dict[str, object]:
    return {
        "Path": f"{entry.path} -> {entry.target}" if entry.target else entry.path,
        "Kind": str(entry.kind),
        "Size": format_bytes(entry.size) if entry.kind is Kind.FILE else "-",
        "Modified": f"{entry.modified:%Y-%m-%d %H:%M}" if entry.modified else "-",
    }


@row_of.register
def _(result: Extracted) -> dict[str, object]:
    return {
        "Extracted": str(result.path),
        "Files": result.files,
        "Bytes": format_bytes(result.bytes),
        "Left out": "; ".join(result.skipped) or "-",
    }
