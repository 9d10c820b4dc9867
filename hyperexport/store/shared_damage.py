"""What is known of the damage of each export: from its own marks, and from those of all exports that share its files.

A verification records what it finds with the exports that it reads, and a file of a chain is part of many. So each
listing says of every export what the mark of any of them says of a file that it has, too. A file is the same where the
store says so: one inode, one object. Equal content is not enough, because only one of two copies may have rotted.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from hyperexport.model.manifest import FileEntry, FileRole
from hyperexport.model.marks import SharedDamage
from hyperexport.store.base import StoredExport

SameFile = Callable[[str, str, str], str | None]
"""Tells by VM folder, export id and name which stored file that is; None where it is not there."""


class KnownDamage(NamedTuple):
    """What the marks of an export say of one of its files."""

    entry: FileEntry
    damage: SharedDamage


class StoredFiles:
    """Which stored file each entry of some exports stands for.

    Args:
        exports: The exports of whole VM folders.
        same_file: Tells which names stand for one file.
    """

    def __init__(self, exports: Iterable[StoredExport], same_file: SameFile) -> None:
        self._there = {(export.folder, export.export_id): export for export in exports}
        self._same_file = same_file

    def of(self, export: StoredExport, entry: FileEntry) -> str | None:
        """The file that holds an entry's bytes, with the place in it of a member of an OVA; None where it is gone."""
        holder: StoredExport | None = export
        held: FileEntry | None = entry
        if entry.stored_in is not None:
            holder = self._there.get((export.folder, entry.stored_in))
            held = holder.manifest.holding(entry) if holder else None
        if holder is None or held is None:
            return None
        file = self._same_file(holder.folder, holder.export_id, held.member_of or held.name)
        return file if file is None or held.member_of is None else f"{file}@{held.offset}"


def known_damage(export: StoredExport) -> Iterator[KnownDamage]:
    """What is known of an export's files that hold bytes of the guest: by its own marks, and by those of others."""
    mark = export.verification
    shared = (*(mark.shared if mark else ()), *export.shared_damage)
    words = export.manifest.damage[: len(export.manifest.damage) - len(shared)]
    stored = export.manifest.stored_disks
    for entry in export.manifest.files if words else ():
        problem = next((said for said in words if said.startswith(f"{entry.name}: ")), None)
        if problem is None:
            continue
        read = mark is None or mark.read is None or entry.name in mark.read
        for part in stored:
            if part == entry or (entry.role is FileRole.OVA and part.member_of == entry.name):
                found = problem.removeprefix(f"{entry.name}: ")
                yield KnownDamage(
                    part, SharedDamage(file=part.name, problem=found, found_in=export.export_id, read=read)
                )
    for damage in shared:
        entry = export.manifest.file(damage.file)
        if entry is not None:
            yield KnownDamage(entry, damage)


def with_shared_damage(exports: Sequence[StoredExport], same_file: SameFile) -> list[StoredExport]:
    """Say of each export, in ``manifest.damage`` too, what the marks of others say of files that it has.

    Without a mark of damage this looks at nothing else.
    """
    damaged = [export for export in exports if export.manifest.damage]
    if not damaged:
        return list(exports)
    files = StoredFiles(exports, same_file)
    known: dict[tuple[str, str, int], dict[str, SharedDamage]] = {}
    of_its_own: dict[str, set[str]] = {}
    for export in damaged:
        for entry, damage in known_damage(export):
            of_its_own.setdefault(str(export), set()).add(entry.name)
            file = files.of(export, entry)
            if file is not None:
                known.setdefault((export.folder, entry.sha256, entry.size), {}).setdefault(file, damage)
    return [_told(export, files, known, of_its_own.get(str(export), set())) for export in exports]


def _told(
    export: StoredExport,
    files: StoredFiles,
    known: dict[tuple[str, str, int], dict[str, SharedDamage]],
    of_its_own: set[str],
) -> StoredExport:
    found: list[SharedDamage] = []
    for entry in export.manifest.stored_disks:
        alike = known.get((export.folder, entry.sha256, entry.size))
        if not alike or entry.name in of_its_own:
            continue
        damage = alike.get(files.of(export, entry) or "")
        if damage is not None:
            found.append(damage.model_copy(update={"file": entry.name}))
    if not found:
        return export
    manifest = export.manifest.model_copy(update={"damage": (*export.manifest.damage, *map(str, found))})
    return export.model_copy(update={"manifest": manifest, "shared_damage": tuple(found)})
