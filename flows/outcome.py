"""How a flow ends when it fails: with one sentence, in the state's message and in the log.

Prefect logs a traceback for every exception that leaves a flow. For the errors that we raise for people, the sentence
says it all; so the flow returns its Failed state, from which Prefect raises the same error for a caller in Python.
Whatever is not of our family is a defect, and keeps its traceback.

And how it ends when Prefect cannot be told: as it would have ended, after a wait for the server. How it begins when
Prefect refuses it for the moment, too: a moment later.
"""

import logging
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import wraps
from http import HTTPStatus
from typing import Any, Final, ParamSpec, TypeVar, cast

from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Failed
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from hyperexport.errors import HyperExportError
from hyperexport.flows.failure_page import show_failure
from hyperexport.tasks.attempts import will_retry
from hyperexport.tasks.failure_records import record_failure
from hyperexport.tasks.logs import quieten_prefect, send_engine_logs_to_prefect
from hyperexport.tasks.reporting import wait_for_prefect, without_client_retries
from hyperexport.tasks.run_keys import announce_run_end

logger = logging.getLogger("hyperexport.flows")

P = ParamSpec("P")
R = TypeVar("R")

SECONDS_TO_BEGIN: Final = 300.0
"""How long a run asks to be entered while Prefect refuses it for the moment."""


class _Call:
    """A flow that somebody called, and what came of its function."""

    def __init__(self) -> None:
        self.outcomes: list[Any] = []
        self.began = False
        """Whether the function began: then Prefect has entered its run."""
        self.after = ExitStack()
        """What holds from the end of the function to the end of the call."""
        self.ends = False
        """Whether somebody closes that, because :func:`tolerate_server_outage` called."""


_call: Final[ContextVar[_Call | None]] = ContextVar("the flow that was called", default=None)


def report_failures(function: Callable[P, R]) -> Callable[P, R]:
    """Let a flow's function fail with words in place of a traceback, and report when the server can hear it."""

    @wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        send_engine_logs_to_prefect()
        quieten_prefect()
        began = time.monotonic()
        with _for_caller() as call:
            call.began = True
            try:
                outcome = function(*args, **kwargs)
                call.outcomes.append(outcome)
            except HyperExportError as error:
                logger.error("%s [%s]", error, error.code)
                logger.debug("the traceback", exc_info=True)
                if will_retry():
                    raise  # of a flow that returns its failed state, Prefect 3.8 retries nothing
                outcome = cast("R", Failed(message=f"{error} [{error.code}]", data=error))
                call.outcomes.append(error)
                record_failure(error)
                show_failure(error, function, args, kwargs, seconds=time.monotonic() - began)
            except Exception as error:
                if not will_retry():
                    show_failure(error, function, args, kwargs, seconds=time.monotonic() - began)
                raise
            finally:
                announce_run_end()
        if not wait_for_prefect() and call.ends:
            # Prefect tries to report the end, and then its own failure to, each for a minute.
            call.after.enter_context(without_client_retries())
        return outcome

    return told


@contextmanager
def _for_caller() -> Generator[_Call]:
    """Where the outcome is put for whoever called the flow. Those of flows that are called within it are their own.

    A function of its own, because Prefect pickles a flow with the globals that it names, and a ContextVar cannot be.
    """
    call = _call.get()
    token = _call.set(None)
    try:
        yield _Call() if call is None else call
    finally:
        _call.reset(token)


def tolerate_server_outage(flow: Callable[P, R]) -> Callable[P, R]:
    """Call a flow so that it begins though Prefect is busy, and ends as its function does though Prefect is gone.

    What the flow's own function raised or returned is what the caller gets, not the server's answer: where the end
    cannot be reported, Prefect raises the error of its own client, and where the server answers late, a ``FailedRun``
    in place of the error.
    A server on SQLite with many connections refuses a run that is to be entered now and then, with 503; Prefect's
    client asks six times, and after that the run would have failed.
    """

    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        call = _Call()
        call.ends = True
        asking = Retrying(
            retry=retry_if_exception(lambda error: not call.began and _is_refused_for_the_moment(error)),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            stop=stop_after_delay(SECONDS_TO_BEGIN),
            reraise=True,
        )
        token = _call.set(call)
        try:
            with call.after:
                return asking(flow, *args, **kwargs)
        except Exception:
            if not call.outcomes:
                raise
        finally:
            _call.reset(token)
        if isinstance(call.outcomes[-1], HyperExportError):
            raise call.outcomes[-1]
        return call.outcomes[-1]

    return called


def _is_refused_for_the_moment(error: BaseException) -> bool:
    return isinstance(error, PrefectHTTPStatusError) and error.response.status_code == HTTPStatus.SERVICE_UNAVAILABLE
