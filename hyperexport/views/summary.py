"""What a run says of itself at its end, as Markdown for the Prefect UI: what, why, how fast, what to look at.

Pure functions of values. Terminal, notebook and mail draw the same facts from ``pages.py``.
"""

from collections.abc import Sequence

from hyperexport.base.units import format_bytes, format_elapsed, format_rate
from hyperexport.model.manifest import ExportKind, ExportManifest, FileEntry, Quiescing, TransferStatistics
from hyperexport.model.rates import Rates
from hyperexport.policy.incremental import Decision, DiskPlan, ExportPlan
from hyperexport.policy.retention import CleanupItem
from hyperexport.results import CleanupResult, ExportResult
from hyperexport.views.chart import throughput_markdown
from hyperexport.views.markdown import section, table, text

FACTS = ("Property", "Value")
"""The columns of a table of facts."""

_DONE = {Decision.TRANSFER: "transferred", Decision.REUSE: "unchanged, reused"}


def export_markdown(result: ExportResult, rates: Sequence[Rates] = ()) -> str:
    """The closing page of an export, or of its dry run.

    Args:
        result: What it did.
        rates: How fast its files moved.
    """
    cleanups = [line for cleanup in result.cleanups for line in ("", cleanup_markdown(cleanup))]
    if result.recent:
        return f"# Nothing to do for {text(result.plan.vm.name)}\n\n{text(result.recent)} is young enough."
    if result.manifest is None:
        lines = [
            plan_markdown(result.plan),
            *section("Snapshots and change tracking", snapshot_lines(result)),
            *section("Where it would be kept", result.locations),
        ]
        return "\n".join([*lines, *section("Warnings", result.warnings), *cleanups])
    manifest = result.manifest
    lines = [
        f"# Exported {text(manifest.vm.name)}",
        "",
        f"{text(manifest.vm.path)} of {text(manifest.vcenter)}, in {format_elapsed(result.seconds)}.",
        "",
        *table(FACTS, export_facts(result, manifest)),
        *_disk_table(result.plan, manifest),
        *throughput_markdown(rates),
        *section("Where it is", result.locations),
        *section("Snapshots and change tracking", snapshot_lines(result)),
        *section("Damage", damage_of(result)),
        *section("Warnings", result.warnings),
        *section("What to look at", what_to_look_at(result, manifest)),
    ]
    return "\n".join([*lines, *cleanups])


def export_facts(result: ExportResult, manifest: ExportManifest) -> list[tuple[str, str]]:
    """What an export did, as names and values; the mail says the same."""
    moved = manifest.transfer
    rate = f", {format_rate(moved.bytes_transferred / moved.seconds)}" if moved.seconds else ""
    limit = f" (limit {format_rate(moved.limit)})" if moved.limit else ""
    return [
        ("Export", manifest.export_id),
        ("Kind", f"{manifest.kind}: {manifest.reason}"),
        ("Consistency", _consistency(result, manifest)),
        ("Transferred", f"{format_bytes(moved.bytes_transferred)}{rate}{limit}"),
        *([("Bandwidth", bandwidth_words(moved))] if moved.limit_mean else []),
        ("Saved", _saving(result.plan)),
        ("Stored", stored_words(manifest)),
        ("Verified", {None: "not asked for", True: "yes, read back and proved", False: "DAMAGED"}[result.verified]),
    ]


def bandwidth_words(moved: TransferStatistics) -> str:
    """What was asked of the bandwidth, what was allowed, what came of it, and what it cost."""
    words = [f"asked {format_rate(moved.limit)}"] if moved.limit else []
    if moved.limit_mean and moved.limit_lowest and moved.limit_lowest < 0.99 * (moved.limit or moved.limit_mean):
        words.append(f"allowed {format_rate(moved.limit_mean)}, at the least {format_rate(moved.limit_lowest)}")
    if moved.achieved:
        words.append(f"achieved {format_rate(moved.achieved)} both ways together")
    words.append(f"waited {format_elapsed(moved.throttle_wait)}")
    if moved.shared:
        words.append(f"shared as {moved.shared}")
    return "; ".join(words)


def stored_words(manifest: ExportManifest) -> str:
    """What the export added to the store, how large it is, and which earlier exports hold the difference."""
    whole = sum(entry.size for entry in manifest.files if entry.member_of is None)
    files = f"{format_bytes(whole)} in {len(manifest.files)} files"
    if not manifest.shares_with:
        return f"{files}, a copy of its own"
    return f"{format_bytes(manifest.stored_bytes)} added; {files}, bytes shared with {', '.join(manifest.shares_with)}"


def _consistency(result: ExportResult, manifest: ExportManifest) -> str:
    snapshot = manifest.snapshot
    if snapshot is None:
        return str(Quiescing.POWERED_OFF)
    purpose = "kept" if result.snapshot_kept else "only for this export"
    return f"{snapshot.quiescing}, by snapshot {snapshot.name} ({purpose})"


def _saving(plan: ExportPlan) -> str:
    if plan.kind is ExportKind.FULL:
        return "nothing, as every disk was transferred"
    return _saved(plan)


def _saved(plan: ExportPlan) -> str:
    return f"{format_bytes(plan.saved_bytes)} ({plan.saved_percent:.0f} %)"


def _disk_table(plan: ExportPlan, manifest: ExportManifest | None) -> list[str]:
    """One row for each disk, as it was stored, or as it is expected before it was; then why, in words."""
    rows = disk_rows(plan, manifest)
    columns = ("Disk", "Decision", "Capacity", "Stored" if manifest else "Expected", "File")
    disks_by_reason: dict[str, list[str]] = {}
    for label, decision, why, *_ in rows:
        disks_by_reason.setdefault(f"{decision} ({why})", []).append(label)
    return [
        "## Disks",
        "",
        *table(columns, ([label, decision, *rest] for label, decision, _, *rest in rows)),
        *(f"- {text(', '.join(disks))}: {text(why)}" for why, disks in disks_by_reason.items()),
        "",
    ]


def disk_rows(plan: ExportPlan, manifest: ExportManifest | None) -> tuple[tuple[str, ...], ...]:
    """For each disk its label, decision, reason, capacity, size and file."""
    stored = {entry.disk_key: entry for entry in manifest.disks} if manifest else {}
    return tuple(_disk_row(disk, stored.get(disk.key)) for disk in plan.disks)


def _disk_row(disk: DiskPlan, entry: FileEntry | None) -> tuple[str, ...]:
    size = entry.size if entry else disk.expected_bytes
    shown = "-" if disk.decision is Decision.SKIP else format_bytes(size)
    where = f"{disk.file_name} (in {entry.stored_in})" if entry and entry.stored_in else disk.file_name
    decision = _DONE.get(disk.decision, disk.decision) if entry else disk.decision
    return disk.label, str(decision), disk.reason, format_bytes(disk.capacity), shown, where or "-"


def snapshot_lines(result: ExportResult) -> list[str]:
    """What becomes of the VM's snapshots: what would, or what was planned and done; then its tracking."""
    plan, dry = result.snapshots, result.dry_run
    would = "would be " if dry else ""
    lines = [f"snapshot {one.name}: {would}removed first: its run is over" for one in plan.abandoned]
    if plan.why_none:
        lines.append(f"no snapshot {'would be' if dry else 'was'} made: {plan.why_none}")
    if plan.make and dry:
        lines.append(f"snapshot {plan.make}: would be made, and {'kept' if plan.keeps_made else 'removed afterwards'}")
    for one in plan.removed:
        when = "before the export" if one in plan.removed_first else "afterwards"
        lines.append(f"snapshot {one.name}: {would}removed {when}: {plan.why_removed}")
    lines += [f"snapshot {one.name}: stays" for one in plan.kept if dry]
    if result.tracking.words:
        lines.append(result.tracking.words)
    return lines


def damage_of(result: ExportResult) -> list[str]:
    """What a verification found wrong, each with its place."""
    pairs = zip(result.locations, result.verifications, strict=False)
    return [f"{place}: {finding}" for place, found in pairs for finding in found.findings]


def what_to_look_at(result: ExportResult, manifest: ExportManifest) -> list[str]:
    """What a careful administrator would do next; only what there is a reason for."""
    advice: list[str] = []
    if result.verified is None and result.locations:
        advice.append(f"This export has not been verified yet: hyperexport verify {result.locations[0]}")
    if result.verified is False:
        advice.append("Export the VM again: what is stored is damaged, and nothing will build on it")
    if manifest.snapshot and manifest.snapshot.quiescing is Quiescing.CRASH_CONSISTENT:
        advice.append("The guest was not quiesced: applications restored from this start as after a power cut")
    if result.snapshot_kept and manifest.snapshot:
        advice.append(f"Snapshot {manifest.snapshot.name} is still on the VM and grows with every write")
    if manifest.skipped_disks:
        names = ", ".join(disk.label for disk in manifest.skipped_disks)
        advice.append(f"This export lacks {names}: back them up from inside the guest")
    if manifest.transfer.retries:
        advice.append(f"{manifest.transfer.retries} transfers were retried: check the network and the hosts")
    return advice


def plan_markdown(plan: ExportPlan) -> str:
    """What an export would do, before it does anything."""
    most = "At most " if plan.undecided else ""
    why = f"because {text(plan.reason)}" if plan.kind is ExportKind.FULL else f"which {text(plan.reason)}"
    article = "a" if plan.kind is ExportKind.FULL else "an"
    lines = [
        f"# Would export {text(plan.vm.name)}",
        "",
        f"{text(plan.vm.path)}: {article} {plan.kind} export, {why}.",
        "",
        *_disk_table(plan, None),
        f"{most}{format_bytes(plan.transfer_bytes)} to transfer, {_saved(plan)} saved.",
        "",
    ]
    return "\n".join(lines)


def cleanup_markdown(result: CleanupResult) -> str:
    """What a cleanup deleted, or in a dry run would delete, and why the rest stays."""
    deleted = {str(item) for item in result.plan.to_delete} if result.dry_run else set(result.deleted)
    verb = "would be deleted" if result.dry_run else "deleted"
    lines = [
        f"# Cleanup of {text(result.store)}",
        "",
        f"{len(deleted)} of {len(result.plan.items)} exports {verb}, {result.freed_words}.",
        "",
        *table(
            ("Export", "VM", "Time", "Size", "Decision", "Why"),
            (tuple(row.values()) for row in cleanup_rows(result)),
        ),
        *section("Could not be deleted", result.failed),
        *section("Left for now", result.deferred),
        *section("Abandoned exports that would be removed" if result.dry_run else "Removed", result.abandoned),
        *section("Not deleted because a clock is in doubt", result.plan.doubts),
        *section("Warnings", result.plan.unmatched),
        *section("Limits that cannot be kept", result.plan.unreachable),
        *section("Damaged: neither counted nor deleted", [one.words_and_remedy for one in result.plan.damaged]),
    ]
    return "\n".join(lines)


def cleanup_rows(result: CleanupResult) -> list[dict[str, object]]:
    """For each export of the store what becomes of it, and why."""
    deleted = {str(item) for item in result.plan.to_delete} if result.dry_run else set(result.deleted)
    return [_cleanup_row(item, result, deleted) for item in result.plan.items]


def _cleanup_row(item: CleanupItem, result: CleanupResult, deleted: set[str]) -> dict[str, object]:
    if not item.delete:
        decision = "kept"
    elif str(item) in deleted:
        decision = "would delete" if result.dry_run else "deleted"
    else:
        decision = "NOT DELETED"
    return {
        "Export": str(item),
        "VM": item.vm,
        "Time": f"{item.started:%Y-%m-%d %H:%M}",
        "Size": format_bytes(item.size),
        "Decision": decision,
        "Why": item.reason,
    }
