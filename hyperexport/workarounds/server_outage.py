"""How a run ends while the Prefect server does not answer: it waits for the server, and then ends as its work did.

Prefect 3.8 reports a run's end with the retries of its client, about a minute; after that the run counts as running for
ever, and a successful run raises the client's error. So a run that has done its work waits here until the server
answers again, and only then reports. Where the server stays away, the run ends as it would have ended, with a warning.
"""

import logging
import os
import ssl
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from http import HTTPStatus
from typing import Final, TypeVar

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import SettingsContext, get_settings_context
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

T = TypeVar("T")

logger = logging.getLogger("hyperexport.prefect")

SECONDS_AT_A_TERMINAL: Final = 60.0
SECONDS_ON_A_WORKER: Final = 1800.0
"""How long a finished run waits for the server. On a worker no user waits for it, and its state is its only report."""

SECONDS_WHILE_BUSY: Final = 20.0
"""How long a request is sent again to a server that refuses it for the moment."""

_SECONDS_FOR_AN_ANSWER: Final = 5.0
_SECONDS_FOR_A_REQUEST: Final = 10.0
_SECONDS_BETWEEN_LOOKS: Final = 1.0

_gone = threading.Event()  # of the process: whether one server answers is the same for every run and thread in it


def wait_for_prefect(seconds: float | None = None) -> bool:
    """Wait until the Prefect server answers; return at once if it does, or if an earlier wait ran out.

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
    logger.warning("Prefect still does not answer: the work is done, but Prefect does not show it")
    return False


@contextmanager
def client_retries(count: int) -> Generator[None]:
    """Have Prefect's client send each request that fails this often again while the block runs.

    As Prefect's ``temporary_settings``, which in Prefect 3.8 reads all settings anew from their sources: that takes a
    sixth of a second of processor time.
    """
    context = get_settings_context()
    client = context.settings.client.model_copy(update={"max_retries": count})
    settings = context.settings.model_copy(update={"client": client})
    with SettingsContext(profile=context.profile, settings=settings):
        yield


def few_client_retries() -> AbstractContextManager[object]:
    """Have Prefect's client try each request twice while the block runs.

    Prefect 3.8 tries six times by default, for about a minute. What is shown anew every few seconds must not wait so
    long for what is out of date by then.
    """
    return client_retries(1)


def without_client_retries() -> AbstractContextManager[object]:
    """Have Prefect's client send each request once while the block runs."""
    return client_retries(0)


@contextmanager
def impatient_client(seconds: float) -> Generator[SyncPrefectClient]:
    """Open a client that sends each request once, and waits this long for each answer.

    Prefect's clients load the CA certificates when they are created, also for an address without TLS.
    """
    url = PREFECT_API_URL.value() or ""
    plain = {"verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)} if url.startswith("http://") else {}
    with without_client_retries(), get_client(sync_client=True, httpx_settings={"timeout": seconds, **plain}) as client:
        yield client


def request_once(request: Callable[[SyncPrefectClient], T]) -> T:
    """Send a request to a server that may be away, without waiting long for it.

    A server that answers 503 is not away: Prefect 3.8 on SQLite does so while another request writes. The request is
    then sent again, for up to 20 s.

    Raises:
        httpx.HTTPError: The server did not answer in 10 s, or refused the request.
    """
    with impatient_client(_SECONDS_FOR_A_REQUEST) as client:
        retrying = Retrying(
            retry=retry_if_exception(is_refused_for_now),
            wait=wait_random_exponential(multiplier=0.1, max=2),
            stop=stop_after_delay(SECONDS_WHILE_BUSY),
            reraise=True,
        )
        return retrying(request, client)


def is_refused_for_now(error: BaseException) -> bool:
    """Whether the server refused a request only for the moment."""
    return isinstance(error, PrefectHTTPStatusError) and error.response.status_code == HTTPStatus.SERVICE_UNAVAILABLE


def prefect_is_unreachable() -> bool:
    """Whether a wait ran out: nothing more can be reported, and nothing should wait to try."""
    return _gone.is_set()


def exit_if_unreachable(code: int) -> None:
    """End the process at once if the server is gone: Prefect's exit hooks would try for minutes to send it events."""
    if prefect_is_unreachable():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _answers() -> bool:
    try:
        with impatient_client(_SECONDS_FOR_AN_ANSWER) as client:
            return client.api_healthcheck() is None
    except Exception as error:  # noqa: BLE001 - the run ends as it would have ended
        logger.info("Prefect cannot be asked: %s", type(error).__name__)
        return False
