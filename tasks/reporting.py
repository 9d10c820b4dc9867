"""What becomes of a run's reports while the Prefect server is away: they wait for it, a while, and never the bytes.

Prefect's own client gives up after a minute, and the run then counts as running for ever. So whoever is done with its
work waits here until the server answers again, and only then reports. A backup outlives its orchestrator: where the
server stays away, the run ends as it would have ended, with a warning.
"""

import logging
import os
import threading
import time
from contextlib import AbstractContextManager
from typing import Final

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

logger = logging.getLogger("hyperexport.prefect")

SECONDS_AT_A_TERMINAL: Final = 60.0
SECONDS_ON_A_WORKER: Final = 1800.0
"""How long a run that is done waits for the server: nobody waits for a worker's, and its state is all that is told."""

_SECONDS_FOR_AN_ANSWER: Final = 5.0
_SECONDS_BETWEEN_LOOKS: Final = 1.0

_gone = threading.Event()


def wait_for_prefect(seconds: float | None = None) -> bool:
    """Wait until the Prefect server answers; at once where it does, and where it was waited for in vain before.

    Args:
        seconds: How long; if None, long in a process that a worker has started and short at a terminal.

    Returns:
        Whether it answers.
    """
    if _answers():
        _gone.clear()
        return True
    if _gone.is_set():
        return False
    if seconds is None:
        seconds = SECONDS_ON_A_WORKER if os.environ.get("PREFECT__FLOW_RUN_ID") else SECONDS_AT_A_TERMINAL
    logger.warning("Prefect does not answer: waiting up to %.0f s for it, to report what was done", seconds)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        if _answers():
            logger.warning("Prefect answers again")
            return True
    _gone.set()
    logger.warning("Prefect still does not answer: what was done stands, and the run's state there does not say so")
    return False


def without_client_retries() -> AbstractContextManager[object]:
    """While the block runs, what Prefect's client asks is asked once."""
    return temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0})


def prefect_is_unreachable() -> bool:
    """Whether it was waited for in vain: nothing more can be reported, and nothing should wait to try."""
    return _gone.is_set()


def _answers() -> bool:
    with (
        without_client_retries(),
        get_client(sync_client=True, httpx_settings={"timeout": _SECONDS_FOR_AN_ANSWER}) as client,
    ):
        return client.api_healthcheck() is None
