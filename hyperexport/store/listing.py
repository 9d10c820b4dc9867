"""What a store's listing says, whatever the store is made of: the exports that are proved, and those that are not.

One bad element never fails a whole listing, and never goes missing from it. A listing that fails as a whole raises.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from pydantic import Field

from hyperexport.errors import HyperExportError, Interrupted, ManifestInvalid
from hyperexport.model.damaged import DamagedExport, Problem
from hyperexport.model.history import newest_first
from hyperexport.model.manifest import FileEntry
from hyperexport.model.vm import Value
from hyperexport.store.base import RecordName, StoredExport
from hyperexport.store.shared_damage import SameFile, with_shared_damage

A = TypeVar("A")
B = TypeVar("B")


class StoreListing(Value):
    """What a store, or one VM's folder in it, holds."""

    exports: tuple[StoredExport, ...] = Field(default=(), description="The complete and proved ones, newest first.")
    damaged: tuple[DamagedExport, ...] = Field(default=(), description="Damaged or unreadable entries, by name.")
    records: tuple[RecordName, ...] = Field(default=(), description="The records that lie beside exports, unread.")


def listing_of(
    exports: Iterable[StoredExport],
    damaged: Iterable[DamagedExport],
    records: Iterable[RecordName] = (),
    *,
    same_file: SameFile,
) -> StoreListing:
    """Make the listing: an export whose bytes another one should hold, and does not provably hold, is damaged too.

    What the mark of one export says of a damaged file is said of every export that has the file.

    Args:
        exports: The proved manifests of whole VM folders, in any order.
        damaged: What was found damaged on the way.
        records: The records that were seen on the way.
        same_file: Tells which names stand for one file.
    """
    everything = list(exports)
    there = {(export.folder, export.export_id): export for export in everything}
    sound: list[StoredExport] = []
    found = list(damaged)
    for export in everything:
        lost = next((entry for entry in export.manifest.files if not _is_held(export, entry, there)), None)
        if lost is None:
            sound.append(export)
        else:
            found.append(_without_bytes(export, lost))
    return StoreListing.model_construct(
        exports=tuple(newest_first(with_shared_damage(sound, same_file), lambda one: one.manifest)),
        damaged=tuple(sorted(found, key=str)),
        records=tuple(sorted(records)),
    )


def _is_held(export: StoredExport, entry: FileEntry, there: dict[tuple[str, str], StoredExport]) -> bool:
    if entry.stored_in is None:
        return True
    holder = there.get((export.folder, entry.stored_in))
    return holder is not None and holder.manifest.holding(entry) is not None


def _without_bytes(export: StoredExport, entry: FileEntry) -> DamagedExport:
    return DamagedExport(
        folder=export.folder,
        export_id=export.export_id,
        problem=Problem.BYTES,
        reason=f"{entry.name} should be stored in {entry.stored_in}, which is missing, damaged, or does not hold it",
        uses=tuple(sorted({one.stored_in for one in export.manifest.files if one.stored_in})),
    )


def damaged_by(error: HyperExportError, folder: str, export_id: str = "") -> DamagedExport:
    """Say of an export, or of a VM's folder, why it could not be read."""
    if isinstance(error, ManifestInvalid):
        return DamagedExport(
            folder=folder, export_id=export_id, problem=Problem(error.problem or Problem.INVALID), reason=error.reason
        )
    return DamagedExport(folder=folder, export_id=export_id, problem=Problem.UNREADABLE, reason=error.what)


def attempting(work: Callable[[A], B]) -> Callable[[A], B | HyperExportError]:
    """Make work that returns its failure, so that one element's does not end the work on the others.

    A request to stop goes through.
    """

    def attempt(item: A) -> B | HyperExportError:
        try:
            return work(item)
        except Interrupted:
            raise
        except HyperExportError as error:
            return error

    return attempt


def done_of(
    folders: Sequence[str], outcomes: Sequence[B | HyperExportError]
) -> tuple[list[tuple[str, B]], list[DamagedExport]]:
    """Sort what was done in each VM's folder from where it failed.

    Raises:
        HyperExportError: It failed in all of them, so that nothing is known: the first failure.
    """
    done: list[tuple[str, B]] = []
    failed: list[tuple[str, HyperExportError]] = []
    for folder, outcome in zip(folders, outcomes, strict=True):
        if isinstance(outcome, HyperExportError):
            failed.append((folder, outcome))
        else:
            done.append((folder, outcome))
    if failed and not done:
        raise failed[0][1]
    return done, [damaged_by(error, folder) for folder, error in failed]
