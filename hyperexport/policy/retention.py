"""Which old exports go, and why: the plan of a cleanup.

Limits say which exports should go; guards say which never do: the newest export of each VM (and the newest that no
verification found damaged), what somebody preserved, what a keep rule holds (``keep_rules.py``), whatever a kept
export refers to, and everything that only a clock in doubt calls old. A guard always wins over a limit, and the limit
is then reported as out of reach. A VM is known by its identity in the manifests, never by a folder's name. Damaged
exports decide nothing and are never deleted; where they may use the files of others, those stay as well. This module
sees what a listing gave; it must never list or delete anything itself.
"""

import heapq
import shlex
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, NamedTuple

from pydantic import Field

from hyperexport.base.patterns import matches
from hyperexport.base.units import format_age, format_bytes, format_duration
from hyperexport.errors import UsageError
from hyperexport.model.content import Place, kept, total
from hyperexport.model.damaged import DamagedExport
from hyperexport.model.history import Placed, grouped, identity_of, is_of_the_future, made, place
from hyperexport.model.identity import VmIdentity
from hyperexport.model.manifest import ExportManifest, FileEntry
from hyperexport.model.vm import Value
from hyperexport.options.groups import Cleanup
from hyperexport.policy.clock import ClockVerdict
from hyperexport.policy.keep_rules import KeepRules

DEFAULT_AGE: Final = timedelta(hours=720)
"""What applies where cleanup is asked for without any limit."""


class CleanupLimits(Value):
    """When an export has to go. Whatever is 0 or None is no limit."""

    max_age: timedelta | None = None
    max_count: int = Field(default=0, ge=0, description="Exports of each VM.")
    max_size: int = Field(default=0, ge=0, description="Bytes of the whole store.")
    min_free: int = Field(default=0, ge=0, description="Bytes that shall be free where the store is.")
    preserve: tuple[str, ...] = Field(default=(), description="Patterns of VM names, paths, folders and export ids.")
    keep: KeepRules = Field(default=KeepRules(), description="What no limit deletes.")

    @classmethod
    def from_options(cls, options: Cleanup) -> "CleanupLimits":
        """Work out the limits: age alone applies only if it was given, or if no other limit was."""
        age = options.max_age
        if age is None and not (options.max_count or options.max_size or options.min_free):
            age = DEFAULT_AGE
        return cls(
            max_age=age or None,
            max_count=options.max_count,
            max_size=options.max_size,
            min_free=options.min_free,
            preserve=options.preserve,
            keep=KeepRules.from_options(options),
        )


class CleanupItem(Value):
    """One export, and what becomes of it."""

    folder: str
    export_id: str
    vm: str = Field(description="The VM's name at the time of the export.")
    started: datetime
    size: int = Field(description="Bytes of its files, also of those that it shares with other exports.")
    refers_to: tuple[str, ...] = Field(default=(), description="The exports of the same VM whose files it uses. S3.")
    delete: bool
    reason: str
    kept_by: tuple[str, ...] = Field(default=(), description="The keep rules that hold it, each with its period.")

    def __str__(self) -> str:
        return f"{self.folder}/{self.export_id}"


class CleanupPlan(Value):
    """What a cleanup will do; a dry run shows it, a real run does it."""

    items: tuple[CleanupItem, ...] = Field(
        description="Every export of the store: first what goes, in the order to delete it, then what stays."
    )
    unreachable: tuple[str, ...] = Field(default=(), description="Limits that cannot be met, and why.")
    damaged: tuple[DamagedExport, ...] = Field(
        default=(), description="Damaged or unreadable entries of the store: neither counted nor deleted."
    )
    doubts: tuple[str, ...] = Field(default=(), description="What a clock in doubt keeps from being deleted, and why.")
    unmatched: tuple[str, ...] = Field(default=(), description="Patterns that match nothing, each as a sentence.")
    freed_bytes: int = Field(description="What deleting frees: content that no remaining export shares.")
    kept_bytes: int = Field(description="What then remains in the store, shared content counted once.")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the person who asked for it has to know, whatever it deletes."""
        return (*self.doubts, *self.unmatched)

    @property
    def to_delete(self) -> tuple[CleanupItem, ...]:
        """What goes, oldest first, and never before an export that refers to it: any prefix leaves a whole store."""
        return tuple(item for item in self.items if item.delete)


class Incoming(Value):
    """An export that is not there yet: lets a dry run say what the cleanup after it would delete."""

    folder: str
    identity: VmIdentity = Field(description="Its VM.")
    names: tuple[str, ...] = Field(default=(), description="The VM's name and path.")
    new_bytes: int = Field(description="Bytes that it will add to the store.")
    shares: tuple[FileEntry, ...] = Field(default=(), description="The disks of earlier exports that it will reuse.")
    refers_to: tuple[str, ...] = Field(default=(), description="The exports that will hold their bytes. S3.")


def plan_cleanup(
    exports: Iterable[tuple[str, ExportManifest]],
    limits: CleanupLimits,
    *,
    now: datetime,
    free_bytes: int | None,
    incoming: Sequence[Incoming] = (),
    damaged: Sequence[DamagedExport] = (),
    refers: bool = False,
    own: Container[str] = (),
    clock: ClockVerdict = ClockVerdict(),  # noqa: B008 - it is immutable
    unproved_marks: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> CleanupPlan:
    """Decide what goes and what stays.

    Age and count decide first; the size of the store and the free space then take the oldest of what is left.

    Args:
        exports: Every proved export of the store, each with its VM's folder, in any order.
        limits: When an export has to go.
        now: The time of this cleanup.
        free_bytes: Bytes that are free where the store is; None where the notion has no meaning.
        incoming: The exports that a dry run takes as done.
        damaged: What the store holds besides and cannot be relied on.
        refers: Whether the store lets an export use another's files.
        own: The ids of the exports that this run made; they stay.
        clock: What this machine's clock may decide.
        unproved_marks: For ``<vm folder>/<export id>`` the damaged marks that lie beside it. It may be preserved, or
            damaged itself: it stays, and holds no period and no place of a good one.

    Raises:
        UsageError: A pattern with commas preserves nothing as one pattern, but would as several.
    """
    listed = list(exports)
    everything = _placed(listed, incoming, now, unproved_marks)
    free_bytes = None if free_bytes is None else free_bytes - sum(export.new_bytes for export in incoming)
    everything.sort(key=_age_order, reverse=True)
    age_by = now if clock.confirmed else _newest_time(listed, now)

    unmatched = _matching_nothing(everything, limits.preserve)
    doubts = {**_in_doubt(everything, damaged, refers=refers), **_doubted(everything, clock)}
    doubts |= {name: f"its mark is damaged: {', '.join(marks)}" for name, marks in unproved_marks.items() if marks}
    held = _held_by_rules(everything, limits.keep)
    by_rule = {name: f"kept by {', '.join(rules)}" for name, rules in held.items()}
    guards = {**by_rule, **doubts, **_guards(everything, limits.preserve, own)}
    due = {name: beyond.words for name, beyond in _overdue(everything, limits, age_by).items()}
    store = _Store(everything, free_bytes)
    store.sweep(guards, lambda export: due.get(export.name))
    store.sweep(guards, lambda export: due.get(export.name) or store.shortage(limits))

    left = [export for export in everything if export.name in store.remaining]
    stay = [export for export in left if export.manifest]
    overdue = _overdue(left, limits, age_by)
    gone = [_item(export, delete=True, reason=reason) for export, reason in store.gone]
    kept = [
        _item(export, delete=False, reason=_why_kept(export, store, guards, overdue), kept_by=held.get(export.name, ()))
        for export in stay
    ]
    return CleanupPlan(
        items=(*gone, *kept),
        unreachable=tuple(_unreachable(stay, store, limits, overdue, held)),
        unmatched=unmatched,
        damaged=tuple(damaged),
        doubts=tuple(_doubts(stay, limits, clock, now=now, age_by=age_by)),
        freed_bytes=store.freed,
        kept_bytes=store.size,
    )


class _Export(NamedTuple):
    """One export, as far as the rules look at it."""

    name: str
    folder: str
    vm: int
    """Exports of one number are of one VM."""
    latest: datetime
    """When it was made at the latest: its age counts from here."""
    at: datetime
    """When it was made, no earlier than those that it was made after."""
    rank: int
    future: bool
    content: dict[Place, int]
    refers_to: frozenset[str]
    names: tuple[str, ...]
    """What a pattern is compared with."""
    sound: bool
    """Whether nothing is known against it, as far as its marks are proved."""
    manifest: ExportManifest | None


def _placed(
    exports: Sequence[tuple[str, ExportManifest]],
    incoming: Sequence[Incoming],
    now: datetime,
    unproved_marks: Mapping[str, Sequence[str]],
) -> list[_Export]:
    """Put the exports of each VM in order; one that is coming is the newest of its VM."""
    items: list[tuple[str, ExportManifest] | Incoming] = [*exports, *incoming]
    found: list[_Export] = []
    for vm, group in enumerate(grouped(items, _identity_of).values()):
        there = [item for item in group if not isinstance(item, Incoming)]
        coming = [item for item in group if isinstance(item, Incoming)]
        places = place([manifest for _, manifest in there], now)
        today = _names_of_today(there, places, coming)
        for (folder, manifest), placed in zip(there, places, strict=True):
            found.append(
                _Export(
                    name=f"{folder}/{manifest.export_id}",
                    folder=folder,
                    vm=vm,
                    at=placed.at,
                    latest=placed.latest,
                    rank=placed.rank,
                    future=placed.future,
                    content=kept(folder, manifest.export_id, manifest.files),
                    refers_to=frozenset(f"{folder}/{entry.stored_in}" for entry in manifest.files if entry.stored_in),
                    names=(manifest.vm.name, manifest.vm.path, folder, manifest.export_id, *today),
                    sound=not manifest.damage and not unproved_marks.get(f"{folder}/{manifest.export_id}"),
                    manifest=manifest,
                )
            )
        found += [_coming(one, vm, now, rank=len(there) + number) for number, one in enumerate(coming)]
    return found


def _identity_of(item: tuple[str, ExportManifest] | Incoming) -> VmIdentity:
    return item.identity if isinstance(item, Incoming) else identity_of(item[1])


def _names_of_today(
    there: Sequence[tuple[str, ExportManifest]], places: Sequence[Placed], coming: Sequence[Incoming]
) -> tuple[str, ...]:
    """A VM's name and path of today: a pattern for them preserves also what was exported under an earlier name."""
    if coming:
        return coming[-1].names
    newest = max(zip(places, there, strict=True), key=lambda pair: pair[0].rank)[1][1]
    return newest.vm.name, newest.vm.path


def _coming(incoming: Incoming, vm: int, now: datetime, *, rank: int) -> _Export:
    return _Export(
        name=f"{incoming.folder}/ {vm}.{rank}",
        folder=incoming.folder,
        vm=vm,
        at=now,
        latest=now,
        rank=rank,
        future=False,
        content={
            Place(incoming.folder, f"to come {vm}.{rank}"): incoming.new_bytes,
            **kept(incoming.folder, "", incoming.shares),
        },
        refers_to=frozenset(f"{incoming.folder}/{export_id}" for export_id in incoming.refers_to),
        names=(incoming.folder, *incoming.names),
        sound=True,
        manifest=None,
    )


def _newest_time(exports: Sequence[tuple[str, ExportManifest]], now: datetime) -> datetime:
    """The latest time that the store proves to have passed: that of its newest export, unless it is of the future."""
    known = [manifest.server_time or manifest.started for _, manifest in exports if not is_of_the_future(manifest, now)]
    return min(now, max(known, default=now))


def _age_order(export: _Export) -> tuple[datetime, int, str]:
    return export.at, export.rank, export.name


class _Store:
    """The store as it would be while the plan is made: exports leave it one by one, never one that is referred to."""

    def __init__(self, exports: Iterable[_Export], free: int | None) -> None:
        self.remaining = {export.name: export for export in exports}
        self.gone: list[tuple[_Export, str]] = []
        self.freed = 0
        self.free = free
        self._sharers = Counter(content for export in self.remaining.values() for content in export.content)
        self._referrers = Counter(name for export in self.remaining.values() for name in export.refers_to)
        self.size = total(export.content for export in self.remaining.values())

    def is_referred_to(self, export: _Export) -> bool:
        """Whether an export that is still there uses this one's files."""
        return self._referrers[export.name] > 0

    def shortage(self, limits: CleanupLimits) -> str | None:
        """Say which limit of space is not kept; None when both are."""
        if limits.max_size and self.size > limits.max_size:
            return f"the store is larger than --cleanup-max-size {format_bytes(limits.max_size)}"
        if limits.min_free and self.free is not None and self.free < limits.min_free:
            return f"less than --cleanup-min-free {format_bytes(limits.min_free)} is free"
        return None

    def sweep(self, guards: Container[str], why: Callable[[_Export], str | None]) -> None:
        """Take out, oldest first, every export that may go and for which there is a reason at its turn."""
        waiting = [
            (_age_order(export), export)
            for export in self.remaining.values()
            if export.name not in guards and not self.is_referred_to(export)
        ]
        heapq.heapify(waiting)
        while waiting:
            _, export = heapq.heappop(waiting)
            reason = why(export)
            if reason is None:
                continue
            for released in self._take_out(export, reason):
                if released.name not in guards:
                    heapq.heappush(waiting, (_age_order(released), released))

    def _take_out(self, export: _Export, reason: str) -> Iterator[_Export]:
        """Remove one export; returns those that nothing refers to any more."""
        del self.remaining[export.name]
        self.gone.append((export, reason))
        self._sharers.subtract(export.content.keys())
        freed = sum(size for key, size in export.content.items() if not self._sharers[key])
        self.freed += freed
        self.size -= freed
        self.free = None if self.free is None else self.free + freed
        self._referrers.subtract(export.refers_to)
        released = (self.remaining.get(name) for name in export.refers_to if not self._referrers[name])
        return (other for other in released if other)


class _Overdue(NamedTuple):
    """A limit of age or count that an export is beyond."""

    flag: str
    words: str


def _overdue(exports: Iterable[_Export], limits: CleanupLimits, now: datetime) -> dict[str, _Overdue]:
    """Which exports age or count want gone, guarded or not. The exports come newest first; copies count once."""
    found: dict[str, _Overdue] = {}
    newer: dict[int, set[int]] = {}
    for export in exports:
        age = now - export.latest
        ranks = newer.setdefault(export.vm, set())
        count = len(ranks - {export.rank})
        if limits.max_age and age > limits.max_age and not export.future:
            flag = f"--cleanup-max-age {format_duration(limits.max_age)}"
            found[export.name] = _Overdue(flag, f"{format_age(age)} old, over {flag}")
        elif limits.max_count and count >= limits.max_count:
            flag = f"--cleanup-max-count {limits.max_count}"
            found[export.name] = _Overdue(flag, f"{flag}: this VM has {count} newer export{'' if count == 1 else 's'}")
        ranks.add(export.rank)
    return found


def _guards(exports: Iterable[_Export], preserve: Sequence[str], own: Container[str]) -> dict[str, str]:
    """Which exports never go, and why. The exports come newest first."""
    found: dict[str, str] = {}
    newest: dict[int, int] = {}
    sound: dict[int, int] = {}
    for export in exports:
        preserved = _preserved(export, preserve)
        if newest.setdefault(export.vm, export.rank) == export.rank:
            found[export.name] = "the newest export of its VM"
        elif export.sound and sound.get(export.vm, export.rank) == export.rank:
            found[export.name] = "the newest export of its VM that is not damaged"
        elif export.manifest and export.manifest.export_id in own:
            found[export.name] = "made by this run"
        elif preserved:
            found[export.name] = preserved
        if export.sound:
            sound.setdefault(export.vm, export.rank)
    return found


def _held_by_rules(exports: Iterable[_Export], rules: KeepRules) -> dict[str, tuple[str, ...]]:
    """Which exports the keep rules hold. The exports come newest first; copies of one export count once.

    A damaged export takes no period from a good one. One whose time is in the future stays, and takes none either:
    nobody knows which period it is of.
    """
    if not rules:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    vms: dict[int, dict[int, list[_Export]]] = {}
    for export in exports:
        if export.future:
            found[export.name] = ("the keep rules: it is dated in the future",)
        elif export.sound:
            vms.setdefault(export.vm, {}).setdefault(export.rank, []).append(export)
    for ranks in vms.values():
        copies = list(ranks.values())
        for same, holding in zip(copies, rules.holding([one[0].at for one in copies]), strict=True):
            if holding:
                found |= {export.name: holding for export in same}
    return found


def may_use(damaged: DamagedExport, *, refers: bool) -> str | None:
    """Say why a damaged export keeps every other export of its VM; None where it is known what it uses.

    Args:
        damaged: The damaged export.
        refers: Whether exports of this store use the files of others.
    """
    return f"the damaged {damaged} may use its files" if refers and damaged.uses is None else None


def _in_doubt(exports: Iterable[_Export], damaged: Sequence[DamagedExport], *, refers: bool) -> dict[str, str]:
    """Which exports stay because a damaged one uses their files, or may, and why."""
    everything = list(exports)
    referring = {export.folder for export in everything if export.refers_to}  # a bucket that was copied to a disk
    found: dict[str, str] = {}
    for one in damaged:
        for name in one.uses or ():
            found[f"{one.folder}/{name}"] = f"the damaged {one} uses its files"
        doubt = may_use(one, refers=refers or one.folder in referring)
        if doubt:
            found |= {export.name: doubt for export in everything if export.folder == one.folder}
    return found


def _doubted(exports: Sequence[_Export], clock: ClockVerdict) -> dict[str, str]:
    """Which exports stay because a clock is in doubt: all where it is this machine's, else those of a VM."""
    if clock.problem:
        return {export.name: "a clock is in doubt" for export in exports}
    if clock.trusted:
        return {}
    vms = {export.vm for export in exports if export.future}
    return {export.name: "an export of its VM is dated in the future" for export in exports if export.vm in vms}


def _doubts(
    stay: Sequence[_Export], limits: CleanupLimits, clock: ClockVerdict, *, now: datetime, age_by: datetime
) -> Iterator[str]:
    """Say what a clock in doubt keeps from being deleted, and what to do."""
    if clock.problem:
        yield f"{clock.problem}: nothing is deleted. Correct the clock, or add --cleanup-trust-clock"
    for export in stay:
        if export.future and export.manifest:
            ahead = format_age(made(export.manifest) - now)
            yield (
                f"{export.name} is dated {ahead} in the future, so a clock is or was wrong: "
                + ("it never counts as old" if clock.trusted else "no export of its VM is deleted. ")
                + ("" if clock.trusted else "If this machine's clock is right, add --cleanup-trust-clock")
            )
    unsupported = [export for export in stay if limits.max_age and now - export.latest > limits.max_age]
    held = [one for one in unsupported if limits.max_age and age_by - one.latest <= limits.max_age]
    if held and not clock.confirmed and not clock.problem:
        yield (
            f"no other clock confirms this machine's, so ages are counted from the newest export of the store "
            f"({age_by:%Y-%m-%d %H:%M} UTC): {len(held)} exports stay. Make an export, or add --cleanup-trust-clock"
        )


def _matching_nothing(exports: Sequence[_Export], patterns: Sequence[str]) -> tuple[str, ...]:
    """Say which patterns preserve nothing: a mistyped one would let a cleanup delete what it was meant for.

    Raises:
        UsageError: One with commas matches nothing, but would if it were several.
    """
    names = {name for export in exports for name in export.names}

    def fits(pattern: str) -> bool:
        return any(matches(name, pattern) for name in names)

    idle = [pattern for pattern in dict.fromkeys(patterns) if not fits(pattern)]
    for pattern in idle:
        parts = [part.strip() for part in pattern.split(",") if part.strip()] if "," in pattern else []
        if any(map(fits, parts)):
            raise UsageError(
                f"--cleanup-preserve {pattern!r} is one pattern and matches nothing, but {len(parts)} patterns "
                "would match; nothing is deleted",
                fix="Give the flag once per pattern: "
                + " ".join(f"--cleanup-preserve {shlex.quote(part)}" for part in parts),
            )
    return tuple(
        f"--cleanup-preserve {pattern!r} matches no VM and no export: it preserves nothing" for pattern in idle
    )


def _preserved(export: _Export, patterns: Sequence[str]) -> str | None:
    """Whether a user's word keeps the export."""
    if export.manifest is None:
        return None
    if export.manifest.preserve:
        return "marked as preserved"
    matching = (pattern for pattern in patterns if any(matches(name, pattern) for name in export.names))
    return next((f"preserved by --cleanup-preserve {pattern}" for pattern in matching), None)


def _why_kept(export: _Export, store: _Store, guards: Mapping[str, str], overdue: Mapping[str, _Overdue]) -> str:
    guard = guards.get(export.name)
    if guard is None and store.is_referred_to(export):
        guard = "a newer export that stays uses its files"
    beyond = overdue.get(export.name)
    if guard is None:
        return "within the limits"
    return f"{guard}; otherwise deleted: {beyond.words}" if beyond else guard


def _unreachable(
    stay: Iterable[_Export],
    store: _Store,
    limits: CleanupLimits,
    overdue: Mapping[str, _Overdue],
    held: Container[str],
) -> Iterator[str]:
    """Say which limits the guards put out of reach. What a user preserved or a keep rule holds surprises no user."""
    unexpected = (export for export in stay if not _preserved(export, limits.preserve) and export.name not in held)
    beyond = [overdue[export.name].flag for export in unexpected if export.name in overdue]
    for flag, count in Counter(beyond).items():
        exports = "1 export beyond it stays" if count == 1 else f"{count} exports beyond it stay"
        yield f"{flag}: {exports}, as the newest of its VM or because another one uses, or may use, its files"
    kept_by_rule = "those that a keep rule holds, " if limits.keep else ""
    never = (
        f"the newest export of each VM, {kept_by_rule}preserved and damaged ones and what they use are never deleted"
    )
    if limits.max_size and store.size > limits.max_size:
        yield f"--cleanup-max-size {format_bytes(limits.max_size)}: {format_bytes(store.size)} remain, as {never}"
    if limits.min_free and store.free is None:
        yield "--cleanup-min-free: this store cannot tell how much is free"
    elif limits.min_free and store.free is not None and store.free < limits.min_free:
        flag = f"--cleanup-min-free {format_bytes(limits.min_free)}"
        yield f"{flag}: only {format_bytes(max(store.free, 0))} can become free, as {never}"


def _item(export: _Export, *, delete: bool, reason: str, kept_by: tuple[str, ...] = ()) -> CleanupItem:
    manifest = export.manifest
    assert manifest is not None, "an export that is not there yet is neither deleted nor listed"
    return CleanupItem(
        folder=export.folder,
        export_id=manifest.export_id,
        vm=manifest.vm.name,
        started=manifest.started,
        size=sum(entry.size for entry in manifest.files if entry.member_of is None),
        refers_to=tuple(sorted({entry.stored_in for entry in manifest.files if entry.stored_in})),
        delete=delete,
        reason=reason,
        kept_by=kept_by,
    )
