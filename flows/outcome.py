"""How a flow fails: with one sentence, in the state's message and in the log.

Prefect logs a traceback for every exception that leaves a flow. An error of our own says in its sentence what failed
and what to do, so the flow returns its Failed state, from which Prefect raises the same error for a caller in Python.
What Prefect's client raises becomes one of them. Any other exception is a defect, and keeps its traceback.
"""

import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from prefect.states import Failed

from hyperexport.errors import HyperExportError
from hyperexport.prefect_errors import of_prefect
from hyperexport.tasks.attempts import will_retry
from hyperexport.tasks.failure_records import record_failure
from hyperexport.tasks.logs import quieten_prefect, send_engine_logs_to_prefect
from hyperexport.tasks.run_keys import announce_run_end
from hyperexport.workarounds.flow_calls import current_call
from hyperexport.workarounds.server_outage import wait_for_prefect, without_client_retries

logger = logging.getLogger("hyperexport.flows")

P = ParamSpec("P")
R = TypeVar("R")


def report_failures(function: Callable[P, R]) -> Callable[P, R]:
    """Have a flow's function fail with one sentence instead of a traceback, reported once the server answers."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        send_engine_logs_to_prefect()
        quieten_prefect()
        began = time.monotonic()
        with current_call() as call:
            call.began = True
            try:
                outcome = function(*args, **kwargs)
                call.outcomes.append(outcome)
            except Exception as error:
                ours = error if isinstance(error, HyperExportError) else of_prefect(error)
                if ours is None:
                    if not will_retry():
                        _show(error, function, args, kwargs, seconds=time.monotonic() - began)
                    raise
                logger.error("%s [%s]", ours, ours.code)
                logger.debug("the traceback", exc_info=True)
                if will_retry():  # of a flow that returns its failed state, Prefect 3.8 retries nothing
                    if ours is error:
                        raise
                    raise ours from error
                outcome = cast("R", Failed(message=f"{ours} [{ours.code}]", data=ours))
                call.outcomes.append(ours)
                record_failure(ours)
                _show(ours, function, args, kwargs, seconds=time.monotonic() - began)
            finally:
                announce_run_end()
        if not wait_for_prefect() and call.ends:
            # Prefect tries to report the end, and then its own failure to, each for a minute.
            call.after.enter_context(without_client_retries())
        return outcome

    return wrapped


def _show(error: Exception, function: Callable[..., Any], args: Any, kwargs: Any, *, seconds: float) -> None:
    """Leave the closing page of a failed run. Its templates are loaded only now: most runs do not fail."""
    from hyperexport.flows.failure_page import show_failure  # noqa: PLC0415

    show_failure(error, function, args, kwargs, seconds=seconds)
