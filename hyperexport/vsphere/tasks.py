"""Waiting for the server's tasks, however long they take, and saying how far they are."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, Final, TypeVar

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError, Interrupted, ServerBusy, ServerFault
from hyperexport.model.vm import VmRef
from hyperexport.vsphere.collector import properties, properties_of, watch
from hyperexport.vsphere.faults import CONFLICT, GONE, is_caused_by
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.questions import QuestionUnanswered, QuestionWatch
from hyperexport.vsphere.session import Session

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LONGEST_PAUSE: Final = 15.0
"""Seconds between two attempts at a call that another task is in the way of."""

_PATHS: Final = ("info.state", "info.progress", "info.error", "info.result")


class TaskVanished(ServerFault):
    """The server has dropped the finished task before its end could be read; look at what it was to change."""


def wait_task(
    session: Session,
    task: Any,
    *,
    doing: str,
    on_progress: Callable[[int], None] | None = None,
    stop: StopSignal | None = None,
    timeout: float | None = None,
    vm: VmRef | None = None,
) -> Any:
    """Wait for a task to end, and return its result.

    Args:
        session: The login.
        task: The server's task.
        doing: What it does, for error messages: "making a snapshot of db01".
        on_progress: Called with the percentage whenever the server tells one.
        stop: Waiting (not the task) ends when it is raised.
        timeout: Seconds after which waiting ends; None waits as long as the task takes (a removal may take hours).
        vm: The VM that it changes, whose questions end the waiting.

    Raises:
        HyperExportError: The task failed; the class says how.
        TaskVanished: How it ended cannot be known.
        ServerBusy: The timeout ran out.
        QuestionUnanswered: The VM asks a question, for whose answer the task would wait for ever.
        Interrupted: ``stop`` was raised.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    shown: int | None = None
    questions = QuestionWatch(session, vm, doing=doing, stop=stop) if vm else None
    try:
        for values in watch(session, task, _PATHS, doing=doing, stop=stop):
            progress = values.get("info.progress")
            if on_progress and progress is not None and progress != shown:
                on_progress(progress)
                shown = progress
            state = values.get("info.state")
            if state == "success":
                return values.get("info.result")
            if state == "error":
                fault = values["info.error"]
                raise session.error(fault, doing=doing) from fault
            if questions is not None:
                questions.look()
            if deadline is not None and time.monotonic() > deadline:
                raise ServerBusy(f"{doing} has not ended on {session.address} after {timeout:.0f} s")
    except ServerFault as error:
        if is_caused_by(error, GONE) and error.__cause__.obj == task:
            raise TaskVanished(f"{doing}: {session.address} no longer knows how it ended") from error
        raise


def unfinished_tasks(session: Session, ref: VmRef, *, doing: str, kind: str | None = None) -> list[Any]:
    """The VM's tasks that are queued or running.

    Args:
        session: The login.
        ref: The VM.
        doing: For error messages.
        kind: Only those of this ``descriptionId``, such as ``VirtualMachine.createSnapshot``.
    """
    recent = properties(session, vm_object(session, ref), ("recentTask",), doing=doing).get("recentTask", [])
    infos = properties_of(session, recent, ("info.descriptionId", "info.state"), doing=doing)
    return [
        task
        for task, info in infos
        # A task of which the state or the kind could not be read may be one of them.
        if info.shown("info.state", "running" if "info.state" in info.unread else None) in ("queued", "running")
        and (kind in (None, info.shown("info.descriptionId")) or "info.descriptionId" in info.unread)
    ]


def when_free(
    session: Session,
    ref: VmRef,
    call: Callable[[], T],
    *,
    on_progress: Callable[[int], None] | None = None,
    stop: StopSignal | None = None,
) -> T:
    """Make a call, and again each time that another task on the VM was in its way, until none is.

    Args:
        session: The login.
        ref: The VM.
        call: Safe to repeat after a TaskInProgress, which says that nothing was begun.
        on_progress: Called with the per cent of the task that is waited for.
        stop: Ends the waiting.

    Raises:
        HyperExportError: The call failed for another reason, or what is in the way waits for ever.
        Interrupted: ``stop`` was raised.
    """
    signal = stop or StopSignal()
    for attempt in count():
        try:
            return call()
        except ServerBusy as refusal:
            if not is_caused_by(refusal, CONFLICT):
                raise
            wait_for_conflicting(session, ref, refusal, on_progress=on_progress, stop=stop, said=attempt > 0)
        # What is in the way may be no task that can be seen, or one that began in between.
        signal.wait(min(0.5 * 2**attempt, _LONGEST_PAUSE))
        signal.check()
    raise AssertionError("count() does not end")


def wait_for_conflicting(
    session: Session,
    ref: VmRef,
    refusal: ServerBusy,
    *,
    on_progress: Callable[[int], None] | None = None,
    stop: StopSignal | None = None,
    said: bool = False,
) -> None:
    """Wait for the tasks that are in the way, however long they take; what comes of them is for the caller to see.

    Args:
        session: The login.
        ref: The VM.
        refusal: The server's refusal. vSphere API: TaskInProgress names the task; where none is named, the VM's
            recentTask tells which are running.
        on_progress: Called with the per cent of each.
        stop: Ends the waiting.
        said: Whether the log has it already.

    Raises:
        QuestionUnanswered: The VM asks a question, for whose answer one of them waits.
        Interrupted: ``stop`` was raised.
    """
    doing = f"waiting for another task on {ref.name}"
    named = getattr(refusal.__cause__, "task", None)
    try:
        tasks = unfinished_tasks(session, ref, doing=doing) if named is None else [named]
    except Interrupted:
        raise
    except HyperExportError as failure:
        logger.info("%s", failure)
        tasks = []
    known = [session.reference(type(task), task._GetMoId()) for task in tasks]
    if not said:
        logger.warning("%s: waiting for %s", ref.path, _whose(session, known))
    for task in known:
        try:
            wait_task(session, task, doing=doing, on_progress=on_progress, stop=stop, vm=ref)
        except (Interrupted, QuestionUnanswered):
            raise
        except HyperExportError as failure:
            logger.info("%s", failure)


def _whose(session: Session, tasks: Sequence[Any]) -> str:
    """Say what the tasks are and who began them, as far as the server tells."""
    paths = ("info.descriptionId", "info.reason", "info.startTime")
    try:
        infos = [properties(session, task, paths, doing="reading a task") for task in tasks]
    except HyperExportError:
        infos = []
    words = [_described(session, info) for info in infos if info]
    return " and ".join(words) or "another task on the VM, of which vSphere reports no details"


def _described(session: Session, info: Mapping[str, Any]) -> str:
    user = getattr(info.get("info.reason"), "userName", None)
    started = info.get("info.startTime")
    words = f"task {info.get('info.descriptionId') or 'of unknown kind'}"
    words += f" of {user}" if user else ""
    words += f", begun {started:%Y-%m-%d %H:%M:%S}" if started else ""
    if user and user.lower() == session.user.lower():
        words += (
            ", which is this run's own user: another export, or the lease of a run that died, which vSphere ends "
            "within minutes"
        )
    return words
