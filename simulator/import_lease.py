"""Import leases: HttpNfcLease of a VM that is being made, and the files that it waits for.

vSphere API: HttpNfcLease. Until it is completed the VM is half made; aborted, timed out or failed, the VM goes.
"""

# ruff: noqa: D102 - what has a name of the vSphere API is documented there

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from hyperexport.simulator.leases import Lease, OfferedFile

if TYPE_CHECKING:
    from hyperexport.simulator.device_changes import Draft
    from hyperexport.simulator.machine import Machine


class ImportLease(Lease):
    """vim.HttpNfcLease for imports.

    Args:
        vm: The VM, which has no devices yet.
        make: Gives it its devices and settings.
        finish: Makes it whole, once all has arrived.
        nvram: Whether the package has an nvram for it.
    """

    def __init__(self, vm: "Machine", make: Callable[[], "Draft"], finish: Callable[[], None], *, nvram: bool) -> None:
        super().__init__(vm, None, vm.services.lease_timeout, manifests=True)
        self._make = make
        self._finish = finish
        self._nvram = nvram

    def offer(self) -> None:
        """Make the VM's devices, and a place for the content of each."""
        made = self._make().made
        vm, place = self.machine, f"/nfc/{uuid.uuid4()}"
        for number, disk in enumerate(each for each in vm.disks if each in made and each.awaits_content):
            self.files.append(
                OfferedFile(
                    self,
                    f"/{vm.moid}/{disk.lease_key}",
                    disk.base.rpartition("/")[2],
                    f"{place}/disk-{number}.vmdk",
                    disk=disk,
                    import_key=f"/{vm.settings.name}/{disk.lease_key}",
                )
            )
        if self._nvram:
            name = f"{vm.settings.home}.nvram"
            key, import_key = f"/{vm.moid}/nvram", f"/{vm.settings.name}/nvram"
            self.files.append(OfferedFile(self, key, name, f"{place}/nvram", import_key=import_key))
        vm.host_system.offered.update({file.path: file for file in self.files})

    def fail(self, fault: Any) -> None:
        """An upload ended in a way that no other try can mend."""
        if self.alive:
            self._end(vim.HttpNfcLease.State.error, fault)

    def _end(self, state: Any, error: Any) -> None:
        super()._end(state, error)
        if state != "done":
            self.machine.destroy()

    def HttpNfcLeaseComplete(self) -> None:
        self._require_ready()
        missing = [file.import_key for file in self.files if file.size is None]
        if missing:
            raise vim.fault.InvalidState(msg=f"Files have not arrived: {', '.join(missing)}.")
        self._finish()
        super().HttpNfcLeaseComplete()
