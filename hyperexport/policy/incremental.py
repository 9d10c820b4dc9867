"""Which disks to transfer, and why: the plan of an export.

A disk is reused from the base export only on proof that it did not change since; whatever is doubtful is transferred,
with the doubt as the reason. This module never asks the server: :func:`questions` says what is worth asking change
tracking, the caller asks, and :func:`plan_export` decides on the answers. It must never know of sockets or stores.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import Field

from hyperexport.base.units import format_age, format_bytes, format_duration
from hyperexport.errors import NothingToExport
from hyperexport.model.history import TOLERANCE
from hyperexport.model.manifest import ExportKind, ExportManifest, FileEntry, slug, whole_size
from hyperexport.model.vm import DiskInfo, Value, VmRef
from hyperexport.policy.disk_storage import Chains, with_storage
from hyperexport.policy.export_plan import Decision, DiskPlan, ExportPlan, stream_of

_FIRST: Final = "this is the first export of the VM in this store"


class ChangeEvidence(Value):
    """What change tracking answered for one disk, about the time since the base's change id."""

    changed_bytes: int | None = Field(default=None, ge=0, description="0 proves the disk unchanged; None: not known.")
    areas: tuple[tuple[int, int], ...] | None = Field(
        default=None, description="Offset and length of each area that may have changed, ascending and apart."
    )
    problem: str | None = Field(default=None, description="Why it cannot be told, in words.")


def full_reason(
    disks: Sequence[DiskInfo],
    *,
    base: ExportManifest | None,
    wanted: bool,
    force_full: bool,
    full_after: timedelta,
    now: datetime,
    base_problem: str | None = None,
) -> str | None:
    """Say why every disk has to be transferred.

    Args:
        disks: The VM's disks, as they are or as the snapshot froze them.
        base: The newest complete export of the VM in the store.
        wanted: Whether an incremental export was asked for.
        force_full: Whether a full export was requested.
        full_after: The age of the last full export at which the next one is full.
        now: The time of this run.
        base_problem: Why the base cannot be built on, such as a file that is missing.

    Returns:
        The reason in words, or None when an incremental export is possible.
    """
    if not wanted:
        return "--incremental was not asked for"
    if force_full:
        return "--force-full was given"
    if base_problem:
        return f"the base export is damaged: {base_problem}"
    if base is None:
        return _FIRST
    if base.damage:
        return f"the base export is damaged: {base.damage[0]}"
    return _layout_change(disks, base) or _too_old(base.last_full, full_after, now)


def _layout_change(disks: Sequence[DiskInfo], base: ExportManifest) -> str | None:
    """Disks added, removed, replaced or resized since the base."""
    now = {disk.key: disk for disk in disks if disk.unexportable is None}
    before = {entry.disk_key: entry for entry in base.disks}
    changes = [f"disk added: {disk.label}" for key, disk in now.items() if key not in before]
    changes += [f"disk removed: {entry.disk_label or entry.name}" for key, entry in before.items() if key not in now]
    for disk in now.values():
        entry = before.get(disk.key)
        if entry is None:
            continue
        if entry.capacity != disk.capacity:
            changes.append(
                f"disk resized: {disk.label} from {format_bytes(entry.capacity or 0)} to {format_bytes(disk.capacity)}"
            )
        elif disk.backing_uuid and entry.backing_uuid and disk.backing_uuid != entry.backing_uuid:
            changes.append(f"disk replaced: {disk.label}")
    return "; ".join(changes) or None


def _too_old(last_full: str, full_after: timedelta, now: datetime) -> str | None:
    """The last full export's age. Of one that is dated in the future the age is not known, so it counts as too old."""
    made = datetime.strptime(last_full.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    age = now - made
    if age < -TOLERANCE:
        return f"the last full export is dated {format_age(-age)} in the future, so its age is not known"
    if age < full_after:
        return None
    return f"the last full export is {format_age(age)} old, and --full-after is {format_duration(full_after)}"


def questions(disks: Sequence[DiskInfo], base: ExportManifest) -> dict[int, str]:
    """Choose what to ask change tracking.

    Returns:
        The key of each disk of which a proof is possible, and the base's change id to ask about.
    """
    entries = {entry.disk_key: entry for entry in base.disks}
    asked: dict[int, str] = {}
    for disk in disks:
        entry = entries.get(disk.key)
        if disk.unexportable is None and entry and entry.change_id and _no_proof_possible(disk, entry) is None:
            asked[disk.key] = entry.change_id
    return asked


def _no_proof_possible(disk: DiskInfo, entry: FileEntry | None) -> str | None:
    """Why change tracking could not prove this disk unchanged, whatever it answered; None where it could."""
    if entry is None:
        return "the base export does not have this disk"
    if another := _another_disk(disk, entry):
        return another
    if not disk.change_id:
        return "change tracking is off on this disk"
    if not entry.change_id:
        return "change tracking was off on this disk at the base export"
    if _distrusted(disk, entry):
        return "change tracking left out changes of this disk before, and has not begun anew since"
    return other_series(disk.change_id, entry.change_id)


def series_of(change_id: str | None) -> str | None:
    """The series that a change id belongs to: tracking that begins anew has another one."""
    return change_id.rpartition("/")[0] or change_id if change_id else None


def _distrusted(disk: DiskInfo, entry: FileEntry | None) -> str | None:
    """The series of change ids that was found to leave out changes, as long as the disk's ids are of it."""
    distrusted = entry.distrusted if entry else None
    return distrusted if distrusted and series_of(disk.change_id) in {distrusted, None} else None


def _another_disk(disk: DiskInfo, entry: FileEntry) -> str | None:
    doubts = (
        (not (disk.backing_uuid and entry.backing_uuid), "the server reports no UUID for the disk"),
        (disk.backing_uuid != entry.backing_uuid, "it is not the disk of the base export"),
        (disk.capacity != entry.capacity, "it was resized since the base export"),
    )
    return next((words for applies, words in doubts if applies), None)


def _untouched(disk: DiskInfo, entry: FileEntry | None) -> bool:
    """Prove without change tracking that a disk of a VM that is off, and was off, is as it was.

    The files of a disk are known only of a VM that is off. They include the VM's configuration and log, which are
    written whenever it is powered on, so equal files say that it was not on in between.
    """
    return (
        entry is not None
        and _another_disk(disk, entry) is None
        and bool(disk.content_id)
        and disk.content_id == entry.content_id
        and bool(disk.backing_files)
        and disk.backing_files == entry.backing_files
    )


def other_series(now: str, before: str) -> str | None:
    """Whether two change ids can be compared.

    vSphere gives ``<uuid>/<sequence>``. A new uuid means that tracking began anew and the old map is void; a sequence
    that went back means that the VM was reverted to a snapshot. Beyond that a change id is opaque.
    """
    series, _, count = now.rpartition("/")
    series_before, _, count_before = before.rpartition("/")
    if not series or series != series_before:
        return "change tracking was restarted since the base export (its id belongs to another series)"
    if count.isdecimal() and count_before.isdecimal() and int(count) < int(count_before):
        return "change tracking went back since the base export, as after reverting to a snapshot"
    return None


def plan_export(
    vm: VmRef,
    disks: Sequence[DiskInfo],
    *,
    base: ExportManifest | None,
    full: str | None,
    evidence: Mapping[int, ChangeEvidence],
    undecided: bool = False,
    max_chain: int = 0,
    packed: bool = False,
    synthetic_full: bool = False,
    distant: bool = False,
) -> ExportPlan:
    """Decide what becomes of every disk.

    Only a reason of :func:`full_reason` makes an export full. An incremental one may transfer every disk, as of a VM
    without change tracking: it keeps bytes that are equal to earlier ones once, so ``--full-after`` does not count
    from it.

    Args:
        vm: The VM.
        disks: Its disks, as they are or as the snapshot froze them, in the VM's order.
        base: The export that may be built on; None where there is none or it is damaged.
        full: Why every disk is transferred (:func:`full_reason`); None for an incremental export.
        evidence: What change tracking answered to :func:`questions`, by disk key.
        undecided: This is a dry run of a running VM: nothing could be asked, for want of a snapshot.
        max_chain: The most deltas that a disk may have; 0 keeps whole disks alone.
        packed: Whether the export becomes an OVA, which holds whole disks.
        synthetic_full: Whether an export of folders holds whole disks alone, too.
        distant: Whether reading the base is a download: then a delta is made only of tags, which earlier versions left
            none of.

    Raises:
        NothingToExport: Not one disk can be exported.
    """
    exportable = [disk.key for disk in disks if disk.unexportable is None]
    if not exportable:
        why = "; ".join(f"{disk.label}: {disk.unexportable}" for disk in disks) or "it has no disks"
        raise NothingToExport(f"no disk of {vm.name} can be exported: {why}")
    names = {key: f"{slug(vm.name)}-disk-{position}.vmdk" for position, key in enumerate(exportable)}
    entries = {entry.disk_key: entry for entry in base.disks} if base else {}
    plans: list[DiskPlan] = []
    for disk in disks:
        entry, answer = entries.get(disk.key), evidence.get(disk.key)
        if disk.unexportable is not None:
            plans.append(_skip(disk, disk.unexportable))
            continue
        verdict = (Decision.TRANSFER, full) if full else _decide(disk, entry, answer, undecided=undecided)
        planned = _export(disk, entry, base, answer, name=names[disk.key], verdict=verdict)
        if base and not full:
            chains = Chains(base, max_chain, packed, synthetic_full, distant, disks=len(exportable))
            planned = with_storage(planned, chains)
        plans.append(planned)
    if full or base is None:
        return ExportPlan(vm=vm, kind=ExportKind.FULL, reason=full or _FIRST, disks=tuple(plans))
    return ExportPlan(
        vm=vm,
        kind=ExportKind.INCREMENTAL,
        reason=_building_on(base, plans),
        base=base.export_id,
        last_full=base.last_full,
        disks=tuple(plans),
    )


def _decide(
    disk: DiskInfo, entry: FileEntry | None, evidence: ChangeEvidence | None, *, undecided: bool
) -> tuple[Decision, str]:
    """Decide on one exportable disk of an incremental export. Every way to REUSE is a proof."""
    if (evidence is None or evidence.changed_bytes is None) and _untouched(disk, entry):
        return Decision.REUSE, "the VM stayed off, and the disk's files are unchanged"
    doubt = _no_proof_possible(disk, entry)
    if doubt:
        return Decision.TRANSFER, doubt
    if undecided:
        return Decision.UNDECIDED, "only a snapshot shows whether it changed, and a dry run makes none"
    if evidence is None or evidence.problem or evidence.changed_bytes is None:
        why = evidence.problem if evidence and evidence.problem else "it gave no answer"
        return Decision.TRANSFER, f"change tracking cannot tell what changed: {why}"
    if evidence.changed_bytes:
        return Decision.TRANSFER, _changed(evidence.changed_bytes, evidence.areas)
    return Decision.REUSE, "change tracking proves that nothing changed since the base export"


def _changed(count: int, areas: Sequence[tuple[int, int]] | None) -> str:
    if areas is None:
        return f"{format_bytes(count)} changed"
    return f"{format_bytes(count)} changed in {len(areas)} area{'' if len(areas) == 1 else 's'}"


def _skip(disk: DiskInfo, reason: str) -> DiskPlan:
    return DiskPlan(
        key=disk.key,
        label=disk.label,
        file_name="",
        capacity=disk.capacity,
        decision=Decision.SKIP,
        reason=reason,
        expected_bytes=0,
        whole_bytes=0,
    )


def _export(
    disk: DiskInfo,
    entry: FileEntry | None,
    base: ExportManifest | None,
    answer: ChangeEvidence | None,
    *,
    name: str,
    verdict: tuple[Decision, str],
) -> DiskPlan:
    same = entry if entry and entry.capacity == disk.capacity and entry.backing_uuid == disk.backing_uuid else None
    stream = stream_of(same) if same else disk.capacity if disk.used is None else disk.used
    return DiskPlan(
        key=disk.key,
        label=disk.label,
        file_name=name,
        capacity=disk.capacity,
        decision=verdict[0],
        reason=verdict[1],
        base_entry=same,
        expected_bytes=stream,
        whole_bytes=whole_size(same, base.files) if base and same else stream,
        changed_bytes=answer.changed_bytes if answer else None,
        changed=answer.areas if answer else None,
        distrusted=_distrusted(disk, same),
    )


def _building_on(base: ExportManifest, plans: Sequence[DiskPlan]) -> str:
    counts = Counter(plan.decision for plan in plans)
    total = len(plans) - counts[Decision.SKIP]
    if counts[Decision.UNDECIDED]:
        return f"builds on {base.export_id}, {counts[Decision.UNDECIDED]} of {total} disks to be decided by a snapshot"
    if not counts[Decision.REUSE]:
        which = "the disk" if total == 1 else "every disk"
        return f"builds on {base.export_id}, {which} changed since then or cannot be proved unchanged"
    return f"builds on {base.export_id}, {counts[Decision.REUSE]} of {total} disks unchanged"
