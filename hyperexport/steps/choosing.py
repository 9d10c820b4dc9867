"""Which export a restore, a conversion, NBD or file access reads: by VM, by VM and time, or by id."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from hyperexport.errors import ExportNotFound, UsageError
from hyperexport.model.history import by_vm, made, newest_first, place
from hyperexport.model.manifest import ExportManifest
from hyperexport.model.restore_point import RestorePoint
from hyperexport.steps.verification import select_exports
from hyperexport.store.base import Store, StoredExport

logger = logging.getLogger(__name__)


class ChosenExport(NamedTuple):
    """An export, and the store that it is read from."""

    store: Store
    export: StoredExport


def choose_export(
    stores: Sequence[Store], *, export: str | None = None, vm: str | None = None, at: datetime | None = None
) -> ChosenExport:
    """Choose the export that is meant.

    Args:
        stores: Where to look; of equal copies that in the earlier store is read.
        export: Its short id as ``list`` prints it, its id, ``<vm folder>/<id>``, or a path or URL that ends so. Any
            export can be named like this, damaged ones too.
        vm: Instead, the VM's name, inventory path, instance uuid or folder in the store: its newest good export.
        at: With ``vm``: the newest good export that was begun at this time or before.

    Raises:
        UsageError: Neither or both are given, or several VMs have the name.
        ExportNotFound: There is no such export, or no good one.
        StoreUnusable, StoreUnreachable: A store could not be listed.
    """
    wanted = RestorePoint(export=export, vm=vm, at=at)
    return _by_id(stores, wanted.export) if wanted.export else _by_vm(stores, wanted.vm or "", wanted.at)


def _by_id(stores: Sequence[Store], wanted: str) -> ChosenExport:
    selected = select_exports(stores, [wanted])
    found = [ChosenExport(selection.store, export) for selection in selected for export in selection.exports]
    if not found:
        reasons = "; ".join(one.words for selection in selected for one in selection.damaged)
        raise ExportNotFound(
            f"{wanted} cannot be read: {reasons}",
            fix="Choose another export of the VM (hyperexport list shows them)",
        )
    if len({str(chosen.export) for chosen in found}) > 1:
        names = ", ".join(sorted({str(chosen.export) for chosen in found}))
        raise UsageError(f"several exports have the id {wanted}: {names}", fix="Give the VM's folder with the id")
    if damage := found[0].export.manifest.damage:
        logger.warning("%s is known to be damaged: %s", found[0].export, damage[0])
    return found[0]


def _by_vm(stores: Sequence[Store], vm: str, at: datetime | None) -> ChosenExport:
    listings = [(store, store.listing()) for store in stores]
    everything = [ChosenExport(store, export) for store, listing in listings for export in listing.exports]
    groups = [_newest_first(group) for group in by_vm(everything, _manifest_of).values()]
    # By its name of today, or else by one that it once had.
    named = [group for group in groups if _is_named(group[0].export, vm)]
    named = named or [group for group in groups if any(_is_named(chosen.export, vm) for chosen in group)]
    places = " and in ".join(store.url for store in stores)
    if not named:
        names = sorted({group[0].export.manifest.vm.name for group in groups})
        unread = sum(len(listing.damaged) for _, listing in listings)
        if unread:
            left_out = "1 damaged export is" if unread == 1 else f"{unread} damaged exports are"
            known = f"{left_out} left out: hyperexport list shows why"
            known = f"There are exports of {', '.join(names[:20])}. {known}" if names else known
        else:
            known = f"Its VMs are {', '.join(names[:20])}" if names else "There is no export at all"
        raise ExportNotFound(f"no export of a VM named {vm!r} is in {places}", fix=known)
    if len(named) > 1:
        raise UsageError(
            f"several VMs in {places} are named {vm!r}: {', '.join(sorted(str(group[0].export) for group in named))}",
            fix="Give the instance uuid with --vm, or one of these exports by its id",
        )
    (of_vm,) = named
    in_time = _made_by(of_vm, at) if at else of_vm
    good = [chosen for chosen in in_time if is_good(chosen.export)]
    if not good:
        before = f" at or before {at:%Y-%m-%d %H:%M:%S %Z}" if at else ""
        damaged = f"; {len(in_time)} are there, and damaged" if in_time else ""
        raise ExportNotFound(
            f"there is no good export of {vm!r}{before} in {places}{damaged}",
            fix="hyperexport list shows what is there; a damaged export can be named by its id",
        )
    # Copies of one export are equally new: the one in the earlier store is read.
    newest = good[0].export.export_id
    passed_over = in_time[: in_time.index(good[0])]
    if passed_over:
        why = f"{passed_over[0].export}: {passed_over[0].export.manifest.damage[0]}"
        logger.warning("%s is read, because %d newer exports are damaged (%s)", good[0].export, len(passed_over), why)
    return min(
        (chosen for chosen in good if chosen.export.export_id == newest), key=lambda one: stores.index(one.store)
    )


def _made_by(exports: Sequence[ChosenExport], at: datetime) -> list[ChosenExport]:
    """Choose those that were made by then by every clock, and by the exports that they were made after."""
    places = place([chosen.export.manifest for chosen in exports], datetime.now(UTC))
    return [
        chosen
        for chosen, placed in zip(exports, places, strict=True)
        if max(placed.at, made(chosen.export.manifest)) <= at
    ]


def _newest_first(group: Sequence[ChosenExport]) -> list[ChosenExport]:
    return newest_first(group, _manifest_of)


def _manifest_of(chosen: ChosenExport) -> ExportManifest:
    return chosen.export.manifest


def _is_named(export: StoredExport, vm: str) -> bool:
    known = export.manifest.vm
    return vm in {known.name, known.path, known.instance_uuid, export.folder}


def is_good(export: StoredExport) -> bool:
    """Whether no verification found anything wrong with an export; that its manifest is whole, its listing proves."""
    return not export.manifest.damage
