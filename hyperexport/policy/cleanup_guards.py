"""Which exports a cleanup never deletes, and why.

These stay: the newest export of each VM and its newest undamaged one, preserved exports, those that a keep rule holds,
those whose files a damaged export uses, and those that look old only by a clock that is in doubt.
"""

import shlex
from collections.abc import Container, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import accumulate

from hyperexport.base.patterns import matches
from hyperexport.base.units import format_age
from hyperexport.errors import UsageError
from hyperexport.model.damaged import DamagedExport
from hyperexport.model.history import TOLERANCE, made, made_at_the_earliest
from hyperexport.policy.cleanup_candidates import Candidate
from hyperexport.policy.clock import ClockVerdict
from hyperexport.policy.keep_rules import KeepRules


def always_kept(exports: Iterable[Candidate], preserve: Sequence[str], own: Container[str]) -> dict[str, str]:
    """Which exports never go, and why. The exports come newest first."""
    found: dict[str, str] = {}
    newest: dict[int, int] = {}
    sound: dict[int, int] = {}
    for export in exports:
        preserved = preserved_by(export, preserve)
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


def held_by_rules(exports: Iterable[Candidate], rules: KeepRules) -> dict[str, tuple[str, ...]]:
    """Which exports the keep rules hold. The exports come newest first; copies of one export count once.

    A damaged export takes no period from a good one, and is held where its period has none. One whose time is in the
    future stays, and takes none either, because its period is not known. Where a clock was wrong, an export stays that
    a rule holds by any reading of the clocks.
    """
    if not rules:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    vms: dict[int, dict[int, list[Candidate]]] = {}
    for export in exports:
        if export.future:
            found[export.name] = ("the keep rules: it is dated in the future",)
        else:
            vms.setdefault(export.vm, {}).setdefault(export.rank, []).append(export)
    for ranks in vms.values():
        copies = list(ranks.values())
        for times in _readings([one[0] for one in copies]):
            sound = [any(export.sound for export in same) for same in copies]
            for same, holding, is_sound in zip(copies, rules.holding(times, sound), sound, strict=True):
                if holding:
                    found = {export.name: holding for export in same if export.sound == is_sound} | found
    return found


def _readings(exports: Sequence[Candidate]) -> Iterator[list[datetime]]:
    """When the exports of one VM were made, newest first: no earlier than the older ones.

    Where clocks contradict that or each other, also: no later than the newer ones, and by each clock alone. One export
    that is dated days ahead would move all that were made in these days to its own day, where a rule holds one of them.
    """
    at = [export.at for export in exports]
    yield at
    manifests = [(export.manifest, export.at) for export in exports]
    earliest = (made_at_the_earliest(manifest) if manifest else time for manifest, time in manifests)
    no_later = list(accumulate(earliest, min))
    servers = [(manifest.server_time or manifest.started) if manifest else time for manifest, time in manifests]
    machines = [manifest.started if manifest else time for manifest, time in manifests]
    for times in (no_later, servers, machines):
        if any(abs(time - other) > TOLERANCE for time, other in zip(times, at, strict=True)):
            yield times


def may_use(damaged: DamagedExport, *, refers: bool) -> str | None:
    """Say why a damaged export keeps every other export of its VM; None where it is known what it uses.

    Args:
        damaged: The damaged export.
        refers: Whether exports of this store use the files of others.
    """
    return f"the damaged {damaged} may use its files" if refers and damaged.uses is None else None


def in_doubt(exports: Iterable[Candidate], damaged: Sequence[DamagedExport], *, refers: bool) -> dict[str, str]:
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


def doubted(exports: Sequence[Candidate], clock: ClockVerdict) -> dict[str, str]:
    """Which exports stay because a clock is in doubt: all where it is this machine's, else those of a VM."""
    if clock.problem:
        return {export.name: "a clock is in doubt" for export in exports}
    if clock.trusted:
        return {}
    vms = {export.vm for export in exports if export.future}
    return {export.name: "an export of its VM is dated in the future" for export in exports if export.vm in vms}


def clock_doubts(
    stay: Sequence[Candidate], max_age: timedelta | None, clock: ClockVerdict, *, now: datetime, age_by: datetime
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
    unsupported = [export for export in stay if max_age and now - export.latest > max_age]
    held = [one for one in unsupported if max_age and age_by - one.latest <= max_age]
    if held and not clock.confirmed and not clock.problem:
        yield (
            f"no other clock confirms this machine's, so ages are counted from the newest export of the store "
            f"({age_by:%Y-%m-%d %H:%M} UTC): {len(held)} exports stay. Make an export, or add --cleanup-trust-clock"
        )


def matching_nothing(exports: Sequence[Candidate], patterns: Sequence[str]) -> tuple[str, ...]:
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


def preserved_by(export: Candidate, patterns: Sequence[str]) -> str | None:
    """Whether a user's word keeps the export."""
    if export.manifest is None:
        return None
    if export.manifest.preserve:
        return "marked as preserved"
    matching = (pattern for pattern in patterns if any(matches(name, pattern) for name in export.names))
    return next((f"preserved by --cleanup-preserve {pattern}" for pattern in matching), None)
