"""Verifies one stored export: every file against the manifest, and the package against itself."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

from hyperexport.base.stop import StopSignal
from hyperexport.errors import ExportNotFound, StoreUnusable, StreamCorrupt, VerificationFailed
from hyperexport.formats.ova import OvaMember, read_index
from hyperexport.model.manifest import FILE_NAME, GRAINS_SUFFIX, TAGS_SUFFIX, ExportManifest, FileEntry, FileRole
from hyperexport.store.base import RangeReader, Store, StoredExport, lies_beside
from hyperexport.verify.checksums import check_checksums
from hyperexport.verify.descriptor import check_descriptor
from hyperexport.verify.findings import Finding, Verification
from hyperexport.verify.reading import DISK_ROLES, Content, Stretches, compare, read_content, wrong_capacity

if TYPE_CHECKING:
    from hyperexport.formats.block_tags import BlockTags
    from hyperexport.formats.grain_tags import GrainTags
    from hyperexport.verify.chains import Link

logger = logging.getLogger(__name__)

Listener = Callable[[str, int, int], None]
"""Called with a file's name, how many of its bytes were read, and how many it has."""

_MOST_FINDINGS: Final = 100
"""In one file: a file with more findings is damaged anyway."""
_LONGEST_FINDING: Final = 1000
_LARGE: Final = DISK_ROLES | {FileRole.OVA}


class ReadFiles:
    """The disks' files and tags that a run has read so far, so that one that several exports share is read once."""

    def __init__(self) -> None:
        self._contents: dict[tuple[str, str, str], Content] = {}
        self.sound: set[Link] = set()
        """Files of chains that build on the ones before them."""

    def find(self, store: Store, reader: RangeReader, tags: str) -> Content | None:
        """What was read of the same bytes before; None where nothing was, or they were written to since.

        Args:
            store: Where they lie.
            reader: The open file.
            tags: The SHA-256 of each kind of tags that they are compared with; empty where there are none.
        """
        return self._contents.get((store.url, reader.identity, tags)) if reader.identity else None

    def keep(self, store: Store, reader: RangeReader, tags: str, content: Content) -> None:
        """Keep what was read of a file from its beginning to its end."""
        if reader.identity:
            self._contents[store.url, reader.identity, tags] = content


def verify_export(
    store: Store,
    export: StoredExport,
    *,
    deep: bool,
    stop: StopSignal,
    progress: Listener | None = None,
    read: ReadFiles | None = None,
) -> Verification:
    """Prove a stored export, or find what is wrong with it.

    Each file is read once: hashed, and if it is a disk, its structure walked and every grain inflated on the way.

    Args:
        store: Where it lies.
        export: Which one; its manifest is read again.
        deep: Also read back disks of which the store itself keeps a checksum. Without it that checksum is compared,
            and only the small files are read; a store that keeps none (a local one) is read wholly either way.
        stop: Ends the reading.
        progress: Called with how far the reading is.
        read: The files that this run has read for other exports; a file among them is compared, and not read again.

    Raises:
        StoreUnusable, StoreUnreachable: The store could not be asked, which proves nothing either way.
        Interrupted: The run was asked to stop.
    """
    return _Verifier(store, export, deep=deep, stop=stop, progress=progress or _nobody, read=read or ReadFiles()).run()


def _by_reading(finding: Finding | None) -> Finding | None:
    return finding and finding.model_copy(update={"read": True})


def _nobody(_name: str, _position: int, _size: int) -> None:
    """The listener where there is none."""


class _Verifier:
    """One verification in progress: what was found and read so far."""

    def __init__(
        self, store: Store, export: StoredExport, *, deep: bool, stop: StopSignal, progress: Listener, read: ReadFiles
    ) -> None:
        self._read_before = read
        self._shared = 0
        self._store = store
        self._export = export
        self._deep = deep
        self._stop = stop
        self._progress = progress
        self._findings: list[Finding] = []
        self._files = 0
        self._bytes = 0
        self._trusted: list[str] = []
        self._texts: dict[FileRole, bytes] = {}

    def run(self) -> Verification:
        began = time.monotonic()
        self._check_manifest()
        manifest = self._export.manifest
        self._check_names(manifest)
        for entry in manifest.files:
            if entry.member_of is None:
                self._check_file(entry, [other for other in manifest.files if other.member_of == entry.name])
        self._check_package(manifest)
        self._check_chains(manifest)
        return Verification(
            files=self._files,
            bytes_read=self._bytes,
            findings=tuple(self._findings),
            seconds=time.monotonic() - began,
            protection=self._protection(),
            trusted=self._not_read(manifest),
        )

    def _not_read(self, manifest: ExportManifest) -> tuple[str, ...]:
        trusted = set(self._trusted)
        return tuple(
            entry.name for entry in manifest.files if entry.role in _LARGE and trusted & {entry.name, entry.member_of}
        )

    # -- the manifest -------------------------------------------------------------------------------------------------

    def _check_manifest(self) -> None:
        """Read the manifest again; what is wrong with it is found here, all else is then held against it."""
        self._files += 1
        again = self._store.read(self._export.folder, self._export.export_id)
        if isinstance(again, StoredExport):
            self._export = again
        else:
            self._find(FILE_NAME, again.reason if again else "it is missing")

    def _check_names(self, manifest: ExportManifest) -> None:
        """What lies there and does not belong. Hidden files are the stores' own; marks and records come later."""
        known = {entry.name for entry in manifest.files if entry.member_of is None and entry.stored_in is None}
        try:
            there = self._store.files(self._export)
        except ExportNotFound:
            return  # each of its files will be found missing
        for name in sorted(there.keys() - known - {FILE_NAME}):
            if not name.startswith(".") and not lies_beside(name):
                self._find(name, f"it does not belong to the export ({there[name]} bytes)")
        for entry in manifest.files:
            if entry.member_of and manifest.file(entry.member_of) is None:
                self._find(entry.name, f"it would lie in {entry.member_of}, which is not in the export")

    # -- one file -----------------------------------------------------------------------------------------------------

    def _check_file(self, entry: FileEntry, members: list[FileEntry]) -> None:
        self._files += 1
        try:
            with self._store.open(self._export, entry.name) as reader:
                told = self._checksum_from_store(entry)
                if told is None:
                    self._read(entry, reader, members)
                else:
                    self._trust(told, entry, reader, members)
        except ExportNotFound:
            self._find(entry.name, "it is missing")
        except StoreUnusable as error:
            self._find(entry.name, error.what)

    def _checksum_from_store(self, entry: FileEntry) -> str | None:
        """The store's own checksum of a large file, where it can stand for reading the file back."""
        if self._deep or entry.role not in _LARGE or entry.checksum is None:
            return None
        return self._store.checksum(self._export, entry.name)

    def _trust(self, told: str, entry: FileEntry, reader: RangeReader, members: list[FileEntry]) -> None:
        """Compare what the store says of a large file with what it said when the file was stored."""
        damage: list[tuple[int | None, str]] = []
        if told != entry.checksum:
            damage.append((None, f"the store's checksum of it is {told}, when it was stored it was {entry.checksum}"))
        self._note(compare(entry, reader.size, entry.sha256, damage))
        self._trusted.append(entry.name)
        self._check_index(entry, reader, members)
        for member in members:
            self._files += 1
            if member.role not in _LARGE:
                with self._store.open(self._export, member.name) as part:
                    self._keep(member, self._reading(member, self._stretches(member, part).take(part.size), part))

    def _read(self, entry: FileEntry, reader: RangeReader, members: list[FileEntry]) -> None:
        if not members:
            self._keep(entry, self._content(entry, reader))
            return
        stretches = self._stretches(entry, reader)
        self._check_index(entry, reader, members)
        for member in sorted(members, key=lambda member: member.offset or 0):
            self._files += 1
            stretches.skip_to(member.offset or 0)
            with self._store.open(self._export, member.name) as part:
                self._keep(member, self._reading(member, stretches.take(member.size), part))
        size = stretches.finish()
        self._note(_by_reading(compare(entry, size, stretches.sha256, [])))

    def _content(self, entry: FileEntry, reader: RangeReader) -> Content:
        """Read a file, unless this run has read the same bytes for another export."""
        if entry.role not in DISK_ROLES | {FileRole.TAGS}:
            return self._reading(entry, self._stretches(entry, reader).take(reader.size), reader)
        left = [self._export.manifest.file(entry.name + suffix) for suffix in (TAGS_SUFFIX, GRAINS_SUFFIX)]
        tags = "/".join(each.sha256 if each else "" for each in left)
        content = self._read_before.find(self._store, reader, tags)
        if content is not None:
            self._shared += entry.role in DISK_ROLES
            self._progress(entry.name, reader.size, reader.size)
            return content
        content = self._reading(entry, self._stretches(entry, reader).take(reader.size), reader)
        self._read_before.keep(self._store, reader, tags, content)
        return content

    def _reading(self, entry: FileEntry, chunks: Iterator[bytes], reader: RangeReader) -> Content:
        return read_content(entry, chunks, reader, *self._tags_of(entry))

    def _stretches(self, entry: FileEntry, reader: RangeReader) -> Stretches:
        last = 0

        def watch(position: int) -> None:
            nonlocal last
            self._stop.check()
            self._bytes += position - last
            last = position
            self._progress(entry.name, position, reader.size)

        return Stretches(reader.chunks(), watch)

    def _check_index(self, entry: FileEntry, reader: RangeReader, members: list[FileEntry]) -> None:
        """The tar's own headers against the manifest's places."""
        if entry.role is not FileRole.OVA:
            return
        try:
            index = read_index(reader)
        except StreamCorrupt as error:
            self._find(entry.name, error.what, offset=error.offset)
            return
        if index != [OvaMember(member.name, member.offset or 0, member.size) for member in members]:
            self._find(entry.name, "its members are not those of the manifest, in that order and at those places")

    # -- the package --------------------------------------------------------------------------------------------------

    def _check_package(self, manifest: ExportManifest) -> None:
        """The checksums and the descriptor, where they are the ones that were written."""
        for role, check in ((FileRole.CHECKSUMS, check_checksums), (FileRole.DESCRIPTOR, check_descriptor)):
            names = [entry.name for entry in manifest.files if entry.role is role]
            if len(names) != 1:
                self._find(FILE_NAME, f"it names {len(names)} files in the role of {role}")
            elif role in self._texts:
                self._find_all(names[0], check(self._texts[role], manifest))

    def _check_chains(self, manifest: ExportManifest) -> None:
        """Each delta against the file that it builds on. Of files that are damaged themselves nothing more is said."""
        damaged = {finding.file for finding in self._findings}
        for disk in manifest.disks:
            parts = manifest.parts(disk)
            if len(parts) == 1 or damaged.intersection(part.name for part in parts):
                continue
            from hyperexport.verify.chains import open_chain  # noqa: PLC0415 - without chains no images are read

            try:
                open_chain(self._store, self._export, parts, self._read_before.sound)
            except (VerificationFailed, ExportNotFound, StoreUnusable) as error:
                self._find(disk.name, error.what)

    # -- what was found -----------------------------------------------------------------------------------------------

    def _keep(self, entry: FileEntry, content: Content) -> None:
        """Keep what is wrong with a file that was read to its end, or its text."""
        damage = [*content.damage, *wrong_capacity(entry, content)]
        finding = compare(entry, content.size, content.sha256, damage)
        self._note(_by_reading(finding))
        if finding is not None:
            return
        if content.text is not None:
            self._texts[entry.role] = content.text
        if content.wrong_tag is not None:
            problem = f"its tag of block {content.wrong_tag} of {entry.name} is not that of its bytes"
            self._find(entry.name + TAGS_SUFFIX, problem)
        if content.wrong_grain is not None:
            problem = f"its tag of grain {content.wrong_grain} of {entry.name} is not that of its bytes"
            self._find(entry.name + GRAINS_SUFFIX, problem)

    def _tags_of(self, entry: FileEntry) -> "tuple[BlockTags | None, GrainTags | None]":
        """The tags of a disk's file; where they are damaged themselves, that is found when they are read."""
        if entry.role not in DISK_ROLES or self._export.manifest.file(entry.name + TAGS_SUFFIX) is None:
            return None, None
        from hyperexport.images.opening import grain_tags_of, tags_of  # noqa: PLC0415 - only where there are tags

        place = self._store, self._export, entry, self._stop
        tags, grains = None, None
        with suppress(ExportNotFound, VerificationFailed, StoreUnusable):
            tags = tags_of(*place)
        with suppress(ExportNotFound, VerificationFailed, StoreUnusable):
            grains = grain_tags_of(*place)
        return tags, grains

    def _find(self, file: str, problem: str, *, offset: int | None = None) -> None:
        self._note(Finding(file=file, offset=offset, problem=problem))

    def _find_all(self, file: str, problems: Iterator[str]) -> None:
        for problem in islice(problems, _MOST_FINDINGS):
            self._find(file, problem[:_LONGEST_FINDING])

    def _note(self, finding: Finding | None) -> None:
        if finding is not None:
            logger.info("%s: found %s", self._export, finding)
            self._findings.append(finding)

    def _protection(self) -> str:
        words = "SHA-256 of every byte read back, every disk's structure walked and inflated"
        if self._trusted:
            words = (
                f"size and checksum as the store keeps them of {', '.join(self._trusted)}; "
                "SHA-256 of the other files read back"
            )
        if self._shared:
            words = f"{words}; {self._shared} of them in this run for an export that shares them"
        return words
