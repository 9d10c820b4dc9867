"""The page of a store's contents, its key=value pairs, and the row of one export.

Imports little: listing a store must be fast.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from hyperexport.base.display import Page, Pairs, Table, blocks_of, lines, numbered, pages_of, row_of
from hyperexport.base.units import format_bytes
from hyperexport.model.damaged import DamagedExport
from hyperexport.model.history import is_of_the_future
from hyperexport.model.manifest import ExportManifest, short_id
from hyperexport.store.base import StoredExport
from hyperexport.store.contents import StoreContents

COLUMNS = (
    "Id",
    "VM",
    "Created",
    "Kind",
    "Adds",
    "Read",
    "Verified",
    "Drilled",
    "Preserved",
    "Shares bytes with",
)


@pages_of.register
def _(contents: StoreContents) -> tuple[Page, ...]:
    added, shared, drilled = contents.added_bytes, contents.shared_with, contents.drilled
    if not contents.exports and not contents.damaged:
        return (Page(f"{contents.store}: no exports"),)
    rows: list[tuple[str, ...]] = []
    for export in contents.exports:
        name = str(export)
        last_drill = f"{drilled[name]:%Y-%m-%d}" if name in drilled else ""
        rows.append(_row(export, added[name], shared[name], last_drill))
    for one in contents.damaged:
        rows.append((short_id(str(one)) if one.export_id else "-", str(one), *"----", "DAMAGED", "", "", ""))
    used = [number for number in range(len(COLUMNS)) if any(row[number] for row in rows)]
    shown = tuple(tuple(row[number] for number in used) for row in rows)
    table = Table("", tuple(COLUMNS[number] for number in used), shown)
    damaged = lines("Damaged", [one.words_and_remedy for one in contents.damaged])
    count = len(contents.exports)
    title = f"{contents.store}: {count} export{'' if count == 1 else 's'}, {format_bytes(contents.stored_bytes)}"
    return (Page(title, (table, *damaged)),)


@blocks_of.register
def _(contents: StoreContents) -> tuple[Pairs, ...]:
    added, shared = contents.added_bytes, contents.shared_with
    good = (_pairs(contents, export, added[str(export)], shared[str(export)]) for export in contents.exports)
    damaged = ((("store", contents.store), *damaged_pairs(one)) for one in contents.damaged)
    return (*good, *damaged)


def damaged_pairs(one: DamagedExport) -> Pairs:
    """An export, or a VM's folder, that cannot be relied on."""
    return (("export", one), ("damage", one.reason), ("problem", one.problem))


def _pairs(contents: StoreContents, export: StoredExport, added: int, shared: Sequence[str]) -> Pairs:
    name, manifest = str(export), export.manifest
    drilled = contents.drilled.get(name)
    return (
        ("store", contents.store),
        ("vm", manifest.vm.name),
        ("path", manifest.vm.path),
        ("export", name),
        ("id", short_id(name)),
        ("started", manifest.started.isoformat()),
        ("kind", manifest.kind),
        *numbered("deltas", filter(None, [manifest.deltas])),
        *numbered("synthetic", filter(None, [manifest.is_synthetic])),
        ("stored_bytes", added),
        ("bytes_transferred", manifest.transfer.bytes_transferred),
        ("verified", manifest.verified.isoformat() if manifest.verified else ""),
        ("drilled", drilled.isoformat() if drilled else ""),
        ("preserved", manifest.preserve),
        *numbered("shares_with", shared),
        *numbered("in_future", filter(None, [is_of_the_future(manifest, datetime.now(UTC))])),
        *numbered("damage", manifest.damage),
    )


@row_of.register
def _(export: StoredExport) -> dict[str, object]:
    manifest = export.manifest
    return dict(zip(COLUMNS, _row(export, manifest.stored_bytes, manifest.shares_with, ""), strict=True))


def _row(export: StoredExport, added: int, shared: Sequence[str], drilled: str) -> tuple[str, ...]:
    manifest = export.manifest
    future = " (in the future)" if is_of_the_future(manifest, datetime.now(UTC)) else ""
    return (
        short_id(str(export)),
        manifest.vm.name,
        f"{manifest.started:%Y-%m-%d %H:%M} UTC{future}",
        manifest.kind_in_words,
        format_bytes(added),
        format_bytes(manifest.transfer.bytes_transferred),
        _verified(manifest),
        drilled,
        "yes" if manifest.preserve else "",
        _sharers(shared),
    )


def _verified(manifest: ExportManifest) -> str:
    """The result of the newest verification."""
    if manifest.damage:
        return "DAMAGED"
    return f"{manifest.verified:%Y-%m-%d}" if manifest.verified else "never"


def _sharers(names: Sequence[str]) -> str:
    """The other exports that one rotten file would damage as well; the first few of them."""
    first = ", ".join(map(short_id, names[:2]))
    return first if len(names) < 3 else f"{first} and {len(names) - 2} more"
