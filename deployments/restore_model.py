"""What the jobs API takes for a restore: which export, what becomes of it, and where the exports are."""

from typing import Any

from pydantic import Field

from hyperexport.deployments.allowed_roots import AllowedRoots
from hyperexport.deployments.submission import StoredExportJob
from hyperexport.model.restore import RestoreRequest
from hyperexport.model.restore_point import RestorePoint


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
