"""Exports that are in a store and cannot be relied on, with the reason: values for lists, reports, metrics and plans.

A manifest is proved by its seal, or it is damaged. A damaged export decides nothing: it is no base, it is not counted
for or against another export, and no limit deletes it. It is always reported.
"""

from enum import StrEnum

from pydantic import Field

from hyperexport.model.vm import Value


class Problem(StrEnum):
    """Why an export cannot be relied on. The names are part of the output of ``--json``."""

    MISSING = "manifest-missing"
    """There is an export's folder, and no manifest in it."""
    SEAL = "seal-broken"
    """The manifest's seal does not fit its bytes, or is not there."""
    INVALID = "manifest-invalid"
    """The bytes are no manifest."""
    NEWER = "manifest-newer"
    """The manifest's seal fits, so it is as it was written, and this version does not read it: a newer one wrote it."""
    FOREIGN = "manifest-of-another-export"
    """The manifest names another export id than its folder."""
    UNREADABLE = "unreadable"
    """The store did not hand it out: permissions, a failing disk, no answer."""
    LINK = "not-a-folder"
    """A symbolic link or a file is in the place of a VM's or an export's folder. It is never followed."""
    BYTES = "bytes-missing"
    """The manifest is sound, but refers to an export that is not there or is itself damaged."""


class DamagedExport(Value):
    """One export, or one VM's folder, that cannot be relied on."""

    folder: str = Field(description="The VM's folder.")
    export_id: str = Field(default="", description="The export's id; empty where it is the VM's whole folder.")
    problem: Problem
    reason: str = Field(description="What is wrong, as a sentence without a full stop.")
    uses: tuple[str, ...] | None = Field(
        default=None, description="The ids of the exports whose files it uses; None where it is unknown."
    )

    def __str__(self) -> str:
        return f"{self.folder}/{self.export_id}" if self.export_id else self.folder

    @property
    def words(self) -> str:
        """Which export, and what is wrong with it."""
        return f"{self}: {self.reason}"

    @property
    def remedy(self) -> str:
        """What a person can do, because nothing that runs by itself touches it; without a full stop."""
        if self.problem is Problem.LINK:
            return f"Put the folder itself in place of {self}"
        if self.problem is Problem.NEWER:
            return f"Update hyperexport here, and do not delete {self}/"
        if self.problem is Problem.UNREADABLE:
            return f"Find out why {self}/export.json cannot be read: permissions, the disk or the network"
        if self.problem is Problem.BYTES:
            return f"Restore from a copy the export that it refers to; if there is none, delete {self}/ by hand"
        restore = f"Restore {self}/export.json from a copy"
        return f"{restore}; if there is none and no export is reported as stored in it, delete {self}/ by hand"

    @property
    def words_and_remedy(self) -> str:
        """Which export, what is wrong with it and what to do."""
        return f"{self.words}. {self.remedy}"
