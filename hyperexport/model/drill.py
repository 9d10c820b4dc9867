"""What a restore drill proved, as it lies beside the export: ``drill-<id>.json``, sealed as a manifest is."""

from datetime import datetime
from enum import StrEnum
from typing import Self

from pydantic import Field, ValidationError

from hyperexport.model.manifest import SEAL_KEY, sealed
from hyperexport.model.vm import Value, VmRef


class DrillTarget(StrEnum):
    """Where an export is started."""

    QEMU = "qemu"


class Sign(StrEnum):
    """What proved that a guest lives."""

    EXPECTED_TEXT = "expected-text"
    """The text that was asked for, on the serial console or a screen in text mode."""
    CONSOLE = "console"
    """Text that only a started system writes."""
    GUEST_AGENT = "guest-agent"
    DISK_WRITES = "disk-writes"
    """It writes to its disk, time and again: a started system's log or page file. Weaker than the others."""
    NONE = "none"


class DrillRecord(Value):
    """One drill of one export."""

    schema_version: int = Field(default=1, le=1)
    drill_id: str = Field(description="Its name: UTC to the second, and four random hex digits.")
    export_id: str
    vm: VmRef
    vcenter_uuid: str | None = Field(default=None, description="The server that the VM is on.")
    target: DrillTarget
    platform: str = Field(description="What it ran on, in words, such as `QEMU 7.2.19, KVM`.")
    started: datetime
    seconds: dict[str, float] = Field(description="`open`: until the disks were proved; `boot`: power-on to verdict.")
    passed: bool
    sign: Sign
    reason: str = Field(description="In words, how it ended; a sentence without a full stop.")
    expected: str | None = Field(default=None, description="The text that was waited for.")
    console: str = Field(default="", description="The end of the serial console.")
    screenshot: str | None = Field(default=None, description="The picture of its screen, beside this file.")
    screenshot_sha256: str | None = None
    bytes_read: int = Field(default=0, description="What the guest read of its disks.")
    warnings: tuple[str, ...] = Field(default=(), description="What was not as on vSphere.")
    seal: str | None = Field(default=None, description="Last in the file: the SHA-256 of every byte before this key.")

    @property
    def file_name(self) -> str:
        """The record's own file."""
        return f"drill-{self.drill_id}.json"

    def to_json(self) -> bytes:
        """Serialise for the store."""
        return sealed(self.model_dump_json(indent=2, exclude={"seal"}).encode().removesuffix(b"\n}") + b",\n  ")

    @classmethod
    def from_json(cls, data: bytes, *, export_id: str) -> Self | None:
        """Read a record; None for one that its seal does not prove, or that is of another export."""
        try:
            record = cls.model_validate_json(data)
        except ValidationError:
            return None
        proved = data == sealed(data.rpartition(SEAL_KEY)[0]) and record.export_id == export_id
        return record.model_copy(update={"seal": None}) if proved else None
