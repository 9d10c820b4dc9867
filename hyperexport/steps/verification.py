"""A stored export, read back and proved; what came out is noted in a mark beside it."""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from random import SystemRandom
from typing import Final, NamedTuple

from hyperexport.base.stop import StopSignal
from hyperexport.errors import (
    ExportNotFound,
    HyperExportError,
    Interrupted,
    ManifestInvalid,
    UsageError,
    VerificationFailed,
)
from hyperexport.model.damaged import DamagedExport, Problem
from hyperexport.model.history import newest_first
from hyperexport.model.manifest import FILE_NAME, ExportManifest, FileRole, short_id
from hyperexport.model.marks import VerifiedMark
from hyperexport.model.progress import Progress, Stage, report
from hyperexport.options.declaring import VerifyMode
from hyperexport.policy.sampling import sample
from hyperexport.results import VerifiedExport
from hyperexport.steps import shared_damage
from hyperexport.steps.step import step
from hyperexport.store.base import Store, StoredExport
from hyperexport.verify.export import ReadFiles, verify_export
from hyperexport.verify.findings import Finding, Verification

logger = logging.getLogger(__name__)

_LARGE: Final = frozenset({FileRole.DISK, FileRole.BASE, FileRole.OVA})

SECONDS_BETWEEN_REPORTS: Final = 0.2


@step("verify-export", run_name="verify {export.export_id}", retried=True)
def verify(
    store: Store, export: StoredExport, mode: VerifyMode, stop: StopSignal, *, read: ReadFiles | None = None
) -> tuple[StoredExport, Verification]:
    """Verify one export. What is wrong is in the result and in its mark; nothing is raised for it.

    Where the result cannot be recorded beside the export, as on a read-only store, ``unrecorded`` says why.

    Args:
        store: Where it lies.
        export: Which one.
        mode: How much is read.
        stop: Ends the reading.
        read: The files that this run has read for other exports, which are not read again.

    Returns:
        The export with what its marks now say, and what was found.

    Raises:
        ExportNotFound: The export was deleted meanwhile.
        StoreUnusable, StoreUnreachable: The store could not be read, which proves nothing either way.
        Interrupted: The run was asked to stop.
    """
    deep = mode is VerifyMode.DEEP
    found = verify_export(store, export, deep=deep, stop=stop, progress=_reporting(export), read=read)
    found = shared_damage.still_damaged(export, found)
    if not found.ok and store.read(export.folder, export.export_id) is None:
        raise ExportNotFound(f"{export} was deleted while it was being verified")
    # With damaged block tags alone every disk is sound, and proved by its SHA-256 wherever it is read.
    tags = {entry.name for entry in export.manifest.tags}
    damage = tuple(str(finding) for finding in found.findings if finding.file not in tags)
    now = datetime.now(UTC)
    mark = VerifiedMark(
        export_id=export.export_id,
        verified=now if found.ok else export.manifest.verified,
        read_back=now if found.ok and not found.trusted else _read_back(export),
        damage=() if found.ok else damage,
        read=tuple(finding.file for finding in found.findings if finding.read and finding.file not in tags),
        seconds=round(found.seconds, 3),
    )
    try:
        export = store.write_mark(export, mark)
    except (Interrupted, ExportNotFound):
        raise
    except ManifestInvalid as error:
        rotten = () if any(finding.file == FILE_NAME for finding in found.findings) else (_of_manifest(error.reason),)
        found = found.model_copy(update={"findings": (*found.findings, *rotten), "unrecorded": error.what})
    except HyperExportError as error:
        logger.warning("%s: the result could not be recorded beside it: %s", export, error)
        found = found.model_copy(update={"unrecorded": error.what})
    for finding in found.findings:
        logger.error("%s: %s", export, finding)
    if found.ok:
        logger.info("%s: verified in %s", export, store.url)
    return export, found


def _read_back(export: StoredExport) -> datetime | None:
    """When all of an export was last read back and proved, as far as its mark says."""
    mark = export.verification
    if mark is None or mark.read is None:  # of an earlier version
        return export.manifest.verified
    return mark.read_back


def _reporting(export: StoredExport) -> Callable[[str, int, int], None]:
    """Report how far the reading of the export's disks is, a few times a second; the other files are small."""
    large = {entry.name for entry in export.manifest.files if entry.role in _LARGE}
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
    damaged: list[DamagedExport]


def select_exports(stores: Sequence[Store], wanted: Sequence[str]) -> list[Selection]:
    """Find exports as people name them, in every store that holds them; all of them when none is named.

    Args:
        stores: Where to look.
        wanted: Export ids, short ids, ``<vm folder>/<export id>``, or paths and URLs that end so.

    Raises:
        UsageError: A short id is that of several exports.
        ExportNotFound: A name fits nothing in any of the stores, or they are empty: a misspelt place proves nothing.
    """
    selections: list[Selection] = []
    missing = list(wanted)
    for store in stores:
        listing = store.listing()
        exports, damaged = list(listing.exports), list(listing.damaged)
        if wanted:
            exports = [export for export in exports if is_named(str(export), wanted)]
            damaged = [one for one in damaged if is_named(str(one), wanted)]
        found = [*map(str, exports), *map(str, damaged)]
        missing = [name for name in missing if not any(is_named(export, [name]) for export in found)]
        selections.append(Selection(store, exports, damaged))
    _refuse_ambiguous(selections, wanted)
    places = " and in ".join(store.url for store in stores)
    if not any(found.exports or found.damaged for found in selections) and not missing:
        raise ExportNotFound(
            f"there is no export at all in {places}, so nothing was verified",
            fix="Check --output and --upload",
        )
    if missing:
        name = missing[0]
        raise ExportNotFound(f"there is no export {name} in {places}", fix=_what_is_there(stores, name))
    return selections


def _what_is_there(stores: Sequence[Store], name: str) -> str:
    """What to name instead; people name the VM."""
    of_vm = [one for store in stores for one in store.exports() if name in {one.manifest.vm.name, one.manifest.vm.path}]
    if not of_vm:
        return "hyperexport list shows what is there"
    newest = newest_first(of_vm, lambda export: export.manifest)[0]
    return f"{name} is a VM; its newest export is {short_id(str(newest))} (hyperexport list shows all)"


def _refuse_ambiguous(selections: Sequence[Selection], wanted: Sequence[str]) -> None:
    names = {str(one) for found in selections for one in (*found.exports, *found.damaged)}
    for short in wanted:
        same = sorted(name for name in names if short_id(name) == short)
        if len(same) > 1:
            raise UsageError(f"several exports have the short id {short}: {', '.join(same)}", fix="Give one of these")


def sample_of(selections: Sequence[Selection], mode: VerifyMode, *, within: timedelta) -> list[Selection]:
    """Leave of each store what a run of every night has to read; what is known as unreadable stays, and is reported.

    Where everything is read back, only a proof by reading counts as one.
    """
    found: list[Selection] = []
    for store, exports, damaged in selections:
        placed = [(one.folder, _by_reading(one) if mode is VerifyMode.DEEP else one.manifest) for one in exports]
        chosen = sample(placed, within=within, now=datetime.now(UTC), chance=SystemRandom())
        logger.info("%s: %d of %d exports are verified in this run", store.url, len(chosen), len(exports))
        by_name = {str(one): one for one in exports}
        found.append(Selection(store, [by_name[name] for name in chosen], damaged))
    return found


def _by_reading(export: StoredExport) -> ExportManifest:
    return export.manifest.model_copy(update={"verified": _read_back(export)})


VerifyExport = Callable[[Store, StoredExport, VerifyMode, StopSignal], tuple[StoredExport, Verification]]
"""Carries out :func:`verify`."""

OnDamage = Callable[[StoredExport | DamagedExport, VerifiedExport], None]
"""Called with each damaged export."""


def verify_selected(
    selections: Sequence[Selection],
    mode: VerifyMode,
    stop: StopSignal,
    *,
    verify_one: VerifyExport,
    on_damage: OnDamage | None = None,
) -> list[VerifiedExport]:
    """Verify exports one by one. None of them ends the work on the others, unless the store itself does not answer.

    Args:
        selections: The exports.
        mode: How much is read.
        stop: Ends the work.
        verify_one: Carries out the verification of one.
        on_damage: Called with each export that is damaged.

    Returns:
        What was found of each, also of those that another run deleted meanwhile; then the exports that were not
        selected, and have a file in which damage was found.

    Raises:
        StoreUnreachable: A store does not answer any more.
        Interrupted: The run was asked to stop.
    """
    verified: list[VerifiedExport] = []
    for store, exports, damaged in selections:
        done: list[shared_damage.Outcome] = []
        for export in (*damaged, *exports):
            item = _verified(store, export, mode, stop, verify_one)
            verified.append(item)
            if isinstance(export, StoredExport) and not item.deleted:
                done.append(shared_damage.Outcome(export, item.verification))
            told_of = not isinstance(export, DamagedExport) or export.problem is not Problem.UNREADABLE
            if on_damage and told_of and not item.verification.ok:
                on_damage(export, item)
        for export, findings in shared_damage.record(store, done):
            item = VerifiedExport(location=f"{store.url}/{export}", verification=_not_read(findings))
            verified.append(item)
            if on_damage:
                on_damage(export, item)
    return verified


def _not_read(findings: tuple[Finding, ...]) -> Verification:
    """What is said of an export that was not read itself."""
    return Verification(
        files=len(findings), bytes_read=0, findings=findings, seconds=0, protection="none: nothing was compared"
    )


def _verified(
    store: Store, export: StoredExport | DamagedExport, mode: VerifyMode, stop: StopSignal, verify_one: VerifyExport
) -> VerifiedExport:
    location = f"{store.url}/{export}"
    try:
        if isinstance(export, StoredExport):
            return VerifiedExport(location=location, verification=verify_one(store, export, mode, stop)[1])
        where = FILE_NAME if export.problem is not Problem.LINK else export.export_id or export.folder
        finding = Finding(file=where, problem=f"{export.reason}. {export.remedy}")
    except Interrupted:
        raise
    except HyperExportError as error:
        finding = Finding(file=FILE_NAME, problem=f"the export could not be verified: {error.what}")
    gone = export.export_id and store.read(export.folder, export.export_id) is None
    unproved = _not_read(() if gone else (finding,)).model_copy(update={"files": 1})
    return VerifiedExport(location=location, verification=unproved, deleted=bool(gone))


def _of_manifest(problem: str) -> Finding:
    return Finding(file=FILE_NAME, problem=problem)


def fail_on_damage(verified: Sequence[VerifiedExport], *, empty: Sequence[Store] = ()) -> None:
    """Name every damaged export, the first finding of each with it.

    Args:
        verified: What was found.
        empty: The stores that were to be verified and hold no export at all: one may be misspelt.

    Raises:
        VerificationFailed: There are some; it carries what was found of all.
    """
    damaged = [item for item in verified if not item.verification.ok]
    problems: list[str] = []
    if damaged:
        each = "; ".join(f"{item.location}: {item.verification.findings[0]}" for item in damaged)
        problems.append(f"{len(damaged)} of {len(verified)} exports are damaged or cannot be read: {each}")
    if empty:
        places = " and in ".join(store.url for store in empty)
        problems.append(f"there is no export at all in {places}, so nothing was verified there")
    if not problems:
        return
    fix = "Export the VM again; nothing builds on a damaged export" if damaged else "Check --output and --upload"
    failed = VerificationFailed("; ".join(problems), fix=fix)
    failed.exports = tuple(verified)
    raise failed


def is_named(export: str, names: Sequence[str]) -> bool:
    """Tell whether one of the names means the export ``<vm folder>/<export id>``."""
    folder, _, export_id = export.partition("/")
    ends = (name.rstrip("/").removesuffix(f"/{FILE_NAME}").split("/")[-2:] for name in names)
    if not export_id:  # a VM's whole folder that cannot be relied on
        return any(folder in end for end in ends)
    return any(end in ([folder, export_id], [export_id]) for end in ends) or short_id(export) in names
