"""How a flow ends when it fails: with one sentence, in the state's message and in the log.

Prefect logs a traceback for every exception that leaves a flow. For the errors that we raise for people, the sentence
says it all; so the flow returns its Failed state, from which Prefect raises the same error for a caller in Python.
Whatever is not of our family is a defect, and keeps its traceback.

And how it ends when Prefect cannot be told: as it would have ended, after a wait for the server.
"""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar, cast

from prefect.states import Failed

from hyperexport.errors import HyperExportError
from tasks.reporting import prefect_is_gone, wait_for_prefect

logger = logging.getLogger("hyperexport.flows")

P = ParamSpec("P")
R = TypeVar("R")

_outcomes: Final[ContextVar[list[Any] | None]] = ContextVar("outcomes of the flow that was called", default=None)


def told_in_words(function: Callable[P, R]) -> Callable[P, R]:
    """Let a flow's function fail with words in place of a traceback, and report when the server can hear it."""

    @wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        with _kept_for_caller() as kept:
            try:
                outcome = function(*args, **kwargs)
                kept.append(outcome)
            except HyperExportError as error:
                logger.error("%s [%s]", error, error.code)
                logger.debug("the traceback", exc_info=True)
                outcome = cast("R", Failed(message=f"{error} [{error.code}]", data=error))
                kept.append(error)
        wait_for_prefect()
        return outcome

    return told


@contextmanager
def _kept_for_caller() -> Generator[list[Any]]:
    """Where the outcome is put for whoever called the flow. Those of flows that are called within it are their own.

    A function of its own, because Prefect pickles a flow with the globals that it names, and a ContextVar cannot be.
    """
    kept = _outcomes.get()
    token = _outcomes.set(None)
    try:
        yield [] if kept is None else kept
    finally:
        _outcomes.reset(token)


def despite_prefect(flow: Callable[P, R]) -> Callable[P, R]:
    """Call a flow so that it ends as its function does, even where its end could not be reported.

    Prefect raises the error of its own client then, and the result is lost with it.
    """

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        outcomes: list[Any] = []
        token = _outcomes.set(outcomes)
        try:
            return flow(*args, **kwargs)
        except Exception:
            if not outcomes or not prefect_is_gone():
                raise
        finally:
            _outcomes.reset(token)
        if isinstance(outcomes[0], HyperExportError):
            raise outcomes[0]
        return outcomes[0]

    return call
