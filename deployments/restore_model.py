"""What the jobs API takes for a restore: which export, what becomes of it, and where the exports are."""

from datetime import datetime
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from hyperexport.blocks.export_profile import load_profile
from hyperexport.deployments.allowed_roots import AllowedRoots
from hyperexport.deployments.parameters import kept_parameters
from hyperexport.errors import UsageError
from hyperexport.model.restore import RestoreRequest
from hyperexport.model.restore_point import RestorePoint
from hyperexport.options.precedence import ExportOptions


class RestoreJob(BaseModel):
    """One export to restore into vSphere. What is not given is as it was when the VM was exported."""

    model_config = ConfigDict(extra="forbid")

    export: str | None = Field(default=None, description="The export's id, as hyperexport list shows it.")
    vm_path: str | None = Field(
        default=None,
        validation_alias=AliasChoices("vm_path", "vm"),
        description="In place of the id: the VM's name or inventory path; its newest good export.",
    )
    at: datetime | None = Field(default=None, description="With vm_path: the newest good export begun by then.")
    restore: dict[str, Any] = Field(
        default={}, description="Name, place, networks, identity, disks: the fields of RestoreRequest."
    )
    options: dict[str, Any] = Field(default={}, description="Where the exports are; options by their names.")
    vsphere_block: str | None = Field(
        default=None, description="The saved block with the server and the login; else the server's environment."
    )
    profile: str | None = Field(default=None, description="The saved profile whose options hold where this does not.")

    def parameters(self, allowed: AllowedRoots) -> dict[str, Any]:
        """Make it the parameters of the flow restore-vm. Asks Prefect for the profile.

        Args:
            allowed: Where the job's exports may lie.

        Raises:
            UsageError: It names no export, options contradict each other, a place is not allowed, or there is no such
                profile.
        """
        wanted = RestorePoint(export=self.export or None, vm=self.vm_path or None, at=self.at)
        request = RestoreRequest.of(self.restore)
        options = ExportOptions.from_keys(self.options)
        allowed.check(options)
        profile = load_profile(self.profile) if self.profile is not None else None
        return {
            "export": wanted.export or "",
            "vm": wanted.vm or "",
            "at": wanted.at.isoformat() if wanted.at else None,
            "restore": request.model_dump(mode="json"),
            **({"vsphere": self.vsphere_block} if self.vsphere_block else {}),
            **kept_parameters(options, profile),
        }


def read_restore(job: RestoreJob, allowed: AllowedRoots) -> tuple[dict[str, Any] | None, list[str]]:
    """The parameters of the restore flow, or why the request is invalid."""
    try:
        return job.parameters(allowed), []
    except UsageError as error:
        return None, [str(error)]
