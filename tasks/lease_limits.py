"""How many export leases all runs on all workers hold at once, on one host and on one vCenter.

Each limit is a Prefect global concurrency limit of leases, named for its place, made with the first export that asks
for it, and from then on its administrator's. A VM takes its slots together and *before its snapshot is made*: a
snapshot that waits for a slot grows. Slots are held by a lease of Prefect's own, which a dead process does not renew.
Where the server does not answer, the run continues at its own limits, with one warning.

Prefect's own ``concurrency()`` does the same, but asks a full limit again after up to 30 s, logs each denial as an
error, and hands a server that is away at the end of the block to its caller.
"""

import contextvars
import logging
import random
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Final
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError

from hyperexport.errors import HyperExportError, UsageError
from hyperexport.jobs.runner import LeaseUser
from hyperexport.workarounds.rate_limits import context_without_client_retries

logger = logging.getLogger(__name__)

SECONDS_FOR_AN_ANSWER: Final = 5.0
SERVER_TIMEOUT: Final = 30.0
"""How many seconds a server that does not answer is asked again before the run continues without it."""

SLOT_SECONDS: Final = 120.0
"""After this the slots of a process that died are free, and a server may be away for almost as long."""

SECONDS_BETWEEN_RENEWALS: Final = SLOT_SECONDS / 8


@contextmanager
def lease_slots(job: LeaseUser) -> Generator["Slots"]:
    """Hold as many lease slots as the VM's disks need, of every limit that the options name, while the block runs.

    Raises:
        UsageError: A limit was set to 0, so no run could start.
        Interrupted: The run was asked to stop while it waited.
    """
    wanted = max(1, min(job.options.execution.parallel, job.leases))
    limits = limits_of(job)
    if not limits:
        yield Slots(wanted)
        return
    context = context_without_client_retries()  # the loops below retry
    with ExitStack() as stack:
        try:
            client = stack.enter_context(
                get_client(sync_client=True, httpx_settings={"timeout": SECONDS_FOR_AN_ANSWER})
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the export continues
            job.warn(f"the limit of NFC leases cannot be read ({type(error).__name__}): continuing without it")
            yield Slots(wanted)
            return
        slots = context.run(_wait_for_slots, job, client, limits, wanted)
        try:
            yield slots
        finally:
            slots.release()


def limits_of(job: LeaseUser) -> dict[str, int]:
    """The limits that concern a VM, by their names, each with the slots to make it with."""
    wanted = job.options.execution
    vcenter, on = job.session.address, job.host
    host = {limit_name(vcenter, on): wanted.leases_per_host} if on and wanted.leases_per_host else {}
    return host | ({limit_name(vcenter): wanted.leases_per_vcenter} if wanted.leases_per_vcenter else {})


def limit_name(vcenter: str, host: str | None = None) -> str:
    """What the limit of a vCenter, or of one host of it, is called in Prefect."""
    return f"leases {vcenter} {host}" if host else f"leases {vcenter}"


class Slots:
    """What a VM holds of the limits; renewed by a thread of its own until it is given back.

    Args:
        max_concurrency: How many disks may move at once.
        client: Open; the thread's from now on. None where nothing is held.
        lease: Prefect's lease on the slots.
    """

    def __init__(
        self, max_concurrency: int, client: SyncPrefectClient | None = None, lease: UUID | None = None
    ) -> None:
        self.max_concurrency: Final = max_concurrency
        self._client = client
        self._lease = lease
        self._over = threading.Event()
        # Settings are the context's, and a new thread has none.
        self._context = contextvars.copy_context()
        context = self._context.copy()
        self._thread = threading.Thread(target=lambda: context.run(self._renew), name="lease-slots", daemon=True)
        if lease:
            self._thread.start()

    def release(self) -> None:
        """Give them back, as soon as the last byte has moved; again is nothing. What fails runs out by itself."""
        self._over.set()
        client, lease = self._client, self._lease
        self._lease = None
        if client is None or lease is None:
            return
        self._thread.join()
        try:
            self._context.run(client.release_concurrency_slots_with_lease, lease)
        except Exception as error:  # noqa: BLE001 - a backup outlives its orchestrator
            logger.warning("slots of the limit were not released, and expire by themselves: %s", type(error).__name__)

    def _renew(self) -> None:
        assert self._client is not None
        assert self._lease is not None
        while not self._over.wait(SECONDS_BETWEEN_RENEWALS):
            try:
                self._client.renew_concurrency_lease(self._lease, SLOT_SECONDS)
            except Exception as error:  # noqa: BLE001 - the export continues, and so do the requests
                logger.warning("the slots of the limit were not renewed: %s", type(error).__name__)


def _wait_for_slots(job: LeaseUser, client: SyncPrefectClient, limits: Mapping[str, int], wanted: int) -> Slots:
    """Wait for the slots; where the server that keeps them does not answer, go on without."""
    answered = time.monotonic()
    said = False
    while True:
        job.stop.check()
        try:
            slots = _try(job, client, limits, wanted)
        except HyperExportError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the export continues
            if time.monotonic() - answered >= SERVER_TIMEOUT:
                warning = (
                    f"the limit of leases does not answer ({type(error).__name__}): continuing at this run's own limits"
                )
                logger.warning("%s: %s", job.name, warning)
                job.warn(warning)
                return Slots(wanted)
        else:
            if slots:
                return slots
            answered = time.monotonic()
            if not said:
                logger.info("%s: waiting for a slot of %s", job.name, " and ".join(limits))
                said = True
        job.stop.wait(random.uniform(0.5, 1.5))  # noqa: S311 - so that those who wait don't all ask at once


def _try(job: LeaseUser, client: SyncPrefectClient, limits: Mapping[str, int], wanted: int) -> Slots | None:
    """Take the slots of all limits, or none of any: no more than the smallest limit has at all.

    Looked at first: denials are a write each on the server, and those who wait are many.
    """
    found = [_look(client, name, make) for name, make in limits.items()]
    closed = [limit.name for limit in found if limit.limit < 1]
    if closed:
        raise UsageError(
            f"the global concurrency limit {closed[0]} is 0, so no export may begin",
            fix=f"Raise it: prefect gcl update '{closed[0]}' --limit N",
        )
    max_concurrency = min(wanted, *(limit.limit for limit in found))
    if any(limit.active and limit.active_slots + max_concurrency > limit.limit for limit in found):
        return None
    holder = ConcurrencyLeaseHolder(type="flow_run", id=UUID(job.run))
    try:
        answer = client.increment_concurrency_slots_with_lease(
            list(limits), max_concurrency, "concurrency", SLOT_SECONDS, holder
        )
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 423:
            raise
        return None  # another run was faster
    return Slots(max_concurrency, client, UUID(answer.json()["lease_id"]))


def _look(client: SyncPrefectClient, name: str, make: int) -> GlobalConcurrencyLimitResponse:
    try:
        return client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        with suppress(ObjectAlreadyExists):  # another run was quicker
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=make))
            logger.info("made the global concurrency limit %s: %d leases", name, make)
        return client.read_global_concurrency_limit_by_name(name)
