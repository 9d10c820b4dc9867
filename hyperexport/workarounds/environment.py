"""Environment variables for Prefect, set before it is imported. Nothing here imports it."""

import logging
import os
from typing import Final

from hyperexport.base.json_logs import json_logs_wanted

WHOLE_SERVER: Final = {
    # Prefect 3.8 keeps the slots of deployments' concurrency limits in memory by default, and their holders' end with
    # it: a run that died with the machine would count as running for ever, and its schedule never fire again.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}
"""Settings of a server that lasts."""


def keep_services_quiet() -> None:
    """Keep Prefect 3.8 from warning on standard error, when a process ends, that a service is "still processing"."""
    for service in ("EventsWorker", "APILogWorker"):
        logging.getLogger(service).setLevel(logging.ERROR)


def keep_prefect_quiet() -> None:
    """Keep Prefect's own messages off the network and the terminal."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # Prefect 3.8 prints every event that waits for a server that is away; server_outage.py logs one line instead.
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
    keep_services_quiet()
    if json_logs_wanted():  # Prefect's own form of it, for the processes that hyperexport serve starts
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER", "json")
