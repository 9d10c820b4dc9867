"""Which bytes each export keeps in a store, and which of them it shares with other exports.

Every figure of stored bytes comes from here: listing, report, metrics, notebook, cleanup and mail. Manifests and marks
are not counted. Manifests alone are read: where the bytes are is written in them (``written_as``, ``stored_in``).
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from hyperexport.model.manifest import ExportManifest, FileEntry, FileRole


class Place(NamedTuple):
    """One stored file, or one inode with several names. Two exports that have a place in common share its bytes."""

    folder: str
    """The VM's folder; empty where the name alone identifies the bytes."""
    name: str
    digest: str = ""


def kept(folder: str, export_id: str, files: Iterable[FileEntry]) -> dict[Place, int]:
    """Find what an export keeps in the store, alone or together with others.

    Returns:
        The size in bytes of each place. A file in an OVA is counted in the OVA.
    """
    found: dict[Place, int] = {}
    for entry in files:
        place = place_of(folder, export_id, entry)
        if place is not None:
            found[place] = max(entry.size, found.get(place, 0))
    return found


def place_of(folder: str, export_id: str, entry: FileEntry) -> Place | None:
    """Where the bytes of an export's file are, as its manifest says; None where another file is counted for them."""
    if entry.member_of is not None:
        return None
    if entry.written_as is not None:
        return Place("", entry.written_as)
    disk = entry.role is FileRole.DISK
    if entry.stored_in is not None and (entry.etag is not None or not disk):
        return None  # S3, before written_as: counted in the export that holds it
    if disk and entry.etag is None:
        # Local, before written_as: equal disks of a VM were always hard links to each other.
        return Place(folder, str(entry.size), entry.sha256)
    return Place("" if disk or entry.role is FileRole.OVA else folder, f"{export_id}/{entry.name}")


def kept_by_each(exports: Iterable[tuple[str, ExportManifest]]) -> dict[str, dict[Place, int]]:
    """What each export keeps, by ``<vm folder>/<export id>``. Takes exports with their VM's folder, in any order."""
    return {f"{folder}/{export.export_id}": kept(folder, export.export_id, export.files) for folder, export in exports}


def total(contents: Iterable[Mapping[Place, int]]) -> int:
    """Bytes that several exports take together, each place counted once."""
    places: dict[Place, int] = {}
    for content in contents:
        for place, size in content.items():
            places[place] = max(size, places.get(place, 0))
    return sum(places.values())


def stored_bytes(exports: Iterable[tuple[str, ExportManifest]]) -> int:
    """Bytes that exports take together in one store, what they share counted once."""
    return total(kept_by_each(exports).values())


def added_bytes(exports: Iterable[tuple[str, ExportManifest]]) -> dict[str, int]:
    """Bytes that each export adds to those older than it, by ``<vm folder>/<export id>``.

    Their sum is :func:`stored_bytes` of the same exports: what several share counts for the oldest that is still there.
    """
    oldest_first = sorted(exports, key=lambda item: (item[1].started, item[1].export_id))
    seen: dict[Place, int] = {}
    added: dict[str, int] = {}
    for name, content in kept_by_each(oldest_first).items():
        new = {place: max(0, size - seen.get(place, 0)) for place, size in content.items()}
        added[name] = sum(new.values())
        for place, size in new.items():
            seen[place] = seen.get(place, 0) + size
    return added


def shared_with(exports: Iterable[tuple[str, ExportManifest]]) -> dict[str, tuple[str, ...]]:
    """Which exports share bytes with which: if these rot, all of them are damaged.

    Returns:
        For each export by ``<vm folder>/<export id>`` the others that share a file with it, sorted; none where it is
        a copy of its own.
    """
    contents = kept_by_each(exports)
    users: dict[Place, list[str]] = {}
    for name, content in contents.items():
        for place in content:
            users.setdefault(place, []).append(name)
    return {
        name: tuple(sorted({user for place in content for user in users[place]} - {name}))
        for name, content in contents.items()
    }
