"""Which exports a nightly verification reads, so that all of them are read within some days: a decision without I/O."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

from hyperexport.model.content import Place, kept_by_each, total
from hyperexport.model.history import TOLERANCE
from hyperexport.model.manifest import ExportManifest

_NIGHT: Final = timedelta(days=1)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


def sample(
    exports: Sequence[tuple[str, ExportManifest]], *, within: timedelta, now: datetime, chance: Random
) -> tuple[str, ...]:
    """Choose what to verify in a run that is repeated each night.

    Exports that share files are chosen together, because one reading proves a file for all of them. Chosen is
    whatever would be older than ``within`` at the next run, and as much more as makes the night's part of all bytes:
    those whose proof is of the oldest day, at random among these. An export that was never verified counts from when
    it was made, before those that were verified on that day, and a damaged one is chosen every time; so is one whose
    proof is dated in the future, because a wrong clock says nothing of when it was.

    Args:
        exports: Every export of a store, with its VM's folder.
        within: How old a proof may become.
        now: The time of this run.
        chance: Makes the choice.

    Returns:
        Names, ``<vm folder>/<export id>``, those with the oldest proof first: a run that is always ended early still
        gets to all of them. At least one unless there are none.
    """
    contents = kept_by_each(exports)
    proved = {f"{folder}/{one.export_id}": _proved(one, now) for folder, one in exports}
    groups = _groups(contents)
    chance.shuffle(groups)
    share = total(contents.values()) * min(_NIGHT / within, 1)
    never = {f"{folder}/{one.export_id}" for folder, one in exports if one.verified is None}
    groups.sort(key=lambda names: (min(proved[name] for name in names).date(), never.isdisjoint(names)))
    chosen: list[str] = []
    size = 0
    for names in groups:
        if chosen and size >= share and not _is_due(names, proved, within, now):
            continue  # one of the same day may still be due
        chosen += names
        size += total(contents[name] for name in names)
    return tuple(chosen)


def _proved(export: ExportManifest, now: datetime) -> datetime:
    proved = export.verified or export.started
    return _NEVER if export.damage or proved > now + TOLERANCE else proved


def _is_due(names: Sequence[str], proved: dict[str, datetime], within: timedelta, now: datetime) -> bool:
    # Half a night: no two runs begin at the same second, and what waits for the next one is then a few seconds older.
    return min(proved[name] for name in names) <= now - within + _NIGHT / 2


def _groups(contents: dict[str, dict[Place, int]]) -> list[list[str]]:
    """The exports that share files, directly or through others."""
    group_of: dict[str, list[str]] = {}
    first_with: dict[Place, str] = {}
    for name, content in contents.items():
        group = group_of[name] = [name]
        for place in content:
            other = group_of[first_with.setdefault(place, name)]
            if other is not group:
                group += other
                group_of.update(dict.fromkeys(other, group))
    return list({id(group): group for group in group_of.values()}.values())
