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
from hyperexport.errors import HyperExportError
from hyperexport.workarounds.environment import keep_services_quiet


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


@cache
def quieten_prefect() -> None:
    """Leave out of Prefect's own log lines about our flows what says nothing; once per process.

    These are the line of each step that succeeded, which its run in the UI says, too, and the traceback of an error
    that is written for people. At level DEBUG everything stays, and other flows' lines do at every level.
    """
    keep_services_quiet()
    logging.getLogger("prefect.task_runs").addFilter(_no_success_of_a_step)
    for name in ("prefect.task_runs", "prefect.flow_runs"):
        logging.getLogger(name).addFilter(_words_for_traceback)
    for name in ("prefect.flow_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_no_traceback_after_the_run)


def _no_success_of_a_step(record: logging.LogRecord) -> bool:
    return not (record.getMessage() == "Finished in state Completed()" and _in_our_flow()) or _debugging()


def _words_for_traceback(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HyperExportError) and _in_our_flow() and not _debugging():
        record.msg = record.getMessage().replace(repr(error), f"{error} [{error.code}]")
        record.args, record.exc_info = None, None
    return True


def _no_traceback_after_the_run(record: logging.LogRecord) -> bool:
    """Leave out that the process of a run ends for an error of ours: its state says so, and its words are logged.

    A process that runs nothing but one flow run logs it (prefect.flow_engine.run_flow, prefect.engine), outside of it.
    """
    ours = record.exc_info is not None and isinstance(record.exc_info[1], HyperExportError)
    return not ours or FlowRunContext.get() is not None or _debugging()


def _in_our_flow() -> bool:
    context = FlowRunContext.get()
    return context is not None and context.flow is not None and context.flow.fn.__module__.startswith("hyperexport.")


def _debugging() -> bool:
    return logging.getLogger("hyperexport").isEnabledFor(logging.DEBUG)


def _harmless(record: logging.LogRecord) -> bool:
    """Make one line of what is logged, for this handler and those after it, the console's among them.

    A VM's name with a line break in it would otherwise forge a log line.
    """
    record.msg, record.args = one_line(record.getMessage()), None
    return True


def _in_a_run(record: logging.LogRecord) -> bool:
    del record
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None
