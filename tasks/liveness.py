"""Whether a run is over: what this machine proves, then what Prefect says of it. Never a clock.

| this machine (``hyperexport/steps/liveness.py``) | Prefect                   | the run is           |
|--------------------------------------------------|---------------------------|----------------------|
| dead                                             | not asked; told of it     | over: removed        |
| alive                                            | not asked                 | at work: waited for  |
| unknown                                          | not ended, or no answer   | at work: waited for  |
| unknown                                          | does not know the run     | unknown: kept        |
| unknown, and it may be a process of this machine | ended                     | unknown: kept        |
| unknown, on another machine, boot or container   | ended, this run's attempt | over: removed        |
"""

import logging
import os
from enum import Enum, auto
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Crashed

from hyperexport.model.ownership import Owner
from hyperexport.steps.liveness import Life, is_elsewhere, life_of
from hyperexport.tasks.reporting import without_patience

logger = logging.getLogger(__name__)


class _Life(Enum):
    """What can be told of a run."""

    OVER = auto()
    AT_WORK = auto()
    UNANSWERED = auto()
    UNKNOWN = auto()


def run_is_over(owner: Owner) -> bool:
    """Prove that an owner's run is over.

    A state alone is not proof: a run that was set to Cancelled by hand may still be moving bytes. So a process of
    this machine must be gone; a run of another machine must have ended in Prefect's eyes.
    """
    return _life(owner) is _Life.OVER


def run_may_be_at_work(owner: Owner) -> bool:
    """Tell whether a run may be at work; False where it is over, or was never heard of by this Prefect."""
    return _life(owner) in {_Life.AT_WORK, _Life.UNANSWERED}


def _tell_of_crash(owner: Owner) -> None:
    """Tell Prefect that a run has crashed which it still believes to be running: its worker died with it."""
    try:
        run_id = UUID(owner.run)
        with without_patience(), get_client(sync_client=True) as client:
            state = client.read_flow_run(run_id).state
            if state is not None and not state.is_final():
                gone = f"its process {owner.pid} on {owner.host} is gone; found by the next run"
                client.set_flow_run_state(run_id, Crashed(message=gone), force=True)
                logger.warning("run %s has crashed: %s", owner.run, gone)
    except (ValueError, ObjectNotFound):
        return  # no run of this Prefect's
    except Exception as error:  # noqa: BLE001 - it is a courtesy
        logger.info("Prefect was not told that run %s is over: %s", owner.run, type(error).__name__)


def _life(owner: Owner) -> _Life:
    here = life_of(owner)
    if here is Life.DEAD:
        if owner.pid != os.getpid():
            _tell_of_crash(owner)
        return _Life.OVER
    if here is Life.ALIVE:
        return _Life.AT_WORK
    told = _life_in_prefect(owner)
    # A state that was set by hand ends no process: one that may be here has to be gone.
    return _Life.UNKNOWN if told is _Life.OVER and not is_elsewhere(owner) else told


def _life_in_prefect(owner: Owner) -> _Life:
    if owner.run == str(flow_run.id):
        return _Life.OVER  # an earlier attempt of this very run, which Prefect has run nowhere else now
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(owner.run)).state
    except (ValueError, ObjectNotFound):
        return _Life.UNKNOWN
    except Exception as error:  # noqa: BLE001 - without an answer there is no proof
        logger.warning("Prefect does not say whether run %s is over: %s", owner.run, type(error).__name__)
        return _Life.UNANSWERED
    return _Life.OVER if state is not None and state.is_final() else _Life.AT_WORK
