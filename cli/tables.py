"""Answers for a person at a terminal: tables and sentences, made with rich. Knows values, asks nobody anything."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hyperexport.base.text import visible
from hyperexport.base.units import format_age, format_bytes, format_elapsed, format_rate
from hyperexport.cli.quiet import as_flag
from hyperexport.model.history import is_of_the_future
from hyperexport.model.manifest import ExportManifest, short_id
from hyperexport.model.vm import DiskInfo, PowerState, VmInfo
from hyperexport.policy.incremental import Decision, DiskPlan, ExportPlan
from hyperexport.policy.snapshots import Fate
from hyperexport.results import (
    CleanupResult,
    ExportResult,
    FleetResult,
    Level,
    ReapResult,
    SetupReport,
    StoreContents,
    VerifiedExport,
)
from hyperexport.store.base import StoredExport
from hyperexport.store.listing import StoreListing
from hyperexport.views.summary import bandwidth_words, snapshot_lines, stored_words
from hyperexport.views.survey import StoreSurvey

if TYPE_CHECKING:
    from hyperexport.deployments.automations import Automation
    from hyperexport.deployments.schedules import Schedule

_MOST_BY_THEMSELVES = 10
_LEVELS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}
_DOTS = {PowerState.ON: "green", PowerState.OFF: "red", PowerState.SUSPENDED: "yellow", PowerState.UNKNOWN: "dim"}


def show_vm(console: Console, vm: VmInfo) -> None:
    """Show a VM: its properties, disks, network adapters and snapshots."""
    console.print(_properties(vm))
    if vm.disks:
        columns = ("Disk", "Capacity", "Used", "Thin", "Controller", "Backing", "Change tracking")
        console.print(_table("Disks", columns, (_disk_row(disk) for disk in vm.disks)))
    else:
        console.print("It has no disks.")
    if vm.nics:
        rows = ((nic.label, nic.type, nic.network or "-", nic.mac or "-", _yes(nic.connected)) for nic in vm.nics)
        console.print(_table("Network adapters", ("Adapter", "Type", "Network", "MAC", "Connected"), rows))
    if vm.snapshots:
        rows = (
            (
                "  " * (snapshot.depth - 1) + snapshot.name + (" (current)" if snapshot.current else ""),
                f"{snapshot.created:%Y-%m-%d %H:%M} UTC",
                _yes(snapshot.quiesced),
            )
            for snapshot in vm.snapshots
        )
        console.print(_table("Snapshots", ("Snapshot", "Made", "Quiesced"), rows))


def show_one_of_vms(console: Console, vm: VmInfo, position: int, vms: Sequence[VmInfo]) -> None:
    """Show one of a few VMs whole; of many, the first stands for all: one table, with a row for each."""
    if len(vms) <= _MOST_BY_THEMSELVES:
        show_vm(console, vm)
    elif position == 0:
        columns = ("VM", "Power State", "Guest OS", "vCPUs", "Memory", "Disks", "Storage", "Used")
        console.print(_table(f"{len(vms)} VMs", columns, map(_vm_row, vms)))


def _vm_row(vm: VmInfo) -> tuple[str | Text, ...]:
    return (
        vm.ref.path,
        Text("● ", style=_DOTS[vm.power_state]).append(vm.power_state, style="default"),
        vm.guest_os,
        str(vm.cpus),
        f"{vm.memory_mb} MB",
        str(len(vm.disks)),
        format_bytes(vm.storage_bytes),
        format_bytes(vm.used),
    )


def show_fleet(console: Console, result: FleetResult) -> None:
    """Show how every VM of a fleet fared, and how to do again what failed."""
    rows = [tuple(map(str, member.row().values())) for member in result.members]
    columns = ("VM", "Outcome", "Kind", "Transferred", "Saved", "Seconds", "Message")
    console.print(_table(result.summary, columns, rows))
    for warning in result.warnings:
        console.print(_noted("warning: ", "yellow", warning), soft_wrap=True)
    if result.redo:
        _say(console, f"To export again only what failed: {result.redo}")


def _properties(vm: VmInfo) -> Table:
    power = Text("● ", style=_DOTS[vm.power_state]).append(vm.power_state, style="default")
    memory = f"{vm.memory_mb} MB ({vm.memory_mb / 1024:.1f} GB)"
    tracking = _yes(vm.change_tracking) if vm.change_tracking_supported else "not supported"
    notes = [
        words
        for applies, words in (
            (vm.template, "a template"),
            (vm.encrypted, "encrypted"),
            (vm.consolidation_needed, "its disks need consolidation"),
        )
        if applies
    ]
    rows: list[tuple[str, str | Text]] = [
        ("VM Name", vm.name),
        ("Power State", power),
        ("Guest OS", vm.guest_os),
        ("Memory", memory),
        ("vCPUs", str(vm.cpus)),
        ("Storage", format_bytes(vm.storage_bytes)),
        ("Used", f"{format_bytes(vm.used)} of {format_bytes(vm.provisioned)} provisioned"),
        ("Path", vm.ref.path),
        ("Firmware", vm.firmware),
        ("Hardware", vm.hardware_version),
        ("VMware Tools", vm.tools_status),
        ("Change Tracking", tracking),
        ("Host", vm.host or "-"),
        ("Datastores", ", ".join(vm.datastores) or "-"),
    ]
    if notes:
        rows.append(("Note", ", ".join(notes)))
    return _table("VM Information", ("Property", "Value"), rows)


def _disk_row(disk: DiskInfo) -> tuple[str, ...]:
    return (
        disk.label + _export_limits(disk),
        format_bytes(disk.capacity),
        "-" if disk.used is None else format_bytes(disk.used),
        "-" if disk.thin is None else _yes(disk.thin),
        f"{disk.controller}:{disk.unit}",
        f"{disk.backing} {disk.file}",
        _yes(disk.change_id is not None),
    )


def show_plan(console: Console, plan: ExportPlan) -> None:
    """Show what an export will transfer, and why."""
    _say(console, f"{plan.vm.path}: {plan.kind} export: {plan.reason}")
    rows = ((disk.label, _decision(disk), format_bytes(disk.expected_bytes), disk.reason) for disk in plan.disks)
    console.print(_table("Disks", ("Disk", "Decision", "Bytes", "Reason"), rows))
    most = "at the most " if plan.undecided else ""
    _say(
        console,
        f"{most}{format_bytes(plan.transfer_bytes)} to transfer, "
        f"{format_bytes(plan.saved_bytes)} saved ({plan.saved_percent:.0f} %)",
    )


def show_export(console: Console, result: ExportResult) -> None:
    """Show what an export did, or in a dry run would do."""
    if result.recent:
        _say(console, f"Nothing to do for {result.plan.vm.path}: {result.recent} is young enough")
    elif result.manifest is None:
        _say(console, f"Dry run of {result.plan.vm.path}: nothing was changed")
        show_plan(console, result.plan)
        for place in result.locations:
            _say(console, f"would be kept at {place}")
    else:
        _show_done(console, result, result.manifest)
    for line in snapshot_lines(result):
        _say(console, line)
    for cleanup in result.cleanups:
        show_cleanup(console, cleanup)
    for warning in result.warnings:
        console.print(_noted("warning: ", "yellow", warning), soft_wrap=True)


def _show_done(console: Console, result: ExportResult, manifest: ExportManifest) -> None:
    transfer = manifest.transfer
    rate = transfer.bytes_transferred / transfer.seconds if transfer.seconds else 0.0
    rows = [
        ("VM", manifest.vm.path),
        ("Export", manifest.export_id),
        ("Kind", f"{manifest.kind}: {manifest.reason}"),
        ("Consistency", str(manifest.snapshot.quiescing) if manifest.snapshot else "powered off"),
        ("Transferred", f"{format_bytes(transfer.bytes_transferred)} at {format_rate(rate)}"),
        *([("Bandwidth", bandwidth_words(transfer))] if transfer.limit_mean else []),
        ("Saved", f"{format_bytes(result.plan.saved_bytes)} ({result.plan.saved_percent:.0f} %)"),
        ("Stored", stored_words(manifest)),
        ("Took", format_elapsed(result.seconds)),
        ("Verified", verified_words(result)),
        ("Snapshot", snapshot_words(result)),
        *(("Location", place) for place in result.locations),
        *(("Skipped", f"{disk.label}: {disk.reason}") for disk in manifest.skipped_disks),
    ]
    console.print(_table("Exported", ("", ""), rows))


def verified_words(result: ExportResult) -> str:
    """Whether what is stored was proved, in a word or two."""
    return {None: "not asked for", True: "yes", False: "FAILED"}[result.verified]


def snapshot_words(result: ExportResult) -> str:
    """What became of the snapshot."""
    if result.manifest is None or result.manifest.snapshot is None:
        return "none was needed"
    name = result.manifest.snapshot.name
    return f"{name}, kept" if result.snapshot_kept else f"{name}, removed"


def show_cleanup(console: Console, result: CleanupResult) -> None:
    """Show what a cleanup deleted, or in a dry run would delete."""
    deleted = set(result.deleted)
    for item in result.plan.to_delete:
        if result.dry_run or str(item) in deleted:
            verb = "would delete" if result.dry_run else "deleted"
            _say(console, f"{verb} {item} ({format_bytes(item.size)}): {item.reason}")
    for failure in result.failed:
        console.print(_noted("could not delete ", "red", failure), soft_wrap=True)
    for words in result.deferred:
        console.print(_noted("left for now ", "yellow", words), soft_wrap=True)
    for name in result.abandoned:
        verb = "would remove" if result.dry_run else "removed"
        _say(console, f"{verb} {name}: abandoned half-written by a run that is over")
    for words in result.plan.doubts:
        console.print(_noted("not deleted: ", "red", words), soft_wrap=True)
    for words in result.plan.unreachable:
        console.print(_noted("note: ", "yellow", words), soft_wrap=True)
    count = len(result.plan.to_delete) if result.dry_run else len(deleted)
    verb = "would be deleted" if result.dry_run else "deleted"
    _say(console, f"{result.store}: {count} {verb}, {result.freed_words}, {len(result.plan.items) - count} kept")


def show_reaped(console: Console, result: ReapResult) -> None:
    """Show what dead runs left, and what was done about it."""
    if result.snapshots:
        rows = ((str(value) for value in item.row().values()) for item in result.snapshots)
        columns = ("VM", "Snapshot", "Age", "Run", "Machine", "State", "Action")
        console.print(_table(f"Snapshots of this tool on {result.vcenter}", columns, (tuple(row) for row in rows)))
    verb = "would be removed" if result.dry_run else "removed"
    for staging in result.stagings:
        _say(console, f"half-written export {staging}: {verb}")
    count = len(result.having(Fate.ABANDONED))
    _say(console, f"{result.vcenter}: {count} snapshots and {len(result.stagings)} half-written exports {verb}")


def show_check(console: Console, report: SetupReport) -> None:
    """Show everything that was tried; then, one by one, what to do about it."""
    rows = (
        (finding.what, Text(finding.level, style=_LEVELS[finding.level]), finding.words) for finding in report.findings
    )
    console.print(_table("Checks", ("Check", "Result", "Finding"), rows))
    for finding in report.findings:
        if finding.fix and finding.level is not Level.OK:
            _say(console, f"{finding.what}: {finding.fix}")
    _say(console, report.summary)


def show_verified(console: Console, export: VerifiedExport) -> None:
    """Show that an export is what it was."""
    found = export.verification
    _say(console, f"{export.location}: {export.words}")
    for finding in found.findings:
        _say(console, f"  {finding}")
    if found.unrecorded:
        _say(console, f"  not recorded in its manifest: {found.unrecorded}")


def show_stored(console: Console, store: str, listing: StoreListing) -> None:
    """Show the exports that a store holds, and what cannot be relied on last."""
    if not listing.exports and not listing.damaged:
        _say(console, f"{store}: no exports")
        return
    contents = StoreContents(store=store, exports=listing.exports)
    added, shared = contents.added_bytes, contents.shared_with
    now = datetime.now(UTC)
    rows = [
        (
            short_id(str(export)),
            export.manifest.vm.name,
            f"{export.manifest.started:%Y-%m-%d %H:%M} UTC"
            + (" (in the future)" if is_of_the_future(export.manifest, now) else ""),
            str(export.manifest.kind),
            format_bytes(added[str(export)]),
            format_bytes(export.manifest.transfer.bytes_transferred),
            _proof(export.manifest),
            "yes" if export.manifest.preserve else "",
            _sharers(shared[str(export)]),
        )
        for export in listing.exports
    ]
    rows += [
        (short_id(str(one)) if one.export_id else "-", str(one), "-", "-", "-", "-", f"DAMAGED: {one.reason}", "", "")
        for one in listing.damaged
    ]
    columns = ("Id", "VM", "Time", "Kind", "Adds", "Transferred", "Verified", "Preserved", "Shares bytes with")
    console.print(_table(store, columns, rows))


def _sharers(names: Sequence[str]) -> str:
    """The other exports that one rotten file would damage as well; the first few of them."""
    ids = [short_id(name) for name in names]
    return ", ".join(ids) if len(ids) < 3 else f"{ids[0]}, {ids[1]} and {len(ids) - 2} more"


def _proof(manifest: ExportManifest) -> str:
    """What the newest verification found."""
    if manifest.damage:
        return "DAMAGED"
    return f"{manifest.verified:%Y-%m-%d}" if manifest.verified else "never"


def show_survey(console: Console, found: StoreSurvey, rpo: timedelta) -> None:
    """Show how well each VM of a store is protected, those that lack something first."""
    if found.problem or not found.vms:
        _say(console, f"{found.store}: {found.problem or 'no exports'}")
        return
    ordered = sorted(found.vms, key=lambda vm: (not vm.is_late(found.taken, rpo), not vm.missing(found.taken, rpo)))
    rows: list[tuple[str, ...]] = []
    for vm in ordered:
        last, age = vm.last_good, vm.age(found.taken)
        rows.append(
            (
                vm.name,
                f"{last.started:%Y-%m-%d %H:%M} UTC" if last else "-",
                format_age(age) if age is not None else "-",
                format_bytes(vm.stored_bytes),
                str(len(vm.exports)),
                f"{last.verified:%Y-%m-%d}" if last and last.verified else "never",
                "; ".join(vm.missing(found.taken, rpo)) or "nothing",
            )
        )
    console.print(
        _table(found.store, ("VM", "Last good export", "Age", "Stored", "Exports", "Verified", "Missing"), rows)
    )
    late = len(found.late(rpo))
    _say(console, f"{len(found.vms) - late} of {len(found.vms)} VMs have a good export of the last {format_age(rpo)}.")
    for one in found.unproved:
        console.print(_noted("DAMAGED ", "red", one.words), soft_wrap=True)


def show_automations(console: Console, found: "Sequence[Automation]", done: str | None) -> None:
    """Show automations."""
    if not found:
        _say(console, "No automations of this tool. Make them with hyperexport automations create.")
        return
    rows = [(one.name, done or ("enabled" if one.enabled else "disabled"), one.when) for one in found]
    console.print(_table("Automations", ("Name", "State", "When"), rows))


def show_preserved(console: Console, store: str, export: StoredExport) -> None:
    """Say whether cleanups now spare an export."""
    words = "preserved: no cleanup deletes it" if export.manifest.preserve else "no longer preserved"
    _say(console, f"{store}/{export}: {words}")


def show_profile(console: Console, name: str, options: Mapping[str, object], done: str = "") -> None:
    """Show what a profile sets, as it would be typed."""
    flags = " ".join(f"--{key.replace('_', '-')}={as_flag(value)}" for key, value in options.items())
    _say(console, f"{done} {name}: {flags}".strip())


def show_config(
    console: Console, values: Iterable[tuple[str, str, str]], secrets: Mapping[str, str], runs: str
) -> None:
    """Show every option's flag, value and source, then which secrets are set, and where a command runs."""
    console.print(_table("Options in force", ("Option", "Value", "From"), values))
    console.print(_table("Secrets", ("Variable", "State"), secrets.items()))
    console.print(f"A command runs {visible(runs)}", markup=False, soft_wrap=True)


def show_schedules(console: Console, schedules: Sequence["Schedule"], done: str | None) -> None:
    """Show the schedules that there are, or what was done to one."""
    rows = (
        (item.name, item.flow, item.when, _time(item.next), "yes" if item.active else "paused") for item in schedules
    )
    if done:
        show_scheduled(console, schedules[0], done)
    elif schedules:
        console.print(_table("Schedules", ("Name", "Flow", "When", "Next", "Active"), rows))
    else:
        _say(console, "no schedules")


def show_scheduled(console: Console, schedule: "Schedule", done: str) -> None:
    """Say what became of one schedule: ``scheduled``, ``would schedule``, ``paused``, ..."""
    following = f": {schedule.when}, next {_time(schedule.next)}" if schedule.active else ""
    _say(console, f"{done} {schedule.full_name}{following}")


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    shown = Text(visible(title))
    table = Table(title=shown, title_justify="left", title_style="bold", box=box.SQUARE, show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(visible(cell)) for cell in row))
    return table


def _say(console: Console, words: str) -> None:
    """Print a sentence as it is: no markup, no wrapping, so that it can be searched for."""
    console.print(Text(visible(words)), soft_wrap=True)


def _noted(mark: str, style: str, words: str) -> Text:
    """A coloured word, and after it what it is about."""
    return Text(mark, style=style).append(visible(words), style="default")


def _decision(disk: DiskPlan) -> str:
    return "reuse" if disk.decision is Decision.REUSE else str(disk.decision)


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M %Z}" if moment else "-"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _export_limits(disk: DiskInfo) -> str:
    """Why a disk cannot be exported, or not from a snapshot."""
    if disk.unexportable:
        return f" (cannot be exported: {disk.unexportable})"
    return f" (not from a snapshot: {disk.unsnapshottable})" if disk.unsnapshottable else ""
