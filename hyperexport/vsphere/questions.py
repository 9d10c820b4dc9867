"""Questions that a VM asks: while one stands its task waits for ever, and so would everybody who waits for the task."""

import logging
import time
from typing import Any, Final

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError, Interrupted, ServerFault
from hyperexport.model.vm import VmRef
from hyperexport.vsphere.collector import properties
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.session import Session

logger = logging.getLogger(__name__)

SECONDS_FOR_AN_ANSWER: Final = 5.0
"""How long a question may stand: a host can be set to answer some by itself."""

_FIRST_GAP: Final = 1.0
_LONGEST_GAP: Final = 15.0


class QuestionUnanswered(ServerFault):
    """A task waits for the answer to a VM's question."""


class QuestionWatch:
    """Looks for a question of a VM while a task on it runs.

    Args:
        session: The login.
        vm: The VM.
        doing: What the task does, for the error's message.
        stop: Ends the looking.
    """

    def __init__(self, session: Session, vm: VmRef, *, doing: str, stop: StopSignal | None = None) -> None:
        self._session = session
        self._vm = vm
        self._doing = doing
        self._stop = stop
        self._began = time.monotonic()
        self._next = self._began + _FIRST_GAP
        self._asked: float | None = None

    def look(self) -> None:
        """Look whether the VM asks; less often the longer the task runs.

        Raises:
            QuestionUnanswered: A question has been standing for some seconds.
        """
        now = time.monotonic()
        if now < self._next:
            return
        try:
            question = standing_question(self._session, self._vm, doing=self._doing)
        except Interrupted:
            raise
        except HyperExportError as error:  # how the task ends is for its own wait to see
            logger.debug("%s", error)
            question = None
        self._asked = None if question is None else self._asked or now
        if self._asked is None:
            self._next = now + min(_LONGEST_GAP, _FIRST_GAP + (now - self._began) / 10)
            return
        self._next = now + _FIRST_GAP
        if now - self._asked >= SECONDS_FOR_AN_ANSWER:
            raise QuestionUnanswered(
                f"{self._doing}: vSphere waits for an answer to a question of {self._vm.name}: {question.text}",
                fix="Answer the VM's question in the vSphere client; vSphere continues the task then",
            )


def standing_question(session: Session, vm: VmRef, *, doing: str) -> Any | None:
    """The question that a VM asks now (vim.vm.QuestionInfo); None if there is none."""
    return properties(session, vm_object(session, vm), ("runtime.question",), doing=doing).shown("runtime.question")


def answer_question(session: Session, vm: VmRef) -> bool:
    """Answer the question that a VM asks, if it does, by its default. Only for VMs that are ours.

    Returns:
        Whether there was one.

    Raises:
        HyperExportError: The answer was refused.
    """
    doing = f"answering the question of {vm.path}"
    question = standing_question(session, vm, doing=doing)
    if question is None:
        return False
    choices = question.choice.choiceInfo
    default = choices[question.choice.defaultIndex or 0]
    session.call(vm_object(session, vm).AnswerVM, question.id, default.key, doing=doing)
    logger.info("%s: answered %r to: %s", vm.path, default.label, question.text)
    return True
