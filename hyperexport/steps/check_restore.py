"""Whether the chosen VMs could be restored to where they are, by this user: asked of vCenter, nothing is made."""

from collections.abc import Sequence

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError
from hyperexport.model.restore import RestoreRequest
from hyperexport.model.vm import VmInfo
from hyperexport.results import Level, SetupFinding
from hyperexport.vsphere.places import Places
from hyperexport.vsphere.restore_privileges import RestoreNeeds, missing_for_restore
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.vm_place import read_place

WHAT = "restore"


def check_restore(session: Session, vms: Sequence[VmInfo], *, stop: StopSignal) -> list[SetupFinding]:
    """Find the place of each VM as a restore would, and compare what the user may do there with what it needs."""
    findings: list[SetupFinding] = []
    places = Places(session)
    for vm in vms:
        stop.check()
        try:
            findings += _of_vm(session, vm, places)
        except HyperExportError as error:
            findings.append(
                SetupFinding(what=WHAT, level=Level.FAIL, words=f"{vm.ref.path}: {error.what}", fix=error.fix)
            )
    if vms and not findings:
        words = f"{session.user} may restore {'this VM' if len(vms) == 1 else 'these VMs'} to where they are"
        findings = [SetupFinding(what=WHAT, level=Level.OK, words=words)]
    return findings


def _of_vm(session: Session, vm: VmInfo, places: Places) -> list[SetupFinding]:
    was = read_place(session, vm.ref)
    networks = tuple(dict.fromkeys(nic.network for nic in vm.nics if nic.network))
    placement = places.resolve(RestoreRequest(), was, networks=networks)
    needs = RestoreNeeds(power_on=True, tags=bool(was.tags), attributes=bool(was.custom_attributes))
    return [
        SetupFinding(
            what=WHAT,
            level=Level.FAIL if each.requirement.vital else Level.WARN,
            words=f"{vm.ref.path}: {session.user} lacks {each.requirement.privilege} on {each.place}: "
            f"{each.requirement.without}",
            fix=f"Add it to the user's role there ({each.requirement.title})",
        )
        for each in missing_for_restore(session, placement, needs)
    ]
