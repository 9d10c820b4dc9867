"""What the jobs API takes for jobs about exports that are in a store: a restore, restore drills."""

from abc import ABC, abstractmethod
from datetime import datetime, timedelta
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from hyperexport.deployments.allowed_roots import AllowedRoots
from hyperexport.deployments.parameters import checked_parameters
from hyperexport.errors import UsageError
from hyperexport.model.drill import DrillPlace, DrillPlan, DrillTarget
from hyperexport.model.restore import RestoreRequest
from hyperexport.model.restore_point import RestorePoint


class StoredExportJob(BaseModel, ABC):
    """A job about exports that are in a store."""

    model_config = ConfigDict(extra="forbid")

    export: str | None = Field(default=None, description="The export's id, as hyperexport list shows it.")
    vm_path: str | None = Field(
        default=None,
        validation_alias=AliasChoices("vm_path", "vm"),
        description="In place of the id: the VM's name or inventory path; its newest good export.",
    )
    at: datetime | None = Field(default=None, description="With vm_path: the newest good export begun by then.")
    options: dict[str, Any] = Field(default={}, description="Where the exports are, and mails; options by their names.")
    vsphere_block: str | None = Field(
        default=None, description="The saved block with the server and the login; else the server's environment."
    )
    profile: str | None = Field(default=None, description="The saved profile whose options hold where this does not.")

    @abstractmethod
    def parameters(self, allowed: AllowedRoots) -> dict[str, Any]:
        """Make it the parameters of its flow.

        Raises:
            UsageError: The flow would refuse them, or :func:`checked_parameters` does.
        """

    def _checked_options(self, allowed: AllowedRoots) -> dict[str, Any]:
        return checked_parameters(self.options, allowed, profile=self.profile, vsphere_block=self.vsphere_block)


class RestoreJob(StoredExportJob):
    """One export to restore into vSphere. What is not given is as it was when the VM was exported."""

    restore: dict[str, Any] = Field(
        default={}, description="Name, place, networks, identity, disks: the fields of RestoreRequest."
    )

    def parameters(self, allowed: AllowedRoots) -> dict[str, Any]:
        """Make it the parameters of the flow restore-vm. Asks Prefect for the profile.

        Raises:
            UsageError: It names no export, options contradict each other, a place is not allowed, there is no such
                profile, or the mails that are asked for could not be sent.
        """
        wanted = RestorePoint(export=self.export or None, vm=self.vm_path or None, at=self.at)
        request = RestoreRequest.of(self.restore)
        return {
            "export": wanted.export or "",
            "vm": wanted.vm or "",
            "at": wanted.at.isoformat() if wanted.at else None,
            "restore": request.model_dump(mode="json"),
            **self._checked_options(allowed),
        }


class DrillJob(StoredExportJob):
    """One export to drill, or the VMs whose last passed drill is oldest."""

    within_days: float | None = Field(
        default=None, gt=0, description="Where no export is named: the VMs without a passed drill in so many days."
    )
    most: int | None = Field(
        default=None, ge=1, description="Where no export is named: so many VMs at the most, the oldest proofs first."
    )
    target: DrillTarget = Field(default=DrillTarget.QEMU, description="Where the exports are started.")
    place: DrillPlace = Field(default=DrillPlace(), description="In vSphere: where the VM is made.")
    expect: str | None = Field(default=None, description="On QEMU: only this text on the console or the screen counts.")
    timeout_minutes: float = Field(default=10, gt=0, description="How long a sign of life is waited for.")
    memory_mib: int | None = Field(default=None, ge=16, description="MiB of memory, if not as much as the VM had.")
    emulate: bool = Field(default=False, description="On QEMU: emulate the processor even where KVM is.")

    def parameters(self, allowed: AllowedRoots) -> dict[str, Any]:
        """Make it the parameters of the flow restore-drill. Asks Prefect for the profile.

        Args:
            allowed: Where the job's exports may lie.

        Raises:
            UsageError: It names no export, options contradict each other, a place is not allowed, there is no such
                profile, or the mails that are asked for could not be sent.
        """
        named = self.export or self.vm_path or self.at
        wanted = RestorePoint(export=self.export or None, vm=self.vm_path or None, at=self.at) if named else None
        plan = self.model_dump(include={"most", "target", "place", "expect", "memory_mib", "emulate"})
        DrillPlan.of(
            wanted=wanted, within=None if self.within_days is None else timedelta(days=self.within_days), **plan
        )
        fields = self.model_dump(
            mode="json", exclude={"export", "vm_path", "at", "expect", "options", "vsphere_block", "profile"}
        )
        return {
            **fields,
            "export": (wanted and wanted.export) or "",
            "vm": (wanted and wanted.vm) or "",
            "at": wanted.at.isoformat() if wanted and wanted.at else None,
            "expect": self.expect or "",
            **self._checked_options(allowed),
        }


def read_stored_job(job: StoredExportJob, allowed: AllowedRoots) -> tuple[dict[str, Any] | None, list[str]]:
    """The parameters of the job's flow, or why the request is invalid."""
    try:
        return job.parameters(allowed), []
    except UsageError as error:
        return None, [str(error)]
