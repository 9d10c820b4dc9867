"""What is said of an export, of its plan, and of its dry run: page, key=value lines and the mail at its end."""

from collections.abc import Sequence
from typing import Final

from hyperexport.base.display import FACTS, Page, Pairs, Table, lines, numbered, pages_of, pairs_of
from hyperexport.base.units import format_bytes, format_elapsed, format_rate
from hyperexport.model.manifest import ExportManifest, FileEntry, Quiescing, TransferStatistics
from hyperexport.model.rates import Rates
from hyperexport.policy.export_plan import Decision, DiskPlan, ExportPlan, percent_saved
from hyperexport.results import ExportResult, FleetOutcome
from hyperexport.views import cleanups  # noqa: F401  # pyright: ignore[reportUnusedImport] - registers its page
from hyperexport.views.chart import throughput_markdown
from hyperexport.views.markdown import pages_markdown

_DONE: Final = {Decision.TRANSFER: "transferred", Decision.REUSE: "unchanged, reused"}
_DISKS: Final = ("Disk", "Decision", "Why", "Capacity")


@pages_of.register
def _(plan: ExportPlan) -> tuple[Page, ...]:
    most = "at most " if plan.undecided else ""
    title = f"Would export {plan.vm.path}: {plan.kind}, {plan.reason}"
    moved = f"{most}{format_bytes(plan.transfer_bytes)} to transfer, {format_bytes(plan.saved_bytes)} saved"
    moved += f" ({plan.saved_percent:.0f} %)"
    return (Page(title, (Table("", (*_DISKS, "Expected", "File"), disk_rows(plan, None)), *lines("", [moved]))),)


@pages_of.register
def _(result: ExportResult) -> tuple[Page, ...]:
    cleaned = tuple(page for cleanup in result.cleanups for page in pages_of(cleanup))
    warnings = lines("Warnings", result.warnings)
    if result.recent:
        return (
            Page(f"Nothing to do for {result.plan.vm.path}: {result.recent} is newer than --skip-newer-than", warnings),
        )
    snapshots = lines("Snapshots and change tracking", snapshot_lines(result))
    if result.manifest is None:
        (plan,) = pages_of(result.plan)
        where = lines("Where it would be stored", result.locations)
        note = lines("", ["Dry run: nothing was changed"])
        return (Page(plan.title, (*plan.tables, *snapshots, *where, *warnings, *note)), *cleaned)
    manifest = result.manifest
    tables = (
        Table("", FACTS, tuple(export_facts(result, manifest))),
        Table("Disks", (*_DISKS, "Stored", "File"), disk_rows(result.plan, manifest)),
        *snapshots,
        *lines("Damage", damage_of(result)),
        *warnings,
        *lines("What to look at", what_to_look_at(result, manifest)),
    )
    return (Page(f"Exported {manifest.vm.path} in {format_elapsed(result.seconds)}", tables), *cleaned)


def export_markdown(result: ExportResult, rates: Sequence[Rates] = ()) -> str:
    """The closing page of an export, or of its dry run, as Markdown.

    Args:
        result: What it did.
        rates: How fast its files moved.
    """
    export, *cleaned = pages_of(result)
    return "\n".join([pages_markdown([export]), *throughput_markdown(rates), pages_markdown(cleaned)])


@pairs_of.register
def _(plan: ExportPlan) -> Pairs:
    pairs: list[tuple[str, object]] = [
        ("vm", plan.vm.name),
        ("path", plan.vm.path),
        ("kind", plan.kind),
        ("reason", plan.reason),
        ("base", plan.base or ""),
    ]
    for position, disk in enumerate(plan.disks):
        pairs += [
            (f"disk_{position}", disk.label),
            (f"disk_{position}_decision", disk.decision),
            (f"disk_{position}_reason", disk.reason),
            (f"disk_{position}_bytes", disk.expected_bytes),
            (f"disk_{position}_capacity", disk.capacity),
            (f"disk_{position}_changed_bytes", "" if disk.changed_bytes is None else disk.changed_bytes),
        ]
    return (
        *pairs,
        ("transfer_bytes", plan.transfer_bytes),
        ("saved_bytes", plan.saved_bytes),
        ("saved_percent", f"{plan.saved_percent:.1f}"),
    )


@pairs_of.register
def _(result: ExportResult) -> Pairs:
    manifest, plan = result.manifest, result.plan
    if result.recent:
        return (
            ("vm", plan.vm.name),
            ("path", plan.vm.path),
            ("outcome", FleetOutcome.SKIPPED),
            ("message", f"{result.recent} is newer than --skip-newer-than"),
        )
    removed = manifest is not None and manifest.snapshot is not None and not result.snapshot_kept
    return (
        ("vm", plan.vm.name),
        ("path", plan.vm.path),
        ("dry_run", result.dry_run),
        ("export_id", manifest.export_id if manifest else ""),
        ("kind", plan.kind),
        ("reason", plan.reason),
        *numbered("location", result.locations),
        ("bytes_transferred", result.moved_bytes),
        ("bytes_saved", result.saved_bytes),
        ("seconds", f"{result.seconds:.1f}"),
        ("verified", "" if result.verified is None else result.verified),
        ("snapshot_removed", removed),
        *numbered("snapshot_made", filter(None, [result.snapshots.make])),
        *numbered("snapshot_abandoned", (one.name for one in result.snapshots.abandoned)),
        *numbered("snapshot_given_up", (one.name for one in result.snapshots.removed)),
        *numbered("change_tracking", filter(None, [result.tracking.words])),
        ("warnings", len(result.warnings)),
        ("bytes_stored", manifest.stored_bytes if manifest else ""),
        *numbered("shares_with", manifest.shares_with if manifest else ()),
    )


def export_facts(result: ExportResult, manifest: ExportManifest) -> list[tuple[str, str]]:
    """What an export did, as names and values."""
    moved = manifest.transfer
    rate = f", {format_rate(moved.bytes_transferred / moved.seconds)}" if moved.seconds else ""
    limit = f" (limit {format_rate(moved.limit)})" if moved.limit else ""
    return [
        ("VM", manifest.vm.path),
        ("vCenter", manifest.vcenter),
        ("Started", f"{manifest.started:%Y-%m-%d %H:%M:%S} {manifest.started.tzname() or 'local time'}"),
        ("Duration", format_elapsed(result.seconds)),
        ("Export", manifest.export_id),
        ("Kind", f"{manifest.kind}: {manifest.reason}"),
        ("Consistency", _consistency(result, manifest)),
        ("Transferred", f"{format_bytes(moved.bytes_transferred)}{rate}{limit}"),
        *([("Bandwidth", bandwidth_words(moved))] if moved.limit_mean else []),
        ("Saved", _saving(result)),
        ("Stored", stored_words(manifest)),
        ("Verified", {None: "not asked for", True: "yes, read back and proved", False: "DAMAGED"}[result.verified]),
        *(("Destination", place) for place in result.locations),
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


def _saving(result: ExportResult) -> str:
    saved, moved = result.saved_bytes, result.moved_bytes
    if not saved:
        return "nothing, as every disk was transferred"
    return f"{format_bytes(saved)} ({percent_saved(saved, moved):.0f} %)"


def disk_rows(plan: ExportPlan, manifest: ExportManifest | None) -> tuple[tuple[str, ...], ...]:
    """For each disk its label, decision, reason, capacity, size and file."""
    stored = {entry.disk_key: entry for entry in manifest.disks} if manifest else {}
    return tuple(_disk_row(disk, stored.get(disk.key)) for disk in plan.disks)


def _disk_row(disk: DiskPlan, entry: FileEntry | None) -> tuple[str, ...]:
    size = entry.size if entry else disk.expected_bytes
    shown = "-" if disk.decision is Decision.SKIP else format_bytes(size)
    where = f"{disk.file_name} (in {entry.stored_in})" if entry and entry.stored_in else disk.file_name
    decision = _DONE.get(disk.decision, disk.decision) if entry else disk.decision
    return disk.label, str(decision), disk.why, format_bytes(disk.capacity), shown, where or "-"


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
