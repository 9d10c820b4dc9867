"""What is said of an export after it was published: small sealed files beside it, so that nothing of it is rewritten.

Each mark has one writer: a verification, or a person who preserves the export. What a mark says takes the place of
what the manifest says, also where an earlier version wrote that into the manifest itself. A mark that its seal does
not prove says nothing, and no limit deletes an export that has one.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal, NamedTuple, Self

from pydantic import FailFast, Field, ValidationError

from hyperexport.model.manifest import ExportId, ExportManifest, FileName, Moment, Rate, StageName, is_sealed, sealed
from hyperexport.model.vm import Value

LARGEST: Final = 1 << 20
"""Bytes of a mark that is read; a longer one is none."""


class Mark(Value, ABC):
    """One mark of one export."""

    file_name: ClassVar[str]

    schema_version: Literal[1] = 1
    export_id: ExportId
    seal: str | None = Field(default=None, description="Last in the file: the SHA-256 of every byte before this key.")

    @abstractmethod
    def on(self, manifest: ExportManifest) -> ExportManifest:
        """Say in a manifest what the mark says."""

    def to_json(self) -> bytes:
        """Serialise for the store."""
        return sealed(self.model_dump_json(indent=2, exclude={"seal"}).encode().removesuffix(b"\n}") + b",\n  ")

    @classmethod
    def from_json(cls, data: bytes, *, export_id: str) -> Self | None:
        """Read a mark; None for one that its seal does not prove, or that is of another export."""
        try:
            mark = cls.model_validate_json(data)
        except ValidationError:
            return None
        proved = len(data) <= LARGEST and is_sealed(data) and mark.export_id == export_id
        return mark.model_copy(update={"seal": None}) if proved else None


class SharedDamage(Value):
    """What the verification of another export found in a file that this export has, too."""

    file: FileName = Field(description="The file's name in this export.")
    problem: str = Field(description="What is wrong with it, as a sentence without a full stop.")
    found_in: ExportId = Field(description="The id of the export whose verification found it.")
    read: bool = Field(description="Whether its bytes were read back to find it.")

    def __str__(self) -> str:
        return f"{self.file}: {self.problem} (found by the verification of {self.found_in}, which has this file, too)"


class VerifiedMark(Mark):
    """What the last verification found."""

    file_name: ClassVar[str] = "mark-verified.json"

    verified: Moment | None = Field(default=None, description="When a verification last proved the export.")
    damage: Annotated[tuple[str, ...], FailFast()] = Field(default=(), description="What the last one found wrong.")
    read: tuple[FileName, ...] | None = Field(
        default=None,
        description="The damaged files of which the bytes were read back: a checksum of the store proves nothing "
        "of them any more. None in marks of earlier versions.",
    )
    shared: Annotated[tuple[SharedDamage, ...], FailFast()] = Field(
        default=(), description="What verifications of other exports found since, in files that this one has, too."
    )
    read_back: Moment | None = Field(
        default=None,
        description="When a verification last proved the export by reading all of it back, and none of its disks by a "
        "checksum of the store.",
    )
    seconds: Rate = Field(description="How long the last one took.")

    def on(self, manifest: ExportManifest) -> ExportManifest:
        """Say in a manifest what the verification found, and what others found since."""
        stages = {**manifest.stages, StageName.VERIFY: self.seconds}
        damage = (*self.damage, *map(str, self.shared))
        return manifest.model_copy(update={"verified": self.verified, "damage": damage, "stages": stages})


class PreservedMark(Mark):
    """Whether a person keeps the export from every cleanup."""

    file_name: ClassVar[str] = "mark-preserved.json"

    preserve: bool = Field(description="Never deleted by any cleanup.")

    def on(self, manifest: ExportManifest) -> ExportManifest:
        """Say in a manifest whether the export is preserved."""
        return manifest.model_copy(update={"preserve": self.preserve})


_KINDS: Final[dict[str, type[Mark]]] = {kind.file_name: kind for kind in (VerifiedMark, PreservedMark)}
MARK_FILES: Final = tuple(_KINDS)


class Marked(NamedTuple):
    """A manifest with what its marks say."""

    manifest: ExportManifest
    unproved: tuple[str, ...]
    """The files of marks that say nothing, because no seal proves them."""
    verification: VerifiedMark | None


def marked(manifest: ExportManifest, marks: Mapping[str, bytes | None]) -> Marked:
    """Say in a manifest what its marks say.

    Args:
        manifest: As it was published.
        marks: The bytes of the marks beside it, by file name; None for one that cannot be read.
    """
    unproved: list[str] = []
    verification = None
    for name, data in marks.items():
        mark = None if data is None else _KINDS[name].from_json(data, export_id=manifest.export_id)
        if mark is None:
            unproved.append(name)
        else:
            manifest = mark.on(manifest)
            verification = mark if isinstance(mark, VerifiedMark) else verification
    return Marked(manifest, tuple(unproved), verification)
