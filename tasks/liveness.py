"""Whether a run is over: what Prefect says of it, and what this machine's process table says. Never a clock."""

import logging
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from hyperexport.ownership import Owner
from hyperexport.steps.leftovers import on_this_machine, process_is_over

logger = logging.getLogger(__name__)


def run_is_over(owner: Owner) -> bool:
    """Prove that an owner's run is over.

    A state alone is not proof: a run that was set to Cancelled by hand may still be moving bytes. So a process of
    this machine must be gone; a run of another machine must have ended in Prefect's eyes.
    """
    if on_this_machine(owner):
        return process_is_over(owner)
    try:
        run_id = UUID(owner.run)
    except ValueError:
        return False
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run_id).state
    except ObjectNotFound:
        return False
    except Exception as error:  # noqa: BLE001 - without an answer there is no proof
        logger.warning("Prefect does not say whether run %s is over: %s", owner.run, type(error).__name__)
        return False
    return state is not None and state.is_final()
