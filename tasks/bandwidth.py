"""The bandwidth of a run, as its options want it; a budget that runs share is a Prefect global concurrency limit.

One slot of the limit is 1 MiB, and the slots come back by its ``slot_decay_per_second``: so that decay is the budget
in MiB/s. Every call to the server is bounded in time, and its failure never reaches the bytes.
"""

import logging
import random
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from hyperexport.errors import UsageError
from hyperexport.options.groups import Bandwidth
from hyperexport.steps.bandwidth import throttle_for
from hyperexport.transfer.bandwidth.shared import budget_slots, draw_from_budget, grant_size, seconds_until_next_grant
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.workarounds.rate_limits import context_without_client_retries, take_rate_limit_slots
from hyperexport.workarounds.server_outage import without_client_retries

logger = logging.getLogger(__name__)

SECONDS_FOR_AN_ANSWER: Final = 5.0


@contextmanager
def throttle_of(wanted: Bandwidth) -> Generator[Throttle]:
    """Give a run its throttle.

    Raises:
        UsageError: The shared budget's limit can't be used, or isn't there and no rate to make it with was given.
    """
    warnings: list[str] = []
    with ExitStack() as stack:
        allowance = None
        if wanted.shared is not None:
            try:
                budget = stack.enter_context(open_budget(wanted.shared, make=wanted.limit))
                allowance = stack.enter_context(draw_from_budget(budget, warn=warnings.append))
            except UsageError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the transfer continues
                reason = f"the shared bandwidth budget {wanted.shared} does not answer ({type(error).__name__})"
                warnings.append(f"{reason}: continuing at this run's own limit")
                logger.warning(warnings[0])
        yield throttle_for(wanted, allowance, warnings=warnings)


@contextmanager
def open_budget(name: str, *, make: float = 0) -> Generator["PrefectBudget"]:
    """Look at the limit. It is made with the first lease, so that a dry run changes nothing.

    Args:
        name: Its name.
        make: MiB/s to make it with where it is not there; 0 not to.

    Raises:
        UsageError: It is not there and not to be made, or it is no rate limit.
        Exception: The server does not answer.
    """
    with get_client(sync_client=True, httpx_settings={"timeout": SECONDS_FOR_AN_ANSWER}) as client:
        try:
            with without_client_retries():
                found = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            if not make:
                raise UsageError(
                    f"there is no global concurrency limit {name} to share",
                    fix="Create it with prefect gcl create, or give its MB/s with --bandwidth-limit",
                ) from None
            yield PrefectBudget(name, client, rate=make, slots=budget_slots(make), make=True)
            return
        if found.slot_decay_per_second <= 0:
            raise UsageError(
                f"the global concurrency limit {name} has no slot decay, so it is not a shared rate",
                fix=f"Set it: prefect gcl update {name} --slot-decay-per-second MB/s",
            )
        logger.info("sharing %s: %g MB/s, %d MB at once", name, found.slot_decay_per_second, found.limit)
        yield PrefectBudget(name, client, rate=found.slot_decay_per_second, slots=found.limit, make=False)


class PrefectBudget:
    """A global concurrency limit as a budget of bytes. Made by :func:`open_budget`.

    Args:
        name: The limit's name.
        client: Open.
        rate: MiB that come in each second.
        slots: MiB that can be taken at the most.
        make: Make the limit where it is not there.
    """

    def __init__(self, name: str, client: SyncPrefectClient, *, rate: float, slots: int, make: bool) -> None:
        self.rate = rate
        self.grant = grant_size(rate, slots)
        self._name = name
        self._client = client
        self._slots = slots
        self._make = make
        self._served = float("-inf")
        self._context = context_without_client_retries()

    def acquire(self) -> float:
        """Take one lease if it is this run's turn.

        Returns:
            0 where it was taken; else the seconds after which to ask again.
        """
        return self._context.run(self._acquire)

    def _acquire(self) -> float:
        limit = self._look()
        wait = seconds_until_next_grant(
            free=limit.limit - limit.active_slots,
            grant=self.grant,
            limit=limit.limit,
            rate=self.rate,
            waited=time.monotonic() - self._served,
        )
        if wait > 0 and limit.active:
            return wait
        if not take_rate_limit_slots(self._client, self._name, self.grant):
            return random.uniform(0.05, 0.2)  # noqa: S311 - no secret hangs on it
        self._served = time.monotonic()
        return 0

    def _look(self) -> GlobalConcurrencyLimitResponse:
        try:
            return self._client.read_global_concurrency_limit_by_name(self._name)
        except ObjectNotFound:
            if not self._make:
                raise
        # All slots begin as taken, so that the runs are not faster than the budget at their beginning either.
        made = GlobalConcurrencyLimitCreate(
            name=self._name, limit=self._slots, active_slots=self._slots, slot_decay_per_second=self.rate
        )
        with suppress(ObjectAlreadyExists):  # another run was quicker
            self._client.create_global_concurrency_limit(made)
            logger.info("made the global concurrency limit %s: %g MB/s", self._name, self.rate)
        self._make = False
        return self._client.read_global_concurrency_limit_by_name(self._name)
