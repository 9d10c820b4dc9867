"""What a restore drill proved, as it lies beside the export: ``drill-<id>.json``, sealed as a manifest is."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Self

from pydantic import Field, ValidationError

from hyperexport.errors import UsageError
from hyperexport.model.manifest import is_sealed, sealed
from hyperexport.model.restore_point import RestorePoint
from hyperexport.model.vm import Value, VmRef

TIMEOUT: Final = timedelta(minutes=10)


class DrillTarget(StrEnum):
    """Where an export is started."""

    QEMU = "qemu"
    VSPHERE = "vsphere"


class Sign(StrEnum):
    """What proved that a guest lives."""

    EXPECTED_TEXT = "expected-text"
    """The text that was asked for, on the serial console or a screen in text mode."""
    CONSOLE = "console"
    """Text that only a started system writes."""
    GUEST_AGENT = "guest-agent"
    HEARTBEAT = "heartbeat"
    """VMware Tools send their heartbeat."""
    DISK_WRITES = "disk-writes"
    """It writes to its disk, time and again: a started system's log or page file. Weaker than the others."""
    NONE = "none"


class DrillPlace(Value):
    """Where a drill in vSphere makes its VM. What is None is where the exported VM was, if that exists there."""

    folder: str | None = Field(default=None, min_length=1, description="VM folder: its path, or a name that is unique.")
    resource_pool: str | None = Field(
        default=None,
        title="Resource pool",
        min_length=1,
        description="Resource pool, cluster or host: its path, or a name that is unique.",
    )
    host: str | None = Field(default=None, min_length=1, description="ESXi host.")
    datastore: str | None = Field(default=None, min_length=1, description="Datastore.")


class DrillPlan(Value):
    """What is drilled, where, and what counts as life."""

    wanted: RestorePoint | None = Field(default=None, description="This export; the VMs whose proof is oldest if None.")
    within: timedelta | None = Field(default=None, description="Leave out VMs with a proof that is not older.")
    most: int | None = Field(default=None, ge=1, description="How many VMs at the most.")
    target: DrillTarget = Field(default=DrillTarget.QEMU, description="Where the exports are started.")
    place: DrillPlace = Field(default=DrillPlace(), description="In vSphere: where the VM is made.")
    expect: str | None = Field(
        default=None, min_length=1, max_length=1000, description="Only this text counts, on the console or the screen."
    )
    timeout: timedelta = Field(default=TIMEOUT, gt=timedelta(0), description="How long to wait for a sign of life.")
    memory_mib: int | None = Field(default=None, ge=16, description="MiB of memory, if not as much as the VM had.")
    emulate: bool = Field(default=False, description="Emulate the processor even if KVM is there.")

    @classmethod
    def of(cls, **values: object) -> Self:
        """Make a plan of what a person gave.

        Raises:
            UsageError: A value is invalid, has no effect, or is missing; the message names it.
        """
        try:
            plan = cls.model_validate({**values, "target": values.get("target") or DrillTarget.QEMU})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise UsageError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        plan.check()
        return plan

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            UsageError: It makes none; the message names the flag.
        """
        if self.wanted is None and self.within is None and self.most is None:
            raise UsageError(
                "no export is chosen for the drill",
                fix="Name an export or --vm, or give --max or --within for the VMs whose proof is oldest",
            )
        if self.target is DrillTarget.VSPHERE:
            useless = {"--expect": self.expect is not None, "--emulate": self.emulate}
            reason = "vSphere shows neither the console nor the processor"
        else:
            given = self.place.model_dump(exclude_none=True)
            useless = {f"--{name.replace('_', '-')}": True for name in given}
            reason = "a drill on QEMU makes no VM in vSphere"
        named = [flag for flag, is_given in useless.items() if is_given]
        if named:
            raise UsageError(
                f"{', '.join(named)} would have no effect with --target {self.target}: {reason}",
                fix="Leave it out, or choose the other --target",
            )


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
    seconds: dict[str, float] = Field(
        description="`open`: until the disks were proved; `restore`: until the VM was made; `boot`: until the verdict."
    )
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
        proved = is_sealed(data) and record.export_id == export_id
        return record.model_copy(update={"seal": None}) if proved else None
