"""Taking slots of a global concurrency limit with slot decay, as a budget that several runs share."""

import contextvars
from http import HTTPStatus

from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import PrefectHTTPStatusError

from hyperexport.workarounds.server_outage import without_client_retries


def context_without_client_retries() -> contextvars.Context:
    """A context for a thread of its own in which Prefect's client sends each request once.

    Prefect 3.8 keeps temporary settings in a context variable, and a new thread starts with the defaults.
    """
    with without_client_retries():
        return contextvars.copy_context()


def take_rate_limit_slots(client: SyncPrefectClient, name: str, slots: int) -> bool:
    """Take slots of a limit that has been seen to have them free; False if another run took them first.

    Never call it to find out whether slots are free. When Prefect 3.8 denies a request, it renews the time from which
    the limit's decay counts and does not write the decay down: the slots that had come back are lost.
    """
    try:
        client.increment_concurrency_slots([name], slots, mode="rate_limit")
    except PrefectHTTPStatusError as error:
        if error.response.status_code != HTTPStatus.LOCKED:
            raise
        return False
    return True
