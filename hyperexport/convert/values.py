"""What a conversion is asked for and what comes out of it."""

from enum import StrEnum
from pathlib import Path

from pydantic import Field

from hyperexport.model.vm import Value, VmRef


class Target(StrEnum):
    """What an export can be converted to."""

    RAW = "raw"
    """The guest's bytes, as a sparse file."""
    QCOW2 = "qcow2"
    VHDX = "vhdx"
    VMDK = "vmdk"
    """A monolithic sparse VMDK, as VMware Workstation and Fusion write it."""
    OVF = "ovf"
    """A self-contained OVF package: whole disks, whatever the export refers to."""
    OVA = "ova"

    @property
    def is_package(self) -> bool:
        """Whether it is the whole VM rather than its disks."""
        return self in {Target.OVF, Target.OVA}


class ConvertedFile(Value):
    """One file that was written."""

    path: Path
    size: int = Field(description="Bytes, as a listing shows them; a sparse file takes fewer.")
    allocated: int = Field(description="Bytes that it takes on its filesystem.")
    source: str | None = Field(default=None, description="The disk of the export that it was made of.")


class Conversion(Value):
    """What was made of an export, or in a dry run would be."""

    export_id: str
    vm: VmRef
    to: Target
    files: tuple[ConvertedFile, ...] = Field(description="In a dry run their sizes are the most that they can have.")
    seconds: float
    warnings: tuple[str, ...] = ()
    dry_run: bool = False
