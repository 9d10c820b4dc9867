"""What a restore into vSphere is asked for, where a VM was when it was exported, and what a restore will do."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Final, NamedTuple

from pydantic import FailFast, Field, ValidationError, field_validator, model_validator

from hyperexport.base.units import format_bytes
from hyperexport.errors import UsageError
from hyperexport.model.vm import Value, VmRef

NO_NETWORK: Final = "none"
"""In place of a network: every adapter stays disconnected."""


class Identity(StrEnum):
    """Whether the restored VM is the one that was exported, or another that looks like it."""

    NEW = "new"
    """vSphere chooses MAC addresses, BIOS UUID and instance UUID."""
    KEEP = "keep"
    """They are those of the exported VM."""


class Provisioning(StrEnum):
    """How a disk's space is taken on its datastore."""

    THIN = "thin"
    THICK = "thick"
    EAGER = "eager"


class Proof(StrEnum):
    """How the bytes of one file were proved to be those of the manifest, by SHA-256, before the VM became whole."""

    SERVER = "server"
    """The server's SHA-256 of what arrived is the manifest's: proof of the stored bytes and of the transfer at once."""
    SENT = "sent"
    """We hashed it while it was sent, and its last bytes waited for the proof."""
    READ_AGAIN = "read-again"
    """The server promised a SHA-256 and gave none; we read the stored file again."""

    @property
    def words(self) -> str:
        """By whom and when the SHA-256 was made, as a page says it."""
        made = {Proof.SERVER: "by the server", Proof.SENT: "while sent", Proof.READ_AGAIN: "read again"}[self]
        return f"SHA-256 {made}"


class RestoreRequest(Value):
    """What is to become of an export in vSphere. A place that is None is where the VM was, if that exists there."""

    name: str | None = Field(
        default=None, title="Name", min_length=1, max_length=80, description="The new VM's name (default: as it was)."
    )
    folder: str | None = Field(
        default=None,
        title="Folder",
        min_length=1,
        description="VM folder: its path, or a name that is unique (default: where the VM was).",
    )
    resource_pool: str | None = Field(
        default=None,
        title="Resource pool",
        min_length=1,
        description="Resource pool, cluster or host: its path, or a name that is unique (default: where the VM was).",
    )
    host: str | None = Field(
        default=None, title="Host", min_length=1, description="ESXi host (default: where the VM was, or by DRS)."
    )
    datastore: str | None = Field(
        default=None, title="Datastore", min_length=1, description="Datastore (default: where the VM was)."
    )
    networks: tuple[str, ...] = Field(
        default=(),
        title="Networks",
        description="SOURCE=TARGET for each network that has another name there; none disconnects all.",
    )
    disk_provisioning: Provisioning | None = Field(
        default=None, title="Disk provisioning", description="How disks take space (default: as each disk was)."
    )
    identity: Identity | None = Field(
        default=None,
        title="Identity",
        description="MAC addresses and UUIDs (default: new while the original is in the inventory, else kept).",
    )
    disks: tuple[int, ...] = Field(
        default=(), title="Disks", description="Only the disks with these numbers, from 0; all if empty."
    )
    attach_to: str | None = Field(
        default=None,
        title="Attach to VM",
        min_length=1,
        description="With disks: the VM that gets them, by its name or inventory path.",
    )
    power_on: bool = Field(default=False, title="Power on", description="Power the VM on at the end.")
    verify: bool = Field(
        default=True, title="Verify", description="Compare the server's checksum of each file that it received."
    )

    @field_validator("networks", "disks", mode="before")
    @classmethod
    def _none_is_empty(cls, value: object) -> object:
        return () if value is None else value

    @model_validator(mode="after")
    def _fits_together(self) -> "RestoreRequest":
        if self.attach_to and not self.disks:
            raise UsageError("--attach-to needs the disks to attach", fix="Name them with --disk, from 0")
        useless = {
            "--name": self.name,
            "--folder": self.folder,
            "--network": self.networks,
            "--identity": self.identity,
            "--power-on": self.power_on,
        }
        given = [flag for flag, value in useless.items() if value]
        if self.attach_to and given:
            raise UsageError(
                f"--attach-to makes no VM, so {', '.join(given)} would have no effect", fix="Leave one of them out"
            )
        self.network_targets()
        return self

    @classmethod
    def of(cls, fields: Mapping[str, object]) -> "RestoreRequest":
        """Read what a user gave.

        Raises:
            UsageError: A field is unknown, has a value that it cannot have, or contradicts another.
        """
        try:
            return cls.model_validate(dict(fields))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"])) or "restore"
            raise UsageError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None

    @property
    def disconnected(self) -> bool:
        """Whether every network adapter is to stay disconnected."""
        return NO_NETWORK in self.networks

    def network_targets(self) -> dict[str, str]:
        """The target network for each source network that was named.

        Raises:
            UsageError: A word has not the form SOURCE=TARGET, or two contradict each other.
        """
        if self.disconnected and len(self.networks) > 1:
            raise UsageError("--network none leaves every adapter disconnected", fix="Leave the other --network out")
        targets: dict[str, str] = {}
        for word in self.networks if not self.disconnected else ():
            source, equals, target = word.partition("=")
            if not (equals and source and target):
                raise UsageError(f"--network: {word!r} is not SOURCE=TARGET", fix="Or give --network none")
            if targets.get(source, target) != target:
                raise UsageError(f"--network: {source!r} has two targets", fix="Give one of them")
            targets[source] = target
        return targets


class VmPlace(Value):
    """Where a VM was in its vCenter, and what vCenter kept about it. An OVF has nothing of this."""

    folder: str | None = Field(default=None, description="The VM folder's inventory path, such as /DC0/vm/production.")
    resource_pool: str | None = Field(default=None, description="Its path, such as /DC0/host/C0/Resources/web.")
    host: str | None = Field(default=None, description="The ESXi host's name.")
    datastores: Annotated[tuple[str, ...], FailFast()] = Field(
        default=(), description="The datastores' names; that of the VM's configuration first."
    )
    tags: Annotated[tuple[str, ...], FailFast()] = Field(default=(), description="Each as CATEGORY:NAME.")
    custom_attributes: dict[str, str] = Field(default={}, description="Values by the attributes' names.")
    unread: Annotated[tuple[str, ...], FailFast()] = Field(
        default=(), description="What of this could not be read, each with the reason."
    )


class LostSetting(NamedTuple):
    """A setting of the exported VM that the restored one will not have."""

    setting: str
    reason: str


class RestoredFile(Value):
    """One file of the export on its way into vSphere."""

    name: str
    size: int = Field(description="Bytes that are uploaded.")
    capacity: int | None = Field(default=None, description="Disks: bytes that the guest sees.")
    number: int | None = Field(default=None, description="Disks: the number in the VM's order, from 0.")
    label: str | None = Field(default=None, description="Disks: as vSphere's client shows it.")
    provisioning: Provisioning | None = Field(default=None, description="Disks: how space is taken.")


class RestorePlan(Value):
    """What a restore will do, decided before anything is made."""

    export_id: str
    source: VmRef = Field(description="The VM that was exported.")
    vcenter: str = Field(description="The server that it is restored to.")
    name: str = Field(description="The name of the new VM; for disks that are attached, of the temporary one.")
    path: str = Field(description="Its inventory path.")
    folder: str = Field(description="Inventory path.")
    resource_pool: str = Field(description="Inventory path.")
    host: str | None = Field(description="None where DRS chooses.")
    datastore: str
    networks: tuple[tuple[str, str], ...] = Field(description="Source and target network.")
    disconnected: bool = Field(default=False, description="Whether the adapters stay disconnected.")
    identity: Identity
    identity_reason: str
    attach_to: VmRef | None = Field(default=None, description="The VM that gets the disks.")
    attach_at: tuple[str, ...] = Field(default=(), description="Where each disk goes on that VM: controller and unit.")
    files: tuple[RestoredFile, ...]
    space_needed: int = Field(description="The most bytes that the disks can take.")
    space_free: int | None = Field(description="Bytes on the datastore; None where the server does not tell.")
    tags: tuple[str, ...] = ()
    custom_attributes: tuple[tuple[str, str], ...] = ()
    power_on: bool = False
    lost: tuple[LostSetting, ...] = Field(default=(), description="What will not be restored, each with the reason.")
    warnings: tuple[str, ...] = Field(default=(), description="The server's, and our own.")

    @property
    def upload_bytes(self) -> int:
        """Bytes that are uploaded."""
        return sum(file.size for file in self.files)

    @property
    def disks(self) -> tuple[RestoredFile, ...]:
        """The disks among the files."""
        return tuple(file for file in self.files if file.capacity is not None)

    def facts(self) -> Iterable[tuple[str, str]]:
        """What there is to know, in words, for a page or a terminal."""
        free = "unknown" if self.space_free is None else format_bytes(self.space_free)
        if self.attach_to:
            yield "Attach to", f"{self.attach_to.path} at {', '.join(self.attach_at)}"
        else:
            yield "VM", self.path
        yield "vCenter or host", self.vcenter
        yield "Resource pool", self.resource_pool
        yield "Host", self.host or "chosen by DRS"
        yield "Datastore", self.datastore
        yield "Space", f"{format_bytes(self.space_needed)} needed, {free} free"
        if not self.attach_to:
            mapped = ", ".join(f"{source} -> {target}" for source, target in self.networks) or "none"
            yield "Networks", mapped + (", every adapter disconnected" if self.disconnected else "")
            yield "Identity", f"{self.identity}: {self.identity_reason}"
            yield "Power on", "yes" if self.power_on else "no"
        if self.tags:
            yield "Tags", ", ".join(self.tags)
        if self.custom_attributes:
            yield "Custom attributes", ", ".join(f"{name}={value}" for name, value in self.custom_attributes)


class RestoreResult(Value):
    """What a restore did, or in a dry run would do."""

    dry_run: bool
    plan: RestorePlan
    vm: VmRef | None = Field(default=None, description="The VM that is there now; None in a dry run.")
    powered_on: bool = False
    attached: tuple[str, ...] = Field(default=(), description="The files of the disks that were attached.")
    verified: bool | None = Field(
        default=None, description="Whether the server's checksum of every file was compared; None in a dry run."
    )
    proofs: dict[str, Proof] = Field(
        default={}, description="How each file was proved by its SHA-256; empty in a dry run."
    )
    uploaded: int = Field(default=0, description="Bytes.")
    seconds: float
    warnings: tuple[str, ...] = ()
