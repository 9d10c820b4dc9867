"""Which old exports go, and why: the plan of a cleanup.

Limits say which exports should go; guards (``cleanup_guards.py``) and keep rules (``keep_rules.py``) say which never
do. A guard always wins over a limit, and the limit is then reported as out of reach. Damaged exports decide nothing
and are never deleted; where they may use the files of others, those stay as well. This module sees what a listing
gave; it must never list or delete anything itself.
"""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, NamedTuple

from pydantic import Field

from hyperexport.base.units import format_age, format_bytes, format_duration
from hyperexport.model.content import Place
from hyperexport.model.damaged import DamagedExport
from hyperexport.model.manifest import ExportManifest
from hyperexport.model.vm import Value
from hyperexport.options.groups import Cleanup
from hyperexport.policy.cleanup_candidates import Candidate, Incoming, age_order, newest_time, placed
from hyperexport.policy.cleanup_guards import (
    always_kept,
    clock_doubts,
    doubted,
    held_by_rules,
    in_doubt,
    matching_nothing,
    preserved_by,
)
from hyperexport.policy.cleanup_space import RemainingStore
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
    contents: Mapping[str, Mapping[Place, int]] = MappingProxyType({}),
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
        contents: For ``<vm folder>/<export id>`` what it keeps in the store; as its manifest says where it is left out.

    Raises:
        UsageError: A pattern with commas preserves nothing as one pattern, but would as several.
    """
    listed = list(exports)
    everything = placed(listed, incoming, now, unproved_marks, contents)
    free_bytes = None if free_bytes is None else free_bytes - sum(export.new_bytes for export in incoming)
    everything.sort(key=age_order, reverse=True)
    age_by = now if clock.confirmed else newest_time(listed, now)

    unmatched = matching_nothing(everything, limits.preserve)
    doubts = {**in_doubt(everything, damaged, refers=refers), **doubted(everything, clock)}
    doubts |= {name: f"its mark is damaged: {', '.join(marks)}" for name, marks in unproved_marks.items() if marks}
    held = held_by_rules(everything, limits.keep)
    by_rule = {name: f"kept by {', '.join(rules)}" for name, rules in held.items()}
    guards = {**by_rule, **doubts, **always_kept(everything, limits.preserve, own)}
    due = {name: beyond.words for name, beyond in _overdue(everything, limits, age_by).items()}
    store = RemainingStore(everything, free_bytes)
    store.sweep(guards, lambda export: due.get(export.name))
    store.sweep(guards, lambda export: due.get(export.name) or _shortage(store, limits))

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
        doubts=tuple(clock_doubts(stay, limits.max_age, clock, now=now, age_by=age_by)),
        freed_bytes=store.freed,
        kept_bytes=store.size,
    )


class _Overdue(NamedTuple):
    """A limit of age or count that an export is beyond."""

    flag: str
    words: str


def _overdue(exports: Iterable[Candidate], limits: CleanupLimits, now: datetime) -> dict[str, _Overdue]:
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


def _shortage(store: RemainingStore, limits: CleanupLimits) -> str | None:
    """Say which limit of space is not kept; None when both are."""
    if limits.max_size and store.size > limits.max_size:
        return f"the store is larger than --cleanup-max-size {format_bytes(limits.max_size)}"
    if limits.min_free and store.free is not None and store.free < limits.min_free:
        return f"less than --cleanup-min-free {format_bytes(limits.min_free)} is free"
    return None


def _why_kept(
    export: Candidate, store: RemainingStore, guards: Mapping[str, str], overdue: Mapping[str, _Overdue]
) -> str:
    guard = guards.get(export.name)
    if guard is None and store.is_referred_to(export):
        guard = "a newer export that stays uses its files"
    beyond = overdue.get(export.name)
    if guard is None:
        return "within the limits"
    return f"{guard}; otherwise deleted: {beyond.words}" if beyond else guard


def _unreachable(
    stay: Iterable[Candidate],
    store: RemainingStore,
    limits: CleanupLimits,
    overdue: Mapping[str, _Overdue],
    held: Container[str],
) -> Iterator[str]:
    """Say which limits the guards put out of reach. What a user preserved or a keep rule holds surprises no user."""
    unexpected = (export for export in stay if not preserved_by(export, limits.preserve) and export.name not in held)
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


def _item(export: Candidate, *, delete: bool, reason: str, kept_by: tuple[str, ...] = ()) -> CleanupItem:
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
