"""The engine's log lines, sent to Prefect with the run that they belong to.

The engine logs with ``logging``, as any library does. Prefect's own setting for extra loggers is read before our code
is imported in a worker, so its handler is attached here; records from outside a run are let through to the console
only.
"""

import logging
from functools import cache

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler

from hyperexport.base.text import one_line


@cache
def send_engine_logs_to_prefect() -> None:
    """Attach Prefect's handler to the engine's logger; once per process."""
    logger = logging.getLogger("hyperexport")
    handler = APILogHandler()
    handler.addFilter(_harmless)
    handler.addFilter(_in_a_run)
    logger.addHandler(handler)
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)


def _harmless(record: logging.LogRecord) -> bool:
    """Make one line of what is logged, for this handler and those after it, the console's among them.

    A VM's name with a line break in it would otherwise be a log line that nobody wrote.
    """
    record.msg, record.args = one_line(record.getMessage()), None
    return True


def _in_a_run(record: logging.LogRecord) -> bool:
    del record
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None
