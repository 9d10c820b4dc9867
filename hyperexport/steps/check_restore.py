"""Whether the chosen VMs could be restored to where they are, or drilled there or on QEMU. Nothing is made."""

from collections.abc import Sequence

from hyperexport.base.stop import StopSignal
from hyperexport.drill.qemu import find_firmware, find_qemu
from hyperexport.errors import HyperExportError
from hyperexport.model.restore import NO_NETWORK, RestoreRequest, VmPlace
from hyperexport.model.vm import VmInfo
from hyperexport.results import Level, SetupFinding
from hyperexport.steps.step import step
from hyperexport.vsphere.places import Places
from hyperexport.vsphere.restore_privileges import RestoreNeeds, missing_for_restore
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.vm_place import read_place

WHAT = "restore"
DRILL = "drill"


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


def check_vsphere_drill(session: Session, vms: Sequence[VmInfo], *, stop: StopSignal) -> list[SetupFinding]:
    """The same for drills in vSphere, which make a VM beside each of these."""
    findings: list[SetupFinding] = []
    places = Places(session)
    request = RestoreRequest(networks=(NO_NETWORK,))
    for vm in vms:
        stop.check()
        try:
            was = read_place(session, vm.ref)
            findings += _lacking(session, vm, places, was, request=request, needs=RestoreNeeds(drill=True), what=DRILL)
        except HyperExportError as error:
            findings.append(
                SetupFinding(what=DRILL, level=Level.FAIL, words=f"{vm.ref.path}: {error.what}", fix=error.fix)
            )
    if vms and not findings:
        words = f"{session.user} may start a drill of {'this VM' if len(vms) == 1 else 'these VMs'} where they are"
        findings = [SetupFinding(what=DRILL, level=Level.OK, words=words)]
    return findings


@step("check-drill", run_name="check QEMU for drills")
def check_qemu_drill(vms: Sequence[VmInfo]) -> list[SetupFinding]:
    """Look whether QEMU is here, and what these VMs need of it."""
    try:
        host = find_qemu()
        if any(vm.firmware == "efi" for vm in vms):
            find_firmware()
    except HyperExportError as error:
        return [SetupFinding(what=DRILL, level=Level.FAIL, words=error.what, fix=error.fix)]
    if host.kvm:
        return [SetupFinding(what=DRILL, level=Level.OK, words=f"exports can be booted on {host.words}")]
    words = f"exports can be booted on {host.words}, which takes ten times as long as with KVM"
    return [SetupFinding(what=DRILL, level=Level.WARN, words=words, fix="Give the user access to /dev/kvm")]


def _of_vm(session: Session, vm: VmInfo, places: Places) -> list[SetupFinding]:
    was = read_place(session, vm.ref)
    needs = RestoreNeeds(power_on=True, tags=bool(was.tags), attributes=bool(was.custom_attributes))
    return _lacking(session, vm, places, was, request=RestoreRequest(), needs=needs, what=WHAT)


def _lacking(
    session: Session,
    vm: VmInfo,
    places: Places,
    was: VmPlace,
    *,
    request: RestoreRequest,
    needs: RestoreNeeds,
    what: str,
) -> list[SetupFinding]:
    networks = tuple(dict.fromkeys(nic.network for nic in vm.nics if nic.network))
    placement = places.resolve(request, was, networks=networks)
    return [
        SetupFinding(
            what=what,
            level=Level.FAIL if each.requirement.vital else Level.WARN,
            words=f"{vm.ref.path}: {session.user} lacks {each.requirement.privilege} on {each.place}: "
            f"{each.requirement.without}",
            fix=f"Add it to the user's role there ({each.requirement.title})",
        )
        for each in missing_for_restore(session, placement, needs)
    ]
