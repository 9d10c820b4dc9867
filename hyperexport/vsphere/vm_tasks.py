"""Tasks on a VM: begun, waited for, and begun again where another task was in their way."""

from typing import Any, Final

from hyperexport.base.stop import StopSignal
from hyperexport.model.vm import VmRef
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.tasks import wait_task, when_free

_UNDO_TIMEOUT: Final = 120.0
"""Seconds that a task of a clean-up may take."""


def run_task(
    session: Session,
    vm: VmRef,
    method: Any,
    *args: Any,
    doing: str,
    stop: StopSignal | None = None,
    timeout: float | None = None,
) -> Any:
    """Call a method that begins a task on a VM, wait for it, and again where another task was in its way.

    Args:
        session: The login.
        vm: The VM.
        method: The method.
        args: Its arguments.
        doing: For error messages.
        stop: Ends the waiting, not the task; None in clean-up, which waits for two minutes.
        timeout: Seconds that the task may take, with ``stop``; as long as it takes if None.

    Raises:
        HyperExportError: It failed; the class says how.
        ServerBusy: It has not ended in that time.
        Interrupted: ``stop`` was raised.
    """

    def once() -> Any:
        task = session.call(method, *args, doing=doing)
        return wait_task(session, task, doing=doing, stop=stop, timeout=_UNDO_TIMEOUT if stop is None else timeout)

    return when_free(session, vm, once, stop=stop)


def power_on(session: Session, vm: VmRef, *, stop: StopSignal, timeout: float | None = None) -> None:
    """Power a VM on.

    Args:
        session: The login.
        vm: The VM.
        stop: Ends the waiting.
        timeout: Seconds that it may take: vSphere can wait for an answer to a question of the VM for ever.

    Raises:
        HyperExportError: It is not on.
    """
    doing = f"powering on {vm.path}"
    run_task(session, vm, vm_object(session, vm).PowerOnVM_Task, doing=doing, stop=stop, timeout=timeout)
