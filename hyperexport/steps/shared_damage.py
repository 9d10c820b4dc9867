"""What a verification found in a file, recorded with every export that has the file, and taken back where it is over.

A listing says of an export what the marks of others say (``store/shared_damage.py``). It is written down here as well,
because the export that was verified may be deleted, and its mark with it, before those that share its files.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from hyperexport.errors import ExportNotFound, HyperExportError, Interrupted
from hyperexport.model.manifest import FILE_NAME, StageName
from hyperexport.model.marks import VerifiedMark
from hyperexport.store.base import Store, StoredExport
from hyperexport.store.shared_damage import KnownDamage, StoredFiles, known_damage
from hyperexport.verify.findings import Finding, Verification

logger = logging.getLogger(__name__)

DEEP_PROVES: Final = "; reading it back found this, and only reading it again (verify --deep) proves otherwise"


class Outcome(NamedTuple):
    """An export as it was listed before its verification, and what was found."""

    export: StoredExport
    verification: Verification


class Dependent(NamedTuple):
    """An export that was not verified, and has files that were found damaged in others."""

    export: StoredExport
    findings: tuple[Finding, ...]


def still_damaged(export: StoredExport, found: Verification) -> Verification:
    """Add what was found earlier by reading files of which this time only the store's checksum was compared.

    An object that rots keeps its checksum: a verification that reads less takes nothing back.
    """
    now = {finding.file for finding in found.findings}
    kept = [
        Finding(file=entry.name, problem=damage.problem.removesuffix(DEEP_PROVES) + DEEP_PROVES, read=True)
        for entry, damage in known_damage(export)
        if damage.read and entry.name in found.trusted and entry.name not in now
    ]
    return found.model_copy(update={"findings": (*found.findings, *kept)}) if kept else found


def record(store: Store, outcomes: Iterable[Outcome]) -> list[Dependent]:
    """Record what verifications found with all exports that share the files, and take back what they disproved.

    Looks at nothing where no damage was known or found. What cannot be recorded is logged: listings say it anyway.

    Returns:
        The exports that were not verified and have files in which damage was found now.

    Raises:
        StoreUnusable, StoreUnreachable: The store could not be listed.
    """
    folders: dict[str, dict[str, Verification]] = {}
    concerned: set[str] = set()
    for export, found in outcomes:
        folders.setdefault(export.folder, {})[export.export_id] = found
        if export.manifest.damage or not found.ok:
            concerned.add(export.folder)
    dependents: list[Dependent] = []
    for folder in sorted(concerned):
        exports = store.listing(folder).exports
        proofs = _Proofs(exports, folders[folder], StoredFiles(exports, store.same_file))
        marks = [mark for export in exports if (mark := proofs.without_disproved(export))]
        if _write(store, marks):
            exports = store.listing(folder).exports
        record_listed(store, exports)
        found = ((export, proofs.findings_of(export)) for export in exports)
        dependents += [Dependent(export, findings) for export, findings in found if findings]
    return dependents


def record_listed(store: Store, exports: Sequence[StoredExport]) -> bool:
    """Write down with each export of a listing what the listing says of it by the marks of others.

    Returns:
        Whether any mark was written.
    """
    marks: list[tuple[StoredExport, VerifiedMark]] = []
    for export in exports:
        if export.shared_damage and VerifiedMark.file_name not in export.unproved_marks:
            mark = _mark_of(export)
            marks.append((export, mark.model_copy(update={"shared": (*mark.shared, *export.shared_damage)})))
    return _write(store, marks)


class _Proofs:
    """What a run's verifications say of each stored file of a VM."""

    def __init__(self, exports: Sequence[StoredExport], done: Mapping[str, Verification], files: StoredFiles) -> None:
        self._done, self._files = done, files
        self._sound: dict[str, bool] = {}
        """The files that were found sound, and whether they were read back."""
        self._damaged: dict[str, Finding] = {}
        for export in exports:
            if export.export_id in done:
                self._look_at(export, done[export.export_id])
        for file in self._damaged:
            self._sound.pop(file, None)

    def _look_at(self, export: StoredExport, found: Verification) -> None:
        findings = {finding.file: finding for finding in found.findings}
        if FILE_NAME in findings:
            return
        for parts in map(export.manifest.parts, export.manifest.disks):
            # A part of a chain is proved with the whole chain.
            sound = findings.keys().isdisjoint(name for part in parts for name in (part.name, part.member_of or ""))
            for part in parts:
                finding = findings.get(part.name) or findings.get(part.member_of or "")
                file = self._files.of(export, part)
                if file and finding:
                    self._damaged.setdefault(file, finding)
                elif file and sound:
                    self._sound[file] = self._sound.get(file, False) or part.name not in found.trusted

    def without_disproved(self, export: StoredExport) -> tuple[StoredExport, VerifiedMark] | None:
        """The mark of an export that was not verified, without what is disproved; None where nothing of it is."""
        export = export.by_its_own_marks()
        if export.export_id in self._done or not export.manifest.damage or export.unproved_marks:
            return None
        over = {known.entry.name for known in known_damage(export) if self._disproves(export, known)}
        if not over:
            return None
        mark = _mark_of(export)
        damage = tuple(words for words in mark.damage if not any(words.startswith(f"{name}: ") for name in over))
        shared = tuple(one for one in mark.shared if one.file not in over)
        return export, mark.model_copy(update={"damage": damage, "shared": shared})

    def _disproves(self, export: StoredExport, known: KnownDamage) -> bool:
        read = self._sound.get(self._files.of(export, known.entry) or "")
        return read is not None and (read or not known.damage.read)

    def findings_of(self, export: StoredExport) -> tuple[Finding, ...]:
        """What was found in the files of an export that was not verified."""
        if export.export_id in self._done:
            return ()
        return tuple(
            Finding(file=entry.name, problem=str(damage).removeprefix(f"{entry.name}: "))
            for entry, damage in known_damage(export)
            if self._files.of(export, entry) in self._damaged
        )


def _mark_of(export: StoredExport) -> VerifiedMark:
    """The mark that an export has; one that says the same as its manifest, where it was verified by an old version."""
    if export.verification is not None:
        return export.verification
    manifest = export.by_its_own_marks().manifest
    return VerifiedMark(
        export_id=export.export_id,
        verified=manifest.verified,
        damage=manifest.damage,
        seconds=manifest.stages.get(StageName.VERIFY, 0.0),
    )


def _write(store: Store, marks: Sequence[tuple[StoredExport, VerifiedMark]]) -> bool:
    written = False
    for number, (export, mark) in enumerate(marks):
        try:
            store.write_mark(export, mark)
            written = True
        except Interrupted:
            raise
        except ExportNotFound:
            continue  # a cleanup was quicker
        except HyperExportError as error:  # a store that is write-protected is so for all of them
            left = len(marks) - number
            logger.warning(
                "%s: damage of shared files could not be recorded with %d exports: %s", store.url, left, error
            )
            break
        else:
            logger.info("%s: recorded with %s what is known of the files that it shares", store.url, export)
    return written
