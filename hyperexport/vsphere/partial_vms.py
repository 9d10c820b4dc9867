"""VMs that a restore or a drill is making: their owner tag, found in their notes, and their removal.

From the first moment until a restore has ended well its VM has the run's tag at the end of its notes
(``config.annotation``); taking the tag off is what makes the VM the user's. The VM of a drill keeps it to its end. Only
what has a tag is ever destroyed.
"""

import logging
from typing import Final, NamedTuple

from pyVmomi import vim

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError, RestoreLeaked, ServerFault
from hyperexport.model.ownership import Owner
from hyperexport.model.vm import VmRef
from hyperexport.vsphere.collector import properties, retrieve
from hyperexport.vsphere.disk_moves import moving_of, reattach
from hyperexport.vsphere.faults import GONE, is_caused_by
from hyperexport.vsphere.inventory import read_inventory, vm_object
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.vm_tasks import end_question, run_task

logger = logging.getLogger(__name__)


class PartialVm(NamedTuple):
    """A VM that a restore was making."""

    ref: VmRef
    owner: Owner


_RESTORED: Final = "Being restored by hyperexport"
_DRILLED: Final = "Made by hyperexport for a restore drill"


def tagged(annotation: str, owner: Owner, *, drill: bool = False) -> str:
    """The notes of a VM while it is being made, or while a drill uses it."""
    words = f"{_RESTORED}, and not whole until this line is gone."
    if drill:
        words = f"{_DRILLED}, which destroys it at its end."
    return f"{annotation}\n{words} {owner.to_tag()}".lstrip("\n")


def untagged(annotation: str) -> str:
    """A VM's notes without the tag of any restore or drill."""
    for words in (_RESTORED, _DRILLED):
        head, found, _ = annotation.partition(words)
        annotation = head.rstrip("\n") if found else annotation
    return annotation


def partial_vms(session: Session) -> list[PartialVm]:
    """Find every VM of the server that has a restore's tag, made for a VM of that path.

    A copy of such a VM, or one that was moved or renamed meanwhile, is a user's and is not among them. Nor is one that
    runs: a restore powers its VM on only after it has taken the tag off.
    """
    doing = "looking for VMs that restores left"
    owners: dict[str, Owner] = {}
    wanted = ("config.annotation", "runtime.powerState")
    for obj, values in retrieve(session, {vim.VirtualMachine: wanted}, doing=doing):
        notes = values.shown("config.annotation") or ""
        owner = Owner.from_description(notes)
        if owner is None or owner.thing is None:
            continue
        if _in_use(notes, values.shown("runtime.powerState")):
            logger.warning("%s is running, so it is kept, though its notes say that it is being restored", owner.thing)
            continue
        owners[obj._GetMoId()] = owner
    if not owners:
        return []
    rows = read_inventory(session).rows
    found = (PartialVm(row.ref, owners[row.ref.moref]) for row in rows if row.ref.moref in owners)
    return [made for made in found if made.owner.thing == thing_of(made.ref.path)]


def thing_of(path: str) -> str:
    """How a tag names the VM that it was made for."""
    return f"vm:{path}"


def notes_of(session: Session, vm: VmRef) -> str | None:
    """A VM's notes; None where the VM is gone."""
    try:
        values = properties(
            session, vm_object(session, vm), ("config.annotation",), doing=f"reading the notes of {vm.path}"
        )
    except ServerFault as error:
        if is_caused_by(error, GONE):
            return None
        raise
    return values.get("config.annotation") or ""


def destroy_partial_vm(session: Session, vm: VmRef, owner: Owner, *, stop: StopSignal | None = None) -> bool:
    """Destroy a VM that a restore was making, powered off first if it runs; one that is gone is fine.

    Args:
        session: The login.
        vm: The VM.
        owner: Its tag, which it must still have.
        stop: Ends the waiting, not the removal; None in clean-up.

    Returns:
        Whether there was anything to destroy.

    Raises:
        RestoreLeaked: It could not be destroyed; the message names it.
        Interrupted: ``stop`` was raised.
    """
    doing = f"destroying {vm.path}, which a restore was making"
    if not _is_of(notes_of(session, vm), owner):
        return False
    try:
        end_question(session, vm)
        # What waited for the answer may have detached disks; it says so in the notes.
        notes = notes_of(session, vm)
        if notes is None or not _is_of(notes, owner):
            return notes is None
        state = properties(session, vm_object(session, vm), ("runtime.powerState",), doing=doing)
        if _in_use(notes, state.shown("runtime.powerState")):
            raise RestoreLeaked(
                f"{vm.path} is running, so it is not destroyed, though its notes say that it is being restored",
                fix="Delete the VM in vSphere, or take that line off its notes to keep it",
            )
        if moving := moving_of(notes):
            reattach(session, vm, moving)
        _destroy(session, vm, doing=doing, stop=stop)
    except HyperExportError as error:
        if is_caused_by(error, GONE):
            return True
        raise RestoreLeaked(error.what, fix=error.fix or "Delete the VM in vSphere, or run reap-snapshots later") from (
            error.__cause__ or error
        )
    logger.info("%s: destroyed", vm.path)
    return True


def _is_of(notes: str | None, owner: Owner) -> bool:
    found = Owner.from_description(notes or "")
    return found is not None and (found.run, found.thing) == (owner.run, owner.thing)


def _destroy(session: Session, vm: VmRef, *, doing: str, stop: StopSignal | None) -> None:
    obj = vm_object(session, vm)
    state = properties(session, obj, ("runtime.powerState",), doing=doing).get("runtime.powerState")
    if state == "poweredOn":
        run_task(session, vm, obj.PowerOffVM_Task, doing=f"powering off {vm.path}", stop=stop, answer=True)
    run_task(session, vm, obj.Destroy_Task, doing=doing, stop=stop, answer=True)


def take_off_tag(session: Session, vm: VmRef, annotation: str, *, stop: StopSignal) -> None:
    """Give a VM the notes that it had when it was exported: from now on it is the user's.

    Raises:
        HyperExportError: It was not done; the VM still has its tag.
    """
    doing = f"taking the restore's tag off {vm.path}"
    # vcsim takes empty notes for no change, and so might others.
    for notes in dict.fromkeys((annotation, annotation or " ")):
        method = vm_object(session, vm).ReconfigVM_Task
        try:
            run_task(session, vm, method, vim.vm.ConfigSpec(annotation=notes), doing=doing, stop=stop, answer=True)
        except HyperExportError:
            # Its answer may have been lost on the way; what the VM has decides.
            if _is_tagged(session, vm):
                raise
        if not _is_tagged(session, vm):
            return
    raise ServerFault(
        f"{doing}: {session.address} reported success, but the tag is still there",
        fix="Set notes on the original VM and export it again: a server that cannot empty notes can replace them",
    )


def _is_tagged(session: Session, vm: VmRef) -> bool:
    values = properties(
        session, vm_object(session, vm), ("config.annotation",), doing=f"reading the notes of {vm.path}"
    )
    return Owner.from_description(values.get("config.annotation", "")) is not None


def _in_use(notes: str, power: str | None) -> bool:
    """Whether a VM with a restore's tag runs. The VM of a drill does, and is the drill's all the same."""
    return _RESTORED in notes and power not in (None, "poweredOff")
