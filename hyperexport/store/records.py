"""The drills that a store keeps beside its exports, as far as their seals prove them."""

import logging
from collections.abc import Iterable, Mapping, Sequence

from hyperexport.model.drill import DrillRecord
from hyperexport.model.history import by_vm, identity_of
from hyperexport.model.identity import VmIdentity
from hyperexport.store.base import Record, StoredExport

logger = logging.getLogger(__name__)

Drills = Mapping[tuple[str, str], Sequence[DrillRecord]]
"""Proved drills, by the folder and the id of the export."""


def proved_drills(records: Iterable[Record]) -> dict[tuple[str, str], list[DrillRecord]]:
    """Read records; what no seal proves, or what is of another export, is left out and logged."""
    found: dict[tuple[str, str], list[DrillRecord]] = {}
    for one in records:
        folder, export_id, name = one.place
        drill = DrillRecord.from_json(one.data, export_id=export_id)
        if drill is None or drill.file_name != name:
            logger.warning("%s/%s/%s is not a valid record", folder, export_id, name)
            continue
        found.setdefault((folder, export_id), []).append(drill)
    return found


def last_passed(exports: Sequence[StoredExport], drills: Drills) -> dict[VmIdentity, DrillRecord]:
    """For each VM its newest drill that passed, of whichever of its exports."""
    newest: dict[VmIdentity, DrillRecord] = {}
    for identity, group in by_vm(exports, lambda export: export.manifest).items():
        passed = [drill for export in group for drill in drills_of(export, drills) if drill.passed]
        if passed:
            newest[identity] = max(passed, key=lambda drill: drill.started)
    return newest


def drills_of(export: StoredExport, drills: Drills) -> list[DrillRecord]:
    """The drills of one export; one that names another VM is not of it."""
    vm = identity_of(export.manifest)
    return [
        drill
        for drill in drills.get((export.folder, export.export_id), ())
        if VmIdentity.of(drill.vm, vcenter=export.manifest.vcenter, vcenter_uuid=drill.vcenter_uuid).matches(vm)
    ]
