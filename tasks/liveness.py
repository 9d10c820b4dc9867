"""Whether a run is over: what this machine proves, then what Prefect's record of it says. Never a clock.

A state in Prefect does not prove the end of a run on another machine: a person, an automation for missing heartbeats
and the clean-up of cancellations set it, too, while the process runs. Either the run has said itself that it ended,
or a second witness is needed: its login on the vSphere server (``hyperexport/steps/logins.py``).
A tag counts as the run's only where it is signed with a key that the record holds (``run_keys.py``).

| this machine (``steps/liveness.py``) | Prefect's record                        | its login   | the run is |
|--------------------------------------|-----------------------------------------|-------------|------------|
| dead                                 | not signed, and the run signs its tags  |             | unknown    |
| dead                                 | anything else; the crash is reported    |             | over       |
| alive                                | not asked                               |             | at work    |
| unknown                              | no answer, or no such run               |             | unknown    |
| unknown                              | signed; the run has said that it ended  |             | over       |
| unknown                              | signed or not; it has not ended         |             | at work    |
| unknown                              | ended; not signed by the run            |             | unknown    |
| unknown, may be of this machine      | ended, signed                           |             | unknown    |
| unknown, elsewhere                   | ended, signed                           | silent      | over       |
| unknown, elsewhere                   | ended, signed                           | active      | at work    |
| unknown, elsewhere                   | ended, signed                           | not visible | unknown    |

An earlier attempt of the run that asks has ended, for Prefect runs no two at a time; its login decides.
"""

import logging
import os
from enum import Enum, auto
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Crashed

from hyperexport.model.ownership import Owner
from hyperexport.steps.liveness import Life, is_elsewhere, life_of
from hyperexport.steps.logins import Logins
from hyperexport.tasks.run_keys import has_announced_end, has_keys, is_signature_valid
from hyperexport.workarounds.server_outage import without_client_retries

logger = logging.getLogger(__name__)


class _Life(Enum):
    """What is known of a run."""

    OVER = auto()
    AT_WORK = auto()
    UNANSWERED = auto()
    UNKNOWN = auto()


def run_is_over(owner: Owner, logins: Logins | None = None) -> bool:
    """Prove that an owner's run is over, as the table above has it."""
    return _life(owner, logins) is _Life.OVER


def run_is_at_work(owner: Owner, logins: Logins | None = None) -> bool:
    """Tell whether a run is seen at work, on this machine, by Prefect or by its login."""
    return _life(owner, logins) is _Life.AT_WORK


def run_may_be_at_work(owner: Owner, logins: Logins | None = None) -> bool:
    """Tell whether a run is seen at work, or Prefect, which may see it, does not answer."""
    return _life(owner, logins) in {_Life.AT_WORK, _Life.UNANSWERED}


def _life(owner: Owner, logins: Logins | None) -> _Life:
    here = life_of(owner)
    if here is Life.DEAD:
        return _Life.OVER if owner.pid == os.getpid() or _record_agrees(owner) else _Life.UNKNOWN
    return _Life.AT_WORK if here is Life.ALIVE else _life_in_prefect(owner, logins)


def _record_agrees(owner: Owner) -> bool:
    """Tell whether Prefect's record does not contradict that the run made the tag; then tell Prefect of its crash.

    A record with keys of the run, none of which signed the tag, contradicts it: who may log in to this machine can sign
    as it does. A run that is still *Running* in Prefect has crashed: its worker died with it.
    """
    try:
        run_id = UUID(owner.run)
        with without_client_retries(), get_client(sync_client=True) as client:
            record = client.read_flow_run(run_id)
            if has_keys(record) and not is_signature_valid(owner, record):
                logger.warning("a tag names run %s, which did not make it", owner.run)
                return False
            if record.state is not None and not record.state.is_final():
                gone = f"its process {owner.pid} on {owner.host} is gone; found by the next run"
                client.set_flow_run_state(run_id, Crashed(message=gone), force=True)
                logger.warning("run %s has crashed: %s", owner.run, gone)
    except (ValueError, ObjectNotFound):
        return True  # this Prefect server has no such run, so it does not contradict
    except Exception as error:  # noqa: BLE001 - this machine has proved it; the rest is a courtesy
        logger.info("run %s: its end could not be reported to Prefect: %s", owner.run, type(error).__name__)
    return True


def _record_of(owner: Owner) -> FlowRun | _Life:
    """Prefect's record of a run; or what follows where there is none, or the server does not answer."""
    try:
        run_id = UUID(owner.run)
    except ValueError:
        return _Life.UNKNOWN  # no run of Prefect's
    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(run_id)
    except ObjectNotFound:
        return _Life.UNKNOWN
    except Exception as error:  # noqa: BLE001 - without an answer there is no proof
        logger.warning("Prefect does not say whether run %s is over: %s", owner.run, type(error).__name__)
        return _Life.UNANSWERED


def _life_in_prefect(owner: Owner, logins: Logins | None) -> _Life:
    record = _record_of(owner)
    if not isinstance(record, FlowRun):
        return record
    if has_announced_end(owner, record):
        return _Life.OVER
    an_earlier_attempt = owner.run == str(flow_run.id)
    if not an_earlier_attempt and (record.state is None or not record.state.is_final()):
        return _Life.AT_WORK
    if logins is None or not is_elsewhere(owner) or not is_signature_valid(owner, record):
        return _Life.UNKNOWN
    silent = logins.silent(owner)
    return _Life.UNKNOWN if silent is None else _Life.OVER if silent else _Life.AT_WORK
