"""The exports of a store as a cleanup looks at them: those of each VM in order, with what they hold and refer to.

A VM is known by its identity in the manifests, never by a folder's name.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from pydantic import Field

from hyperexport.model.content import Place, kept
from hyperexport.model.history import Placed, grouped, identity_of, is_of_the_future, place
from hyperexport.model.identity import VmIdentity
from hyperexport.model.manifest import ExportManifest, FileEntry
from hyperexport.model.vm import Value


class Incoming(Value):
    """An export that is not there yet: lets a dry run say what the cleanup after it would delete."""

    folder: str
    identity: VmIdentity = Field(description="Its VM.")
    names: tuple[str, ...] = Field(default=(), description="The VM's name and path.")
    new_bytes: int = Field(description="Bytes that it will add to the store.")
    shares: tuple[FileEntry, ...] = Field(default=(), description="The disks of earlier exports that it will reuse.")
    refers_to: tuple[str, ...] = Field(default=(), description="The exports that will hold their bytes. S3.")


class Candidate(NamedTuple):
    """One export, as far as the rules of a cleanup look at it."""

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
    content: Mapping[Place, int]
    refers_to: frozenset[str]
    names: tuple[str, ...]
    """What a pattern is compared with."""
    sound: bool
    """Whether nothing is known against it, as far as its marks are proved."""
    manifest: ExportManifest | None


def placed(
    exports: Sequence[tuple[str, ExportManifest]],
    incoming: Sequence[Incoming],
    now: datetime,
    unproved_marks: Mapping[str, Sequence[str]],
    contents: Mapping[str, Mapping[Place, int]],
) -> list[Candidate]:
    """Put the exports of each VM in order; one that is coming is the newest of its VM."""
    items: list[tuple[str, ExportManifest] | Incoming] = [*exports, *incoming]
    found: list[Candidate] = []
    for vm, group in enumerate(grouped(items, _identity_of).values()):
        there = [item for item in group if not isinstance(item, Incoming)]
        coming = [item for item in group if isinstance(item, Incoming)]
        places = place([manifest for _, manifest in there], now)
        today = _names_of_today(there, places, coming)
        for (folder, manifest), placed in zip(there, places, strict=True):
            name = f"{folder}/{manifest.export_id}"
            content = contents.get(name)
            found.append(
                Candidate(
                    name=name,
                    folder=folder,
                    vm=vm,
                    at=placed.at,
                    latest=placed.latest,
                    rank=placed.rank,
                    future=placed.future,
                    content=kept(folder, manifest.export_id, manifest.files) if content is None else content,
                    refers_to=frozenset(f"{folder}/{entry.stored_in}" for entry in manifest.files if entry.stored_in),
                    names=(manifest.vm.name, manifest.vm.path, folder, manifest.export_id, *today),
                    sound=not manifest.damage and not unproved_marks.get(name),
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


def _coming(incoming: Incoming, vm: int, now: datetime, *, rank: int) -> Candidate:
    return Candidate(
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


def newest_time(exports: Sequence[tuple[str, ExportManifest]], now: datetime) -> datetime:
    """The latest time that the store proves to have passed: that of its newest export, unless it is of the future."""
    known = [manifest.server_time or manifest.started for _, manifest in exports if not is_of_the_future(manifest, now)]
    return min(now, max(known, default=now))


def age_order(export: Candidate) -> tuple[datetime, int, str]:
    """Sort by this for the oldest first."""
    return export.at, export.rank, export.name
