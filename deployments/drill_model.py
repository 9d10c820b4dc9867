"""What the jobs API takes for restore drills: which exports, where they are started, and what counts as life."""

from datetime import timedelta
from typing import Any

from pydantic import Field

from hyperexport.deployments.allowed_roots import AllowedRoots
from hyperexport.deployments.submission import StoredExportJob
from hyperexport.model.drill import DrillPlace, DrillPlan, DrillTarget
from hyperexport.model.restore_point import RestorePoint


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
