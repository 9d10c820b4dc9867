"""What a verification says: plain values for results, manifests, tables and mails."""

from pydantic import Field

from hyperexport.model.vm import Value


class Finding(Value):
    """One thing that is wrong with a stored file."""

    file: str = Field(description="The file's name within the export.")
    offset: int | None = Field(default=None, description="Where in the file (bytes), where that is known.")
    problem: str = Field(description="What is wrong, as a sentence without a full stop; names the offset, too.")
    read: bool = Field(default=False, description="Whether the file's bytes were read back to find it.")

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}"


class Verification(Value):
    """What was read back and compared, and what was found."""

    files: int = Field(description="Files of the export that were looked at, members of an OVA each on their own.")
    bytes_read: int = Field(description="Bytes that were read back from the store.")
    findings: tuple[Finding, ...]
    seconds: float
    protection: str = Field(description="What the proof rests on, in words.")
    trusted: tuple[str, ...] = Field(
        default=(), description="The files of which the store's own checksum was compared, and nothing read back."
    )
    unrecorded: str | None = Field(
        default=None, description="Why the result could not be recorded in the manifest, as on a read-only store."
    )

    @property
    def ok(self) -> bool:
        """Whether everything is as the manifest says."""
        return not self.findings
