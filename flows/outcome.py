"""How a flow ends when it fails: with one sentence, in the state's message and in the log.

Prefect logs a traceback for every exception that leaves a flow. For the errors that we raise for people, the sentence
says it all; so the flow returns its Failed state, from which Prefect raises the same error for a caller in Python.
Whatever is not of our family is a defect, and keeps its traceback.
"""

import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from prefect.states import Failed

from hyperexport.errors import HyperExportError

logger = logging.getLogger("hyperexport.flows")

P = ParamSpec("P")
R = TypeVar("R")


def told_in_words(function: Callable[P, R]) -> Callable[P, R]:
    """Let a flow's function fail with words in place of a traceback."""

    @wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except HyperExportError as error:
            logger.error("%s [%s]", error, error.code)
            logger.debug("the traceback", exc_info=True)
            return cast("R", Failed(message=f"{error} [{error.code}]", data=error))

    return told
