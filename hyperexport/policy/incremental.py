"""Which disks to transfer, and why: the plan of an export.

A disk is reused from the base export only on proof that it did not change since; whatever is doubtful is transferred,
with the doubt as the reason. This module never asks the server: :func:`questions` says what is worth asking change
tracking, the caller asks, and :func:`plan_export` decides on the answers. It must never know of sockets or stores.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from pydantic import Field

from hyperexport.base.units import format_age, format_bytes, format_duration
from hyperexport.errors import NothingToExport
from hyperexport.model.history import TOLERANCE
from hyperexport.model.manifest import (
    GRAINS_SUFFIX,
    MOST_FILES,
    ExportKind,
    ExportManifest,
    FileEntry,
    SkippedDisk,
    slug,
)
from hyperexport.model.transport import RANGED, Transport
from hyperexport.model.vm import DiskInfo, Value, VmRef

_OTHER_FILES: Final = 100
"""Files of an export that are no disks, generously."""
_FILES_OF_A_PART: Final = 3
"""Of each file of a chain: itself, its block tags and its grain tags."""
_FIRST: Final = "this is the first export of the VM in this store"
_PACKED: Final = "an OVA holds whole disks"
_ASKED: Final = "--synthetic-full was given"


class Decision(StrEnum):
    """What becomes of one disk."""

    TRANSFER = "transfer"
    REUSE = "unchanged"
    UNDECIDED = "undecided"
    """Only in a dry run of a running VM: whether the disk changed can be told only from a snapshot."""
    SKIP = "skipped"


class ChangeEvidence(Value):
    """What change tracking answered for one disk, about the time since the base's change id."""

    changed_bytes: int | None = Field(default=None, ge=0, description="0 proves the disk unchanged; None: not known.")
    areas: tuple[tuple[int, int], ...] | None = Field(
        default=None, description="Offset and length of each area that may have changed, ascending and apart."
    )
    problem: str | None = Field(default=None, description="Why it cannot be told, in words.")


class DiskPlan(Value):
    """What becomes of one disk, and why."""

    key: int
    label: str
    file_name: str = Field(description="Its name in the export; empty for a disk that is skipped.")
    capacity: int = Field(description="Bytes that the guest sees.")
    decision: Decision
    reason: str = Field(description="In words, for an administrator.")
    base_entry: FileEntry | None = Field(default=None, description="The same disk in the base export.")
    bases: tuple[FileEntry, ...] = Field(
        default=(),
        exclude=True,
        description="What the disk's file will build on or be made of: the files of the base export's disk for a delta "
        "and a synthetic full of a changed disk, those below its own file for an unchanged disk; the base first.",
    )
    storage: str = Field(default="", description="Whether an incremental export keeps a delta or the whole disk.")
    changed: tuple[tuple[int, int], ...] | None = Field(
        default=None,
        exclude=True,
        description="What change tracking says may have changed since the base: offset and length of each area.",
    )
    distrusted: str | None = Field(
        default=None, description="The series of change ids that was found to leave out changes, while it lasts."
    )
    transport: Transport | None = Field(default=None, description="How it is read from vSphere; None if it is not.")
    transport_words: str = Field(default="", description="The same for people, and why it is not read a better way.")
    synthetic: bool = Field(
        default=False,
        description="Whether it becomes one whole file out of the store's own grains; of a changed disk with those "
        "that changed, which a range transport reads.",
    )

    @property
    def why(self) -> str:
        """The reason, how an incremental export keeps the disk, and how the changes are read."""
        return "; ".join(words for words in (self.reason, self.storage, self.transport_words) if words)

    expected_bytes: int = Field(description="What its stream is expected to take, in bytes; 0 if skipped.")
    changed_bytes: int | None = Field(default=None, description="Bytes that changed on the disk since the base.")


class ExportPlan(Value):
    """What an export will do; a dry run shows it, a real run does it."""

    vm: VmRef
    kind: ExportKind
    reason: str = Field(description="Why it is full, or what it builds on, in words.")
    base: str | None = Field(default=None, description="The id of the export that an incremental one builds on.")
    last_full: str | None = Field(default=None, description="The newest full export of the chain; None when full.")
    disks: tuple[DiskPlan, ...]

    @property
    def to_transfer(self) -> tuple[DiskPlan, ...]:
        """The disks whose bytes are read from vSphere."""
        return tuple(disk for disk in self.disks if disk.decision is Decision.TRANSFER)

    @property
    def to_reuse(self) -> tuple[DiskPlan, ...]:
        """The disks that the base export already has."""
        return tuple(disk for disk in self.disks if disk.decision is Decision.REUSE)

    @property
    def undecided(self) -> tuple[DiskPlan, ...]:
        """The disks of which only the real run can tell."""
        return tuple(disk for disk in self.disks if disk.decision is Decision.UNDECIDED)

    @property
    def written_bytes(self) -> int:
        """How much is expected to be written at the most, in bytes, without copies of what another store refers to."""
        fulls = [disk for disk in self.disks if disk.synthetic]
        others = sum(disk.expected_bytes for disk in (*self.to_transfer, *self.undecided) if not disk.synthetic)
        return others + sum(_stream_of(disk.base_entry) for disk in fulls if disk.base_entry)

    @property
    def skipped(self) -> tuple[SkippedDisk, ...]:
        """The disks that cannot be exported, for the manifest and the result."""
        return tuple(
            SkippedDisk(key=disk.key, label=disk.label, reason=disk.reason)
            for disk in self.disks
            if disk.decision is Decision.SKIP
        )

    @property
    def transfer_bytes(self) -> int:
        """How much is expected to be read from vSphere at the most, in bytes: undecided disks count in full."""
        return sum(disk.expected_bytes for disk in (*self.to_transfer, *self.undecided))

    @property
    def saved_bytes(self) -> int:
        """How much does not have to be read, in bytes."""
        return sum(disk.expected_bytes for disk in self.to_reuse)

    @property
    def saved_percent(self) -> float:
        """The saving as per cent of what a full export would read."""
        whole = self.transfer_bytes + self.saved_bytes
        return 100 * self.saved_bytes / whole if whole else 0.0


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
        planned = _export(disk, entry, answer, name=names[disk.key], verdict=verdict)
        if base and not full:
            chains = _Chains(base, max_chain, packed, synthetic_full, distant, disks=len(exportable))
            planned = _with_chain(planned, chains)
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


class _Chains(NamedTuple):
    """What decides of every disk of an incremental export whether it is stored as a delta."""

    base: ExportManifest
    max_chain: int
    packed: bool
    synthetic_full: bool
    distant: bool
    disks: int

    @property
    def only_whole(self) -> str:
        """Why each disk is stored whole; empty where deltas are possible."""
        return _PACKED if self.packed else _ASKED if self.synthetic_full else ""

    @property
    def downloads_each_time(self) -> bool:
        """Whether writing whole disks from the store's grains downloads the base each time, without being asked to."""
        return self.distant and not self.synthetic_full


def _with_chain(plan: DiskPlan, chains: _Chains) -> DiskPlan:
    """Decide whether a disk of an incremental export is stored as a delta on the base export's disk, or whole."""
    entry, base = plan.base_entry, chains.base
    if plan.decision is Decision.REUSE and entry and entry.chain and chains.only_whole:
        written = f"written whole from the store's own grains, not read from vSphere: {chains.only_whole}"
        return plan.model_copy(update={"synthetic": True, "storage": written})
    if plan.decision is Decision.REUSE and entry:
        return plan.model_copy(update={"bases": base.parts(entry)[:-1]})
    if plan.decision is Decision.SKIP or (chains.downloads_each_time and not chains.max_chain):
        return plan
    transferred = _why_transferred_whole(plan, entry, chains)
    whole = transferred or (_why_no_delta(entry, chains) if entry else None)
    storage = f"stored whole: {whole}" if whole else f"stored as a delta on {base.export_id}"
    # Whether what did not change is written from the store's own grains is decided with the transport.
    synthetic = whole is not None and not transferred and plan.decision is Decision.TRANSFER
    bases = base.parts(entry) if entry and (synthetic or not whole) else ()
    return plan.model_copy(update={"storage": storage, "synthetic": synthetic, "bases": bases})


def _why_no_delta(entry: FileEntry, chains: _Chains) -> str | None:
    """Why a disk is stored whole, although the base has what did not change of it."""
    if chains.only_whole:
        return chains.only_whole
    if entry.member_of is not None:
        return "the base export is an OVA"
    if not chains.max_chain:
        return "--max-chain 0 allows no deltas"
    deltas = len(entry.chain)
    room = (MOST_FILES - _OTHER_FILES) // (chains.disks * _FILES_OF_A_PART)
    if deltas < min(chains.max_chain, room):
        return None
    return f"its chain has {deltas} delta{'' if deltas == 1 else 's'}, at --max-chain {chains.max_chain}"


def _why_transferred_whole(plan: DiskPlan, entry: FileEntry | None, chains: _Chains) -> str | None:
    """Why all of a disk is read from vSphere and stored whole, whatever else there is."""
    if entry is None:
        return "the base export does not have this disk"
    held = entry.populated or entry.received or entry.size
    untagged = [part.name for part in chains.base.parts(entry) if not chains.base.file(part.name + GRAINS_SUFFIX)]
    checks = (
        (chains.downloads_each_time and chains.packed, _PACKED),
        (chains.downloads_each_time and entry.member_of is not None, "the base export is an OVA"),
        (
            chains.distant and (bool(untagged) or entry.cid is None),
            f"{chains.base.export_id} was made by an earlier version, which left no tags of its grains to compare with",
        ),
        (2 * (plan.changed_bytes or 0) > held, "more than half of it changed"),
    )
    return next((words for applies, words in checks if applies), None)


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
    )


def _export(
    disk: DiskInfo,
    entry: FileEntry | None,
    answer: ChangeEvidence | None,
    *,
    name: str,
    verdict: tuple[Decision, str],
) -> DiskPlan:
    same = entry if entry and entry.capacity == disk.capacity and entry.backing_uuid == disk.backing_uuid else None
    stream = _stream_of(same) if same else disk.capacity if disk.used is None else disk.used
    return DiskPlan(
        key=disk.key,
        label=disk.label,
        file_name=name,
        capacity=disk.capacity,
        decision=verdict[0],
        reason=verdict[1],
        base_entry=same,
        expected_bytes=stream,
        changed_bytes=answer.changed_bytes if answer else None,
        changed=answer.areas if answer else None,
        distrusted=_distrusted(disk, same),
    )


def _stream_of(entry: FileEntry) -> int:
    """Bytes that a lease's stream of a stored disk is expected to take."""
    if entry.received and entry.transport not in RANGED:
        return entry.received
    return (entry.populated or entry.capacity or entry.size) if entry.chain else entry.size


def _building_on(base: ExportManifest, plans: Sequence[DiskPlan]) -> str:
    counts = Counter(plan.decision for plan in plans)
    total = len(plans) - counts[Decision.SKIP]
    if counts[Decision.UNDECIDED]:
        return f"builds on {base.export_id}, {counts[Decision.UNDECIDED]} of {total} disks to be decided by a snapshot"
    if not counts[Decision.REUSE]:
        which = "the disk" if total == 1 else "every disk"
        return f"builds on {base.export_id}, {which} changed since then or cannot be proved unchanged"
    return f"builds on {base.export_id}, {counts[Decision.REUSE]} of {total} disks unchanged"
