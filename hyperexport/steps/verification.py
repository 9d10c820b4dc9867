"""A stored export, read back and proved; what came out is noted in its manifest."""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from hyperexport.base.stop import StopSignal
from hyperexport.errors import ExportNotFound, VerificationFailed
from hyperexport.model.manifest import FILE_NAME, SCHEMA_VERSION, FileRole, StageName
from hyperexport.model.progress import Progress, Stage, report
from hyperexport.options.groups import VerifyMode
from hyperexport.results import VerifiedExport
from hyperexport.store.base import Store, StoredExport
from hyperexport.verify import Finding, Verification, verify_export

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_REPORTS: Final = 0.2


def verify(store: Store, export: StoredExport, mode: VerifyMode, stop: StopSignal) -> tuple[StoredExport, Verification]:
    """Verify one export. What is wrong is in the result and in the manifest; nothing is raised for it.

    Returns:
        The export with what its manifest now says, and what was found.

    Raises:
        StoreUnusable, StoreUnreachable: The store could not be read, which proves nothing either way.
        Interrupted: The run was asked to stop.
    """
    found = verify_export(store, export, deep=mode is VerifyMode.DEEP, stop=stop, progress=_reporting(export))
    damage = tuple(str(finding) for finding in found.findings)
    took = {**export.manifest.stages, StageName.VERIFY: round(found.seconds, 3)}
    noted = {"verified": datetime.now(UTC), "damage": ()} if found.ok else {"damage": damage}
    noted |= {"schema_version": SCHEMA_VERSION, "stages": took}
    export = store.replace_manifest(export, export.manifest.model_copy(update=noted))
    for line in damage:
        logger.error("%s: %s", export, line)
    if found.ok:
        logger.info("%s: verified in %s", export, store.url)
    return export, found


def _reporting(export: StoredExport) -> Callable[[str, int, int], None]:
    """Report how far the reading of the export's disks is, a few times a second; the other files are small."""
    large = {entry.name for entry in export.manifest.files if entry.role in {FileRole.DISK, FileRole.OVA}}
    report_at = 0.0

    def on_progress(name: str, position: int, size: int) -> None:
        nonlocal report_at
        done = position >= size
        if name in large and (done or time.monotonic() >= report_at):
            item = f"{export.manifest.export_id}/{name}"
            report(Progress(export.manifest.vm, item, Stage.VERIFY, position, size, position, done=done))
            report_at = time.monotonic() + SECONDS_BETWEEN_REPORTS

    return on_progress


class Selection(NamedTuple):
    """What one store holds of the exports that are asked for."""

    store: Store
    exports: list[StoredExport]
    unreadable: list[str]
    """``<vm folder>/<export id>`` of those whose manifest cannot be read."""


def select_exports(stores: Sequence[Store], wanted: Sequence[str]) -> list[Selection]:
    """Find exports as people name them, in every store that holds them; all of them when none is named.

    Args:
        stores: Where to look.
        wanted: Export ids, ``<vm folder>/<export id>``, or paths and URLs that end so.

    Raises:
        ExportNotFound: A name fits nothing in any of the stores, or they are empty: a misspelt place proves nothing.
    """
    selections: list[Selection] = []
    missing = list(wanted)
    for store in stores:
        exports, unreadable = store.exports(), store.damaged()
        if wanted:
            exports = [export for export in exports if _is_named(str(export), wanted)]
            unreadable = [name for name in unreadable if _is_named(name, wanted)]
        found = [*map(str, exports), *unreadable]
        missing = [name for name in missing if not any(_is_named(export, [name]) for export in found)]
        selections.append(Selection(store, exports, unreadable))
    places = " and in ".join(store.url for store in stores)
    if not any(found.exports or found.unreadable for found in selections) and not missing:
        raise ExportNotFound(
            f"there is no export at all in {places}, so nothing was verified",
            fix="Is it the right place? See --output and --upload",
        )
    if missing:
        raise ExportNotFound(
            f"there is no export {missing[0]} in {places}", fix="See hyperexport list for what is there"
        )
    return selections


def fail_on_damage(verified: Sequence[VerifiedExport]) -> None:
    """Name every damaged export, the first finding of each with it.

    Raises:
        VerificationFailed: There are some; it carries what was found of all.
    """
    damaged = [item for item in verified if not item.verification.ok]
    if not damaged:
        return
    each = "; ".join(f"{item.location}: {item.verification.findings[0]}" for item in damaged)
    failed = VerificationFailed(
        f"{len(damaged)} of {len(verified)} exports are damaged: {each}",
        fix="Export the VM again; nothing builds on a damaged export",
    )
    failed.exports = tuple(verified)
    raise failed


def unreadable_manifest() -> Verification:
    """What a verification finds where it cannot even begin."""
    finding = Finding(file=FILE_NAME, problem="it cannot be read as a manifest")
    return Verification(files=1, bytes_read=0, findings=(finding,), seconds=0, protection="none: nothing was compared")


def _is_named(export: str, names: Sequence[str]) -> bool:
    """Whether one of the names means the export ``<vm folder>/<export id>``."""
    folder, _, export_id = export.partition("/")
    ends = (name.rstrip("/").removesuffix(f"/{FILE_NAME}").split("/")[-2:] for name in names)
    return any(end in ([folder, export_id], [export_id]) for end in ends)
