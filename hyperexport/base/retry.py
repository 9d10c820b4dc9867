"""Steps that start from nothing each time, tried again where the failure may pass: the error's type decides."""

import logging
import random
from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec, TypeVar

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError

logger = logging.getLogger(__name__)

RETRY_DELAYS: Final = (1.0, 3.0, 5.0)
"""Seconds. A run that is stopped begins to clean up within ten, and a Prefect task that waits here hears no signal."""

JITTER: Final = 0.3
"""A pause is longer by up to this part of it, so that several who failed together do not come back together."""

P = ParamSpec("P")
R = TypeVar("R")


def is_transient(error: object) -> bool:
    """Tell whether a step that failed so may be tried again: the error's type decides, never its text."""
    return isinstance(error, HyperExportError) and error.transient


def with_retries(step: Callable[P, R], stop: StopSignal, what: str | None = None) -> Callable[P, R]:
    """Have a step tried again while its failure is transient; a stopped run does not wait.

    Under Prefect the task does this, with the same pauses (``tasks/step.py``); never both.

    Args:
        step: The step.
        stop: The run's stop signal.
        what: What it is called in the log; after its function if None.
    """
    name = what or str(getattr(step, "__name__", "step")).replace("_", " ")

    @wraps(step)
    def repeated(*args: P.args, **kwargs: P.kwargs) -> R:
        for attempt, delay in enumerate(RETRY_DELAYS, start=1):
            try:
                return step(*args, **kwargs)
            except Exception as error:
                if not is_transient(error):
                    raise
                logger.warning("%s: attempt %d failed, trying again: %s", name, attempt, error)
            stop.wait(delay + random.uniform(0, JITTER * delay))  # noqa: S311 - no secret hangs on it
            stop.check()
        return step(*args, **kwargs)

    return repeated
