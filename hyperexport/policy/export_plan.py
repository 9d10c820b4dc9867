"""The plan of an export: what becomes of each disk, and why. Values; ``incremental.py`` makes them."""

from enum import StrEnum

from pydantic import Field

from hyperexport.model.manifest import ExportKind, FileEntry, SkippedDisk
from hyperexport.model.transport import RANGED, Transport
from hyperexport.model.vm import Value, VmRef


class Decision(StrEnum):
    """What becomes of one disk."""

    TRANSFER = "transfer"
    REUSE = "unchanged"
    UNDECIDED = "undecided"
    """Only in a dry run of a running VM: whether the disk changed can be told only from a snapshot."""
    SKIP = "skipped"


class DiskPlan(Value):
    """What becomes of one disk, and why."""

    key: int
    label: str
    file_name: str = Field(description="Its name in the export; empty for a disk that is skipped.")
    capacity: int = Field(description="Bytes that the guest sees.")
    decision: Decision
    reason: str = Field(description="In words, for an administrator.")
    base_entry: FileEntry | None = Field(default=None, description="The same disk in the base export.")
    bases: tuple[FileEntry, ...] = Field(
        default=(),
        exclude=True,
        description="What the disk's file will build on or be made of: the files of the base export's disk for a delta "
        "and a synthetic full of a changed disk, those below its own file for an unchanged disk; the base first.",
    )
    storage: str = Field(default="", description="Whether an incremental export keeps a delta or the whole disk.")
    changed: tuple[tuple[int, int], ...] | None = Field(
        default=None,
        exclude=True,
        description="What change tracking says may have changed since the base: offset and length of each area.",
    )
    distrusted: str | None = Field(
        default=None, description="The series of change ids that was found to leave out changes, while it lasts."
    )
    transport: Transport | None = Field(default=None, description="How it is read from vSphere; None if it is not.")
    transport_words: str = Field(default="", description="The same for people, and why it is not read a better way.")
    synthetic: bool = Field(
        default=False,
        description="Whether it becomes one whole file out of the store's own grains; of a changed disk with those "
        "that changed, which a range transport reads.",
    )

    expected_bytes: int = Field(
        description="Bytes that are expected to be read of it; if it is unchanged, what its stream takes; 0 if skipped."
    )
    whole_bytes: int = Field(description="What it is expected to take when it is read whole, in bytes; 0 if skipped.")
    changed_bytes: int | None = Field(default=None, description="Bytes that changed on the disk since the base.")

    @property
    def why(self) -> str:
        """The reason, how an incremental export keeps the disk, and how the changes are read."""
        return "; ".join(words for words in (self.reason, self.storage, self.transport_words) if words)

    @property
    def saved_bytes(self) -> int:
        """How much less of it is expected to be read than of a full export, in bytes."""
        if self.decision is Decision.REUSE:
            return self.whole_bytes
        return max(self.whole_bytes - self.expected_bytes, 0) if self.transport in RANGED else 0


class ExportPlan(Value):
    """What an export will do; a dry run shows it, a real run does it."""

    vm: VmRef
    kind: ExportKind
    reason: str = Field(description="Why it is full, or what it builds on, in words.")
    base: str | None = Field(default=None, description="The id of the export that an incremental one builds on.")
    last_full: str | None = Field(default=None, description="The newest full export of the chain; None when full.")
    disks: tuple[DiskPlan, ...]

    @property
    def to_transfer(self) -> tuple[DiskPlan, ...]:
        """The disks whose bytes are read from vSphere."""
        return tuple(disk for disk in self.disks if disk.decision is Decision.TRANSFER)

    @property
    def to_reuse(self) -> tuple[DiskPlan, ...]:
        """The disks that the base export already has."""
        return tuple(disk for disk in self.disks if disk.decision is Decision.REUSE)

    @property
    def undecided(self) -> tuple[DiskPlan, ...]:
        """The disks of which only the real run can tell."""
        return tuple(disk for disk in self.disks if disk.decision is Decision.UNDECIDED)

    @property
    def written_bytes(self) -> int:
        """How much is expected to be written at the most, in bytes, without copies of what another store refers to."""
        fulls = [disk for disk in self.disks if disk.synthetic]
        others = sum(disk.expected_bytes for disk in (*self.to_transfer, *self.undecided) if not disk.synthetic)
        return others + sum(stream_of(disk.base_entry) for disk in fulls if disk.base_entry)

    @property
    def skipped(self) -> tuple[SkippedDisk, ...]:
        """The disks that cannot be exported, for the manifest and the result."""
        return tuple(
            SkippedDisk(key=disk.key, label=disk.label, reason=disk.reason)
            for disk in self.disks
            if disk.decision is Decision.SKIP
        )

    @property
    def transfer_bytes(self) -> int:
        """How much is expected to be read from vSphere at the most, in bytes: undecided disks count in full."""
        return sum(disk.expected_bytes for disk in (*self.to_transfer, *self.undecided))

    @property
    def saved_bytes(self) -> int:
        """How much does not have to be read, in bytes."""
        return sum(disk.saved_bytes for disk in self.disks)

    @property
    def saved_percent(self) -> float:
        """The saving as per cent of what a full export would read."""
        return percent_saved(self.saved_bytes, self.transfer_bytes)


def percent_saved(saved: int, read: int) -> float:
    """What was not read, as per cent of what a full export would have read."""
    return 100 * saved / (saved + read) if saved else 0.0


def stream_of(entry: FileEntry) -> int:
    """Bytes that a lease's stream of a stored disk is expected to take."""
    if entry.received and entry.transport not in RANGED:
        return entry.received
    return (entry.populated or entry.capacity or entry.size) if entry.chain else entry.size
