"""Tasks on a VM: begun, waited for, and begun again where another task was in their way."""

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from hyperexport.base.stop import StopSignal
from hyperexport.errors import ServerFault
from hyperexport.model.vm import VmRef
from hyperexport.vsphere.collector import properties
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.tasks import unfinished_tasks, wait_task, when_free

logger = logging.getLogger(__name__)

SECONDS_FOR_AN_ANSWER: Final = 5.0
"""How long a VM's question may stand while it is powered on: a host can be set to answer some by itself."""

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
    on_tick: Callable[[], None] | None = None,
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
        on_tick: Called about every second while the task runs; what it raises ends the waiting.

    Raises:
        HyperExportError: It failed; the class says how.
        ServerBusy: It has not ended in that time.
        Interrupted: ``stop`` was raised.
    """

    def once() -> Any:
        task = session.call(method, *args, doing=doing)
        limit = _UNDO_TIMEOUT if stop is None else timeout
        return wait_task(session, task, doing=doing, stop=stop, timeout=limit, on_tick=on_tick)

    return when_free(session, vm, once, stop=stop)


def power_on(session: Session, vm: VmRef, *, stop: StopSignal, timeout: float | None = None) -> None:
    """Power a VM on.

    Args:
        session: The login.
        vm: The VM.
        stop: Ends the waiting.
        timeout: Seconds that it may take.

    Raises:
        HyperExportError: It is not on. Where the VM asks a question, vSphere would wait for its answer for ever.
    """
    doing = f"powering on {vm.path}"
    asked: float | None = None

    def look_for_question() -> None:
        nonlocal asked
        values = properties(session, vm_object(session, vm), ("runtime.question",), doing=doing)
        question = values.shown("runtime.question")
        asked = None if question is None else asked or time.monotonic()
        if question is not None and asked is not None and time.monotonic() - asked >= SECONDS_FOR_AN_ANSWER:
            raise ServerFault(
                f"{doing}: vSphere waits for an answer: {question.text}",
                fix="Answer the VM's question in the vSphere client; it goes on by itself then",
            )

    method = vm_object(session, vm).PowerOnVM_Task
    run_task(session, vm, method, doing=doing, stop=stop, timeout=timeout, on_tick=look_for_question)


def end_power_on(session: Session, vm: VmRef) -> None:
    """Answer the question that a VM asks while it is powered on, if it does, by its default: the task ends then.

    Nothing else on the VM is possible before, not even its removal. Only for VMs that are ours.

    Raises:
        HyperExportError: The answer was refused, or the task goes on.
    """
    doing = f"answering the question of {vm.path}"
    obj = vm_object(session, vm)
    question = properties(session, obj, ("runtime.question",), doing=doing).get("runtime.question")
    if question is None:
        return
    choices = question.choice.choiceInfo
    default = choices[question.choice.defaultIndex or 0]
    logger.info("%s: answered %r to: %s", vm.path, default.label, question.text)
    session.call(obj.AnswerVM, question.id, default.key, doing=doing)
    for task in unfinished_tasks(session, vm, doing=doing):
        wait_task(session, task, doing=doing, timeout=_UNDO_TIMEOUT)
