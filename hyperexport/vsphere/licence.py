"""Whether a server's licence lets anything be exported.

The free ESXi licence makes the API read-only: each call that changes something is refused with RestrictedVersion, and
nothing that can be read says so for every release. So an export is asked for that cannot begin, or is given up at once.
"""

from collections.abc import Sequence
from typing import Final

from pyVmomi import vim

from hyperexport.errors import HyperExportError
from hyperexport.model.vm import PowerState, VmInfo
from hyperexport.vsphere.faults import is_caused_by
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.session import Session

_RESTRICTED: Final = (
    vim.fault.RestrictedVersion,
    vim.fault.LicenseRestricted,
    vim.fault.LicenseExpired,
    vim.fault.ExpiredFeatureLicense,
)


def licence_refusal(session: Session, vms: Sequence[VmInfo]) -> HyperExportError | None:
    """Ask for an export as a test of the licence; returns the refusal, or None where the licence is not the obstacle.

    Only a host by itself can have the free licence; a vCenter is asked nothing. vSphere API, ExportVm:
    InvalidPowerState for a VM that is powered on, so asking for one changes nothing; the lease of one that is off is
    given up.

    Args:
        session: The login.
        vms: The VMs that an export would be of.
    """
    if session.is_vcenter:
        return None
    asked = sorted((vm for vm in vms if not vm.template), key=lambda vm: vm.power_state is not PowerState.ON)
    for vm in asked[:1]:
        doing = f"testing whether {session.address} exports {vm.name}"
        try:
            lease = session.call(vm_object(session, vm.ref).ExportVm, doing=doing)
            session.call(lease.HttpNfcLeaseAbort, None, doing=doing)
        except HyperExportError as error:
            if is_caused_by(error, _RESTRICTED):
                return error
    return None
