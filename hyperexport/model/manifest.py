"""``export.json``: the one truth about an export, and its commit point.

An export is complete if and only if its manifest is there; it is written last. History, incremental state, retention
and verification read manifests and nothing else. The JSON schema is published by :func:`json_schema`.
"""

import hashlib
import json
import re
import secrets
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AwareDatetime, FailFast, Field, StringConstraints, ValidationError, model_validator

from hyperexport.errors import ManifestInvalid
from hyperexport.model.damaged import Problem
from hyperexport.model.restore import VmPlace
from hyperexport.model.transport import RANGED, Transport
from hyperexport.model.vm import BackingFile, Value, VmRef

FILE_NAME: Final = "export.json"
TAGS_SUFFIX: Final = ".tags"
"""What the name of a disk's block tags has after the name of the disk's file."""
GRAINS_SUFFIX: Final = ".grains"
"""The same of its grain tags."""
SCHEMA_VERSION: Final = 3
"""2 added the seconds of each stage and what became of the snapshot, 3 disks of several files. 1 and 2 are read."""

LARGEST: Final = 16 * 1024 * 1024
"""A manifest larger than this (bytes) is refused before it is read: no VM needs it."""
MOST_FILES: Final = 8000
"""No VM has more disks than 4 controllers of 64 ("Configuration Maximums"), and each is one file or a chain."""
MOST_PREDECESSORS: Final = 1000
_LARGEST_FILE: Final = 2**63 - 1
"""Bytes: no filesystem holds a larger one, and no system call takes a larger number."""

_LONGEST_KEY: Final = 80  # characters of a key in an error: an unknown one may have megabytes
_MOST_PROBLEMS: Final = 1000
SEAL_KEY: Final = b'"seal": "'
_SEAL: Final = SEAL_KEY + b'%s"\n}\n'
_EXPORT_ID: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{4}")
_VM_FOLDER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.[0-9a-f]{8}")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_RESERVED: Final = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")

# Anyone may have changed a manifest: what becomes part of a path must not lead out of the export.
ExportId = Annotated[str, StringConstraints(pattern=f"^{_EXPORT_ID.pattern}$")]


def _in_utc(moment: datetime) -> datetime:
    """One zone for all times: a manifest without one, or of the year 1, would end every comparison with an error."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("this time cannot be converted to UTC") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Size = Annotated[int, Field(ge=0, le=_LARGEST_FILE)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
FileName = Annotated[str, StringConstraints(pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,254}$")]


class FileRole(StrEnum):
    """What a file of an export is."""

    DESCRIPTOR = "descriptor"
    DISK = "disk"
    BASE = "base"
    """What a disk of the export builds on: whole, or a delta itself."""
    NVRAM = "nvram"
    CHECKSUMS = "checksums"
    CONFIG = "config"
    OVA = "ova"
    TAGS = "tags"
    """A short check of each 256 KiB block of a disk's file, named like the file with ``.tags`` at the end; or of each
    grain that it holds, with ``.grains``."""


class ExportKind(StrEnum):
    """Whether an export is a copy of its own, or builds on an earlier one, whose bytes may stand for equal ones."""

    FULL = "full"
    INCREMENTAL = "incremental"


class Quiescing(StrEnum):
    """How consistent the exported content is."""

    POWERED_OFF = "powered off"
    FILESYSTEM = "filesystem quiesced"
    MEMORY = "with memory"
    CRASH_CONSISTENT = "crash-consistent"


class FileEntry(Value):
    """One file of an export, as it was written."""

    name: FileName = Field(description="The file's name within the export's folder.")
    role: FileRole
    size: Size = Field(description="Bytes, counted as they were received.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    capacity: Size | None = Field(default=None, description="Disks: bytes that the guest sees.")
    populated: Size | None = Field(default=None, description="Disks: bytes of the grains that the stream holds.")
    disk_key: int | None = Field(default=None, description="Disks: the device key on the VM.")
    disk_label: str | None = None
    device_id: str | None = Field(default=None, description="The key that the export lease gave the file.")
    disk_controller: str | None = None
    disk_unit: int | None = None
    backing_uuid: str | None = None
    content_id: str | None = None
    change_id: str | None = Field(default=None, description="Disks: the change id at this export's snapshot.")
    backing_files: Annotated[tuple[BackingFile, ...], FailFast()] = Field(
        default=(),
        description="Disks of a VM that was off: its files and the VM's configuration, with size and time.",
    )
    chain: Annotated[tuple[FileName, ...], FailFast()] = Field(
        default=(),
        max_length=255,
        description="Disks: the files of this export that it builds on, the base first; empty where it is whole.",
    )
    cid: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{8}$", description="Disks and bases: the CID in the file's own descriptor."
    )
    distrusted: str | None = Field(
        default=None,
        description="Disks: the series of change ids (what is before the slash) of which some left out changes: change "
        "tracking proves nothing of this disk until it begins a new one.",
    )
    received: Size | None = Field(
        default=None, description="Deltas: bytes of the stream that was read for it, of which it holds what changed."
    )
    transferred: bool = Field(default=True, description="Whether this export read the bytes from vSphere.")
    transport: Transport | None = Field(
        default=None, description="Disks: how this export read them from vSphere; None in manifests of old versions."
    )
    sampled: Size | None = Field(
        default=None,
        description="Disks read in ranges: grains reported as unchanged that were read again, and were so.",
    )
    synthetic: bool = Field(
        default=False,
        description="Disks: whether this export wrote the file whole out of the store's own grains (a synthetic "
        "full), of a changed disk with the grains that changed.",
    )
    stored_in: ExportId | None = Field(
        default=None,
        description="The id of the earlier export of the same VM, in the same store, that holds the bytes. S3 only.",
    )
    written_as: str | None = Field(
        default=None,
        pattern=rf"^{_EXPORT_ID.pattern}/[^/\\\x00-\x1f]{{1,255}}$",
        description="<export id>/<file name> under which these bytes were first written. Files with the same value are "
        "one file: a hard link, or one object in S3. None in manifests of earlier versions.",
    )
    member_of: FileName | None = Field(default=None, description="The OVA that the file lies in; None beside it.")
    offset: Size | None = Field(default=None, description="Members of an OVA: where their bytes begin.")
    protection: str | None = Field(default=None, description="S3: what guards the object's bytes on the way in.")
    etag: str | None = Field(default=None, description="S3: the object's ETag, as the server answered it.")
    checksum: str | None = Field(
        default=None,
        description="S3: the checksum that the server keeps of the object, or else its ETag, as algorithm:value.",
    )


class SkippedDisk(Value):
    """A disk that is not in the export, and why."""

    key: int
    label: str
    reason: str


class SnapshotRecord(Value):
    """The snapshot that the export was read from."""

    name: str
    moref: str
    created: Moment
    quiescing: Quiescing
    held: float | None = Field(
        default=None, ge=0, description="Seconds from its making to the end of its removal; None where it stayed."
    )
    leaked: bool = Field(default=False, description="Whether it was to be removed, and could not be.")


class StageName(StrEnum):
    """A stage of an export, named as its step is in Prefect."""

    TAKE_SNAPSHOT = "take-snapshot"
    PLAN = "plan-export"
    DISKS = "export-disk"
    DESCRIBE = "describe-vm"
    REMOVE_SNAPSHOT = "remove-snapshot"
    PACK = "pack-ova"
    VERIFY = "verify-export"


class TransferStatistics(Value):
    """What moved, and how fast."""

    seconds: Rate = Field(description="From the start of the export to its manifest.")
    bytes_transferred: Size = Field(description="Read from vSphere, over all attempts that counted.")
    bytes_reused: Size = Field(
        default=0,
        description="An estimate of the bytes that did not have to be read from vSphere: all of the unchanged disks, "
        "and what was not read of the disks that were read in ranges.",
    )
    retries: Size = 0
    limit: Rate | None = Field(default=None, description="Asked-for bytes per second; None without a limit.")
    throttle_wait: Rate = Field(default=0, description="Seconds that streams waited for the limit, summed.")
    limit_lowest: Rate | None = Field(
        default=None, description="The lowest bytes per second that held: adaptive, by a window, or of a shared budget."
    )
    limit_mean: Rate | None = Field(
        default=None, description="The bytes per second that held on the average, while there was a limit."
    )
    achieved: Rate | None = Field(
        default=None,
        description="Bytes per second over the link, downloads and uploads together, from the first byte to the last.",
    )
    shared: str | None = Field(default=None, description="The name of the budget that was shared with other runs.")


def whole_size(disk: FileEntry, files: Iterable[FileEntry]) -> int:
    """Estimate the bytes of a disk's whole stream: the size of the whole file that its chain begins with.

    Args:
        disk: The disk.
        files: The files of its export, including those that it builds on.
    """
    begins = disk.chain[0] if disk.chain else disk.name
    return next((entry.size for entry in files if entry.name == begins), disk.size)


def spared(disk: FileEntry, files: Iterable[FileEntry]) -> int:
    """Estimate how many bytes of a file a full export would have read in addition to those that were read."""
    if not disk.transferred:
        return whole_size(disk, files)
    return max(whole_size(disk, files) - (disk.received or 0), 0) if disk.transport in RANGED else 0


class ExportManifest(Value):
    """Everything that is known of one export. Written last; read by everything."""

    schema_version: Literal[1, 2, 3] = SCHEMA_VERSION
    tool: Literal["hyperexport"] = "hyperexport"
    tool_version: str
    export_id: ExportId
    kind: ExportKind
    reason: str = Field(description="Why it is full, or what it builds on, in words.")
    base: ExportId | None = Field(default=None, description="The id of the export that an incremental one builds on.")
    last_full: ExportId = Field(description="The id of the newest full export of the chain; its own id when full.")
    vm: VmRef
    vcenter: str = Field(description="The server's address.")
    vcenter_uuid: str | None = Field(default=None, description="The server's own instance uuid.")
    run: str = Field(description="The id of the run (the Prefect flow run, or one made up) that wrote it.")
    started: Moment
    finished: Moment
    server_time: Moment | None = Field(
        default=None,
        description="What the vSphere server's clock said at the start; None in manifests of old versions.",
    )
    predecessors: Annotated[tuple[ExportId, ...], FailFast()] = Field(
        default=(),
        max_length=MOST_PREDECESSORS,
        description="The exports of this VM that the store held at the start, the newest first: this one was made "
        "after them, whatever a clock said.",
    )
    options: dict[str, Any] = Field(description="The options that were not at their defaults, without secrets.")
    snapshot: SnapshotRecord | None
    format: Literal["ovf", "ova"]
    files: Annotated[tuple[FileEntry, ...], FailFast()] = Field(max_length=MOST_FILES)
    skipped_disks: Annotated[tuple[SkippedDisk, ...], FailFast()] = ()
    transfer: TransferStatistics
    stages: dict[StageName, float] = Field(
        default={}, description="Seconds of each stage up to the manifest, and of the last verification."
    )
    warnings: Annotated[tuple[str, ...], FailFast()] = ()
    verified: Moment | None = Field(
        default=None,
        description="When --verify last proved it; None if never. mark-verified.json beside the manifest says this "
        "and `damage`; earlier versions wrote them here.",
    )
    damage: Annotated[tuple[str, ...], FailFast()] = Field(
        default=(), description="What a verification found wrong; no base while it is so."
    )
    preserve: bool = Field(
        default=False,
        description="Never deleted by any cleanup. mark-preserved.json says this; earlier versions wrote it here.",
    )
    place: VmPlace | None = Field(
        default=None, description="Where the VM was, its tags and custom attributes; None in manifests of old versions."
    )
    seal: str | None = Field(
        default=None,
        description="Last in the file: the SHA-256 of every byte before this key. A manifest without it, or with "
        "another, is damaged and decides nothing.",
    )

    @property
    def disks(self) -> tuple[FileEntry, ...]:
        """The disks, in the VM's order."""
        return tuple(entry for entry in self.files if entry.role is FileRole.DISK)

    @model_validator(mode="after")
    def _chains_are_there(self) -> "ExportManifest":
        """Refuse a disk whose chain names what is no base, or a disk of another size: nobody could read it."""
        bases = {entry.name: entry for entry in self.files if entry.role is FileRole.BASE}
        for entry in self.files:
            if not entry.chain:
                continue
            parts = [bases.get(name) for name in entry.chain]
            if entry.role is not FileRole.DISK or len({*entry.chain, entry.name}) != len(parts) + 1:
                raise ValueError(f"{entry.name} cannot have this chain")
            for name, part in zip(entry.chain, parts, strict=True):
                if part is None or part.member_of is not None or part.capacity != entry.capacity:
                    raise ValueError(f"{entry.name} builds on {name}, which is not a base among the files")
        return self

    def parts(self, disk: FileEntry) -> tuple[FileEntry, ...]:
        """The files that a disk of the export is made of: its base, the deltas over it, and the file itself."""
        found = (self.file(name) for name in disk.chain)
        return (*(entry for entry in found if entry is not None), disk)

    @property
    def deltas(self) -> int:
        """How many deltas the disk with the longest chain has; 0 where every disk is whole."""
        return max((len(disk.chain) for disk in self.disks), default=0)

    @property
    def kind_in_words(self) -> str:
        """The kind, with the deltas that a restore reads."""
        if self.is_synthetic:
            return "synthetic full"
        return f"{self.kind} + {self.deltas} delta{'s' * (self.deltas > 1)}" if self.deltas else str(self.kind)

    @property
    def is_synthetic(self) -> bool:
        """Whether every disk is whole, and at least one was written out of the store's own grains."""
        return not self.deltas and any(disk.synthetic for disk in self.disks)

    @property
    def stored_disks(self) -> tuple[FileEntry, ...]:
        """The disks and what they build on: every file that holds bytes of the guest."""
        return tuple(entry for entry in self.files if entry.role in {FileRole.DISK, FileRole.BASE})

    @property
    def tags(self) -> tuple[FileEntry, ...]:
        """The block tags and grain tags of the disks and of what they build on."""
        return tuple(entry for entry in self.files if entry.role is FileRole.TAGS)

    @property
    def stored_bytes(self) -> int:
        """Bytes that this export wrote to its store. What several take together: :mod:`hyperexport.model.content`."""
        return sum(entry.size for entry in self.files if entry.member_of is None and self._wrote(entry))

    @property
    def shares_with(self) -> tuple[str, ...]:
        """The ids of the exports whose bytes it uses; empty for a copy of its own. Those that use its own: not here."""
        holders = {entry.written_as.partition("/")[0] for entry in self.files if entry.written_as}
        holders |= {entry.stored_in for entry in self.files if entry.stored_in}
        return tuple(sorted(holders - {self.export_id}))

    def _wrote(self, entry: FileEntry) -> bool:
        if entry.written_as is not None:
            return entry.written_as.startswith(f"{self.export_id}/")
        return entry.stored_in is None and (entry.transferred or entry.etag is not None)

    def file(self, name: str) -> FileEntry | None:
        """Find an entry by its file name."""
        return next((entry for entry in self.files if entry.name == name), None)

    def to_json(self) -> bytes:
        """Serialise for the store: indented UTF-8 with the seal and a newline at its end."""
        return sealed(self.model_dump_json(indent=2, exclude={"seal"}).encode().removesuffix(b"\n}") + b",\n  ")

    @classmethod
    def from_json(cls, data: bytes, *, source: str) -> "ExportManifest":
        """Read a manifest that others may have touched, or that may have rotted: proved by its seal, or refused.

        Args:
            data: The file's bytes.
            source: Where they come from, for the error.

        Raises:
            ManifestInvalid: Too large, not sealed or with a broken seal, of a newer version, or not a manifest.
        """
        if len(data) > LARGEST:
            raise _invalid(source, Problem.INVALID, f"is {len(data)} bytes long, too long for a manifest")
        try:
            manifest = cls.model_validate_json(data)
        except ValidationError as error:
            why = _first_problem(error)
            if is_sealed(data):
                words = f"was written by a newer version of hyperexport, and cannot be read by this one: {why}"
                raise _invalid(source, Problem.NEWER, words, fix="Update hyperexport here") from error
            words = f"is not a manifest that this version reads: {why}"
            raise _invalid(source, Problem.INVALID, words, reason=f"its manifest cannot be read: {why}") from error
        if not is_sealed(data):
            raise _invalid(source, Problem.SEAL, _unsealed(data))
        return manifest.model_copy(update={"seal": None})

    @classmethod
    def of_export(cls, data: bytes, export_id: str, *, source: str) -> "ExportManifest":
        """Read the manifest of a certain export.

        Raises:
            ManifestInvalid: As :meth:`from_json`, or it is another export's.
        """
        manifest = cls.from_json(data, source=source)
        if manifest.export_id != export_id:
            raise _invalid(source, Problem.FOREIGN, f"is the manifest of another export, {manifest.export_id}")
        return manifest

    def holding(self, entry: FileEntry) -> FileEntry | None:
        """Find the file of this export that has an entry's content in this export's own place; names may differ."""
        content = (entry.sha256, entry.size)
        return next((one for one in self.files if one.stored_in is None and (one.sha256, one.size) == content), None)


_RESTORE: Final = "Restore the file from a copy, or remove the export by hand"


def _invalid(source: str, problem: Problem, words: str, *, reason: str = "", fix: str = _RESTORE) -> ManifestInvalid:
    error = ManifestInvalid(f"{source} {words}", fix=fix)
    error.problem, error.reason = problem, reason or f"its manifest {words}"
    return error


def is_sealed(data: bytes) -> bool:
    """Tell whether the bytes end with a seal that proves them."""
    return data == sealed(data.rpartition(SEAL_KEY)[0])


def _unsealed(data: bytes) -> str:
    if SEAL_KEY in data:
        return "has a broken seal: it is damaged, or was changed by something other than hyperexport"
    return "has no seal: it was changed by something other than hyperexport"


def _first_problem(error: ValidationError) -> str:
    """Where it is wrong, and how. To spell out a million problems, to show one, would take minutes."""
    if error.error_count() > _MOST_PROBLEMS:
        return f"it is wrong in {error.error_count()} places"
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part)[:_LONGEST_KEY] for part in first["loc"]) or "the document"
    return f"{where}: {first['msg']}"


def sealed(head: bytes) -> bytes:
    """Complete a JSON document's bytes, all before the key ``seal``, with the seal that proves them."""
    return head + _SEAL % hashlib.sha256(head).hexdigest().encode()


def json_schema() -> str:
    """The manifest's JSON schema, as published in ``docs/``."""
    return json.dumps(ExportManifest.model_json_schema(mode="serialization"), indent=2) + "\n"


def new_export_id(now: datetime) -> str:
    """Make an export's id: UTC to the second, and four random hex digits against a clash within it."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def is_export_id(text: str) -> bool:
    """Tell whether a folder's name has the form of an export id."""
    return _EXPORT_ID.fullmatch(text) is not None


def short_id(export: str) -> str:
    """Make the short id of an export ``<vm folder>/<export id>``: 8 hex digits of its SHA-256, the same everywhere."""
    return hashlib.sha256(export.encode()).hexdigest()[:8]


def slug(name: str) -> str:
    """Make a file name that every filesystem and object store takes out of any VM name.

    ASCII letters, digits, dot, dash and underscore; at most 80 characters; never empty, hidden, or a name that
    Windows reserves. Two different names may give the same slug; identity is the instance uuid's business.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    text = _UNSAFE.sub("-", plain).strip("-.") or "vm"
    if _RESERVED.fullmatch(text):
        text = f"vm-{text}"
    return text[:80].rstrip("-.")


def vm_folder(vm: VmRef) -> str:
    """The name of a VM's folder in a store: its slug and the first eight hex digits of its instance uuid."""
    digits = "".join(re.findall(r"[0-9a-f]", vm.instance_uuid.lower()))[:8]
    return f"{slug(vm.name)}.{digits.ljust(8, '0')}"


def is_vm_folder(text: str) -> bool:
    """Tell whether a folder's name has the form that :func:`vm_folder` gives."""
    return _VM_FOLDER.fullmatch(text) is not None
