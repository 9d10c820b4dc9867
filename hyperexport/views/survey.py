"""How well the VMs of a store are protected, by its manifests alone.

One plain value, from which the metrics, the page and the terminal's table are made. A VM that was never exported is
in no manifest and so not here: compare with vSphere's inventory for that.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final

from pydantic import Field

from hyperexport.base.display import Page, Pairs, lines, numbered, table
from hyperexport.base.units import format_age, format_bytes
from hyperexport.errors import HyperExportError
from hyperexport.model.content import shared_with, stored_bytes
from hyperexport.model.damaged import DamagedExport
from hyperexport.model.drill import DrillRecord
from hyperexport.model.history import (
    TOLERANCE,
    by_vm,
    identity_of,
    is_of_the_future,
    made_at_the_earliest,
    newest_first,
)
from hyperexport.model.manifest import ExportKind, ExportManifest, Quiescing
from hyperexport.model.vm import Value
from hyperexport.store.base import StoredExport
from hyperexport.store.cached_store import CachedStore
from hyperexport.store.listing import StoreListing
from hyperexport.store.records import Drills, last_passed

_IN_PAIRS: Final = (
    "path",
    "late",
    "last_success",
    "age_seconds",
    "last_verified",
    "last_drill",
    "exports",
    "stored_bytes",
)
"""The facts of a VM that its key=value pairs have."""


class VmSurvey(Value):
    """What a store holds of one VM, in whatever folders."""

    folder: str = Field(description="The folder of its newest export.")
    exports: tuple[ExportManifest, ...] = Field(default=(), description="The proved ones, the newest first.")
    unproved: tuple[DamagedExport, ...] = Field(default=(), description="Those that cannot be relied on.")
    folders: tuple[str, ...] = Field(default=(), description="The folder of each export, where they are not all one.")
    future: tuple[str, ...] = Field(
        default=(), description="The ids of those that are dated in the future: a clock is or was wrong."
    )
    taken: datetime | None = Field(default=None, description="When the store was looked at.")
    last_drill: DrillRecord | None = Field(default=None, description="The newest restore drill that passed.")
    label: str = Field(default="", description="The folder; with more, where several VMs of one name share one.")

    @property
    def name(self) -> str:
        """The VM's name, as it was at its newest export; its folder's where no export is proved."""
        return self.exports[0].vm.name if self.exports else self.folder

    @property
    def path(self) -> str:
        """The VM's inventory path at its newest export; empty where no export is proved."""
        return self.exports[0].vm.path if self.exports else ""

    @cached_property
    def last_good(self) -> ExportManifest | None:
        """The newest export of which no verification found anything wrong, and whose age is known."""
        return next((one for one in self.exports if is_good(one) and one.export_id not in self.future), None)

    @property
    def damaged(self) -> tuple[str, ...]:
        """The exports that a verification found damaged, and those that cannot be relied on, by their ids."""
        found = [export.export_id for export in self.exports if not is_good(export)]
        return (*found, *(one.export_id or one.folder for one in self.unproved))

    @property
    def last_verified(self) -> datetime | None:
        """When an export of the VM was last proved good; a time in the future says nothing of when."""
        times = [export.verified for export in self.exports if export.verified]
        return max((time for time in times if not self.taken or time <= self.taken + TOLERANCE), default=None)

    @property
    def stored_bytes(self) -> int:
        """Bytes that its exports take in the store, what they share counted once."""
        return stored_bytes(self.placed)

    @cached_property
    def shared(self) -> dict[str, tuple[str, ...]]:
        """For each export by ``<vm folder>/<export id>`` the others that share bytes with it."""
        return shared_with(self.placed)

    @property
    def placed(self) -> list[tuple[str, ExportManifest]]:
        """Its exports, each with the folder that it lies in."""
        return list(zip(self.folders or (self.folder,) * len(self.exports), self.exports, strict=True))

    def age(self, now: datetime) -> timedelta | None:
        """How old the state is that could be restored: the time since the newest good export began."""
        return now - made_at_the_earliest(self.last_good) if self.last_good else None

    def is_late(self, now: datetime, rpo: timedelta) -> bool:
        """Whether more would be lost than the objective allows."""
        age = self.age(now)
        return age is None or age > rpo

    def missing(self, now: datetime, rpo: timedelta) -> tuple[str, ...]:
        """What keeps the VM from being well protected, the worst first; nothing where it is."""
        newest = self.exports[0] if self.exports else None
        words: list[str] = []
        age = self.age(now)
        if age is None:
            words.append("no good export: every one is damaged" + (" or dated in the future" if self.future else ""))
        elif age > rpo:
            words.append(f"the last good export is {format_age(age)} old")
        if self.future:
            words.append(f"dated in the future, so a clock is wrong: {', '.join(self.future)}")
        if newest and newest.snapshot and newest.snapshot.leaked:
            words.append(f"snapshot {newest.snapshot.name} could not be removed and may still grow")
        verified_damaged = [export.export_id for export in self.exports if not is_good(export)]
        if verified_damaged:
            words.append(f"damaged: {', '.join(verified_damaged)}")
        words += [f"damaged: {one.export_id or one.folder}: {one.reason}. {one.remedy}" for one in self.unproved]
        if newest and newest.skipped_disks:
            words.append(f"not in the export: {', '.join(disk.label for disk in newest.skipped_disks)}")
        if self.last_good and self.last_good.verified is None:
            words.append("the last good export was never verified")
        if newest and newest.snapshot and newest.snapshot.quiescing is Quiescing.CRASH_CONSISTENT:
            words.append("the last export is only crash-consistent")
        return tuple(words)

    def facts(self, now: datetime, rpo: timedelta) -> dict[str, object]:
        """The VM for a program: plain values under names that stay."""
        last, age = self.last_good, self.age(now)
        return {
            "name": self.name,
            "path": self.path,
            "vcenter": self.exports[0].vcenter if self.exports else "",
            "folder": self.folder,
            "late": self.is_late(now, rpo),
            "last_success": last.started.isoformat() if last else None,
            "last_success_export": last.export_id if last else None,
            "age_seconds": round(age.total_seconds()) if age is not None else None,
            "last_verified": self.last_verified.isoformat() if self.last_verified else None,
            "last_drill": self.last_drill.started.isoformat() if self.last_drill else None,
            "last_drill_export": self.last_drill.export_id if self.last_drill else None,
            "exports": len(self.exports),
            "future": list(self.future),
            "damaged": list(self.damaged),
            "stored_bytes": self.stored_bytes,
            "shares_bytes": {name.rpartition("/")[2]: _ids(others) for name, others in self.shared.items() if others},
            "bytes_per_second": rate_of(last) if last else None,
            "missing": list(self.missing(now, rpo)),
        }


class StoreSurvey(Value):
    """What one store holds, at one moment."""

    store: str = Field(description="The store, as a person names it.")
    taken: datetime
    vms: tuple[VmSurvey, ...] = Field(default=(), description="By name.")
    free_bytes: int | None = Field(default=None, description="None where the notion has no meaning.")
    problem: str | None = Field(
        default=None, description="Why the store could not be read; then there is nothing else."
    )

    @property
    def unproved(self) -> tuple[DamagedExport, ...]:
        """What cannot be relied on, of all VMs."""
        return tuple(one for vm in self.vms for one in vm.unproved)

    @property
    def stored_bytes(self) -> int:
        """Bytes that all its exports take, what they share counted once."""
        return stored_bytes(placed for vm in self.vms for placed in vm.placed)

    def late(self, rpo: timedelta) -> tuple[VmSurvey, ...]:
        """The VMs whose last good export is too old, or that have none."""
        return tuple(vm for vm in self.vms if vm.is_late(self.taken, rpo))


def _ids(names: Sequence[str]) -> list[str]:
    return [name.rpartition("/")[2] for name in names]


def is_good(export: ExportManifest) -> bool:
    """Whether nothing is known against an export."""
    return not export.damage


def rate_of(export: ExportManifest) -> float | None:
    """Bytes per second over the link while the export moved some; None where it moved none."""
    moved = export.transfer
    if not moved.bytes_transferred:
        return None
    return moved.achieved or (moved.bytes_transferred / moved.seconds if moved.seconds else None)


def is_full(export: ExportManifest) -> bool:
    """Whether it shares no bytes with earlier exports."""
    return export.kind is ExportKind.FULL


def survey(store: CachedStore, now: datetime | None = None) -> StoreSurvey:
    """Survey a store. One that cannot be read gives a survey with the reason, so that the others are still surveyed."""
    taken = now or datetime.now(UTC)
    url = store.store.url
    try:
        folders = store.look()
        free = store.store.free_bytes()
    except HyperExportError as error:
        return StoreSurvey(store=url, taken=taken, problem=str(error))
    return StoreSurvey(store=url, taken=taken, vms=_by_name(folders, store.drills, taken), free_bytes=free)


def _by_name(folders: Mapping[str, StoreListing], drills: Drills, now: datetime) -> tuple[VmSurvey, ...]:
    every = [export for found in folders.values() for export in found.exports]
    proofs = last_passed(every, drills)
    groups = [newest_first(found, _manifest, now) for found in _groups(every)]
    unproved = _unproved(folders, groups)
    vms: list[VmSurvey] = []
    labels: set[tuple[str, str]] = set()
    for number, ordered in enumerate(groups):
        folder, name = ordered[0].folder, ordered[0].manifest.vm.name
        label = f"{folder}#{identity_of(ordered[0].manifest).digest}" if (folder, name) in labels else folder
        labels.add((folder, name))
        vms.append(
            VmSurvey.model_construct(
                folder=folder,
                label=label,
                taken=now,
                exports=tuple(export.manifest for export in ordered),
                unproved=unproved.get(number, ()),
                folders=tuple(export.folder for export in ordered),
                last_drill=proofs.get(identity_of(ordered[0].manifest)),
                future=tuple(one.export_id for one in ordered if is_of_the_future(one.manifest, now)),
            )
        )
    known = {export.folder for export in every}
    vms += [
        VmSurvey.model_construct(folder=folder, unproved=found.damaged)
        for folder, found in folders.items()
        if found.damaged and folder not in known
    ]
    return tuple(sorted(vms, key=lambda vm: (vm.name.lower(), vm.label, vm.folder)))


def _groups(exports: Sequence[StoredExport]) -> list[list[StoredExport]]:
    return [found for _, found in sorted(by_vm(exports, _manifest).items(), key=lambda pair: str(pair[0]))]


def _unproved(
    folders: Mapping[str, StoreListing], groups: Sequence[Sequence[StoredExport]]
) -> dict[int, tuple[DamagedExport, ...]]:
    """Attribute what cannot be relied on to one VM, by its number: that whose newest export is in the folder, if any.

    An unproved manifest does not say of which VM it is. A renamed VM has exports in two folders.
    """
    owners: dict[str, int] = {}
    for number, ordered in enumerate(groups):
        owners.setdefault(ordered[0].folder, number)
    for number, ordered in enumerate(groups):
        for export in ordered:
            owners.setdefault(export.folder, number)
    found: dict[int, tuple[DamagedExport, ...]] = {}
    for folder, listing in folders.items():
        if listing.damaged and folder in owners:
            found[owners[folder]] = (*found.get(owners[folder], ()), *listing.damaged)
    return found


def _manifest(export: StoredExport) -> ExportManifest:
    return export.manifest


def survey_page(found: StoreSurvey, rpo: timedelta) -> Page:
    """How well each VM of a store is protected, those that lack something first."""
    if found.problem or not found.vms:
        return Page(f"{found.store}: {found.problem or 'no exports'}")
    ordered = sorted(found.vms, key=lambda vm: (not vm.is_late(found.taken, rpo), not vm.missing(found.taken, rpo)))
    late = len(found.late(rpo))
    good = f"{len(found.vms) - late} of {len(found.vms)} VMs have a good export of the last {format_age(rpo)}."
    rows = table("", [_survey_row(vm, found, rpo) for vm in ordered])
    return Page(found.store, (*rows, *lines("", [good]), *lines("DAMAGED", [one.words for one in found.unproved])))


def survey_blocks(found: StoreSurvey, rpo: timedelta) -> tuple[Pairs, ...]:
    """The same as key=value pairs: the store's, then a block for each VM."""
    store: Pairs = (
        ("store", found.store),
        ("problem", found.problem or ""),
        ("vms", len(found.vms)),
        ("late", len(found.late(rpo))),
        ("unreadable", len(found.unproved)),
        *(("damaged", one.words) for one in found.unproved),
    )
    return (store, *(_survey_pairs(vm, found, rpo) for vm in found.vms))


def _survey_pairs(vm: VmSurvey, found: StoreSurvey, rpo: timedelta) -> Pairs:
    facts = vm.facts(found.taken, rpo)
    shown = ((key, "" if facts[key] is None else facts[key]) for key in _IN_PAIRS)
    return (("vm", vm.name), *shown, *numbered("missing", vm.missing(found.taken, rpo)))


def _survey_row(vm: VmSurvey, found: StoreSurvey, rpo: timedelta) -> dict[str, object]:
    last, age = vm.last_good, vm.age(found.taken)
    return {
        "VM": vm.name,
        "Last good export": f"{last.started:%Y-%m-%d %H:%M} UTC" if last else "-",
        "Age": format_age(age) if age is not None else "-",
        "Stored": format_bytes(vm.stored_bytes),
        "Exports": len(vm.exports),
        "Verified": f"{last.verified:%Y-%m-%d}" if last and last.verified else "never",
        "Drilled": f"{vm.last_drill.started:%Y-%m-%d}" if vm.last_drill else "never",
        "Missing": "; ".join(vm.missing(found.taken, rpo)) or "nothing",
    }
