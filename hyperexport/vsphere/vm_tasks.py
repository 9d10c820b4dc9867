"""Tasks on a VM: begun, waited for, and begun again where another task was in their way."""

from typing import Any, Final

from hyperexport.base.stop import StopSignal
from hyperexport.model.vm import VmRef
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.tasks import wait_task, when_free

_UNDO_TIMEOUT: Final = 120.0
"""Seconds that a task of a clean-up may take."""


def run_task(session: Session, vm: VmRef, method: Any, *args: Any, doing: str, stop: StopSignal | None = None) -> Any:
    """Call a method that begins a task on a VM, wait for it, and again where another task was in its way.

    Raises:
        HyperExportError: It failed; the class says how.
        Interrupted: ``stop`` was raised.
    """

    def once() -> Any:
        task = session.call(method, *args, doing=doing)
        return wait_task(session, task, doing=doing, stop=stop, timeout=_UNDO_TIMEOUT if stop is None else None)

    return when_free(session, vm, once, stop=stop)


def power_on(session: Session, vm: VmRef, *, stop: StopSignal) -> None:
    """Power a VM on.

    Raises:
        HyperExportError: It is not on.
    """
    doing = f"powering on {vm.path}"
    run_task(session, vm, vm_object(session, vm).PowerOnVM_Task, doing=doing, stop=stop)
