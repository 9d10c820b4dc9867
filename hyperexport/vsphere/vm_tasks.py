"""Tasks on a VM: begun, waited for, and begun again where another task was in their way."""

import logging
from typing import Any, Final

from hyperexport.base.stop import StopSignal
from hyperexport.errors import ServerBusy, ServerFault, ServerUnreachable
from hyperexport.model.vm import VmRef
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.questions import QuestionUnanswered, answer_question
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.tasks import unfinished_tasks, wait_task, when_free

logger = logging.getLogger(__name__)

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
    answer: bool = False,
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
        answer: Whether a question of the VM is answered by its default. Only for VMs that are ours.

    Raises:
        HyperExportError: It failed; the class says how.
        ServerBusy: It has not ended in that time.
        QuestionUnanswered: The VM asks a question, which is not answered.
        Interrupted: ``stop`` was raised.
    """

    def once() -> Any:
        task = session.call(method, *args, doing=doing)
        limit = _UNDO_TIMEOUT if stop is None else timeout
        try:
            return wait_task(session, task, doing=doing, stop=stop, timeout=limit, vm=vm)
        except QuestionUnanswered:
            if not answer:
                raise
        answer_question(session, vm)
        return wait_task(session, task, doing=doing, stop=stop, timeout=limit, vm=vm)

    return when_free(session, vm, once, stop=stop)


def power_on(session: Session, vm: VmRef, *, stop: StopSignal, timeout: float | None = None) -> None:
    """Power a VM on.

    Args:
        session: The login.
        vm: The VM.
        stop: Ends the waiting.
        timeout: Seconds that it may take.

    Raises:
        HyperExportError: It is not on.
    """
    method = vm_object(session, vm).PowerOnVM_Task
    run_task(session, vm, method, doing=f"powering on {vm.path}", stop=stop, timeout=timeout)


def end_question(session: Session, vm: VmRef) -> None:
    """Answer the question that a VM asks, if it does, by its default, and wait for the task that waited for it.

    Nothing else on the VM is possible before, not even its removal. Only for VMs that are ours.

    Raises:
        HyperExportError: The answer was refused, or the task goes on.
    """
    if not answer_question(session, vm):
        return
    doing = f"waiting for what {vm.path} has asked about"
    for task in unfinished_tasks(session, vm, doing=doing):
        try:
            wait_task(session, task, doing=doing, timeout=_UNDO_TIMEOUT)
        except (ServerBusy, ServerUnreachable):
            raise
        except ServerFault as error:  # it has ended, in whatever way
            logger.info("%s", error)
