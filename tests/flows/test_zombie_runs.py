"""The automation that calls dead runs crashed is made once, fitted, and left alone where it was switched off.

That it does what it says is proved with a worker that is really killed, in ``tests/scale/``.
"""

from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.events import Automation, EventTrigger
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from hyperexport.deployments.zombie_runs import NAME, automation, detect_zombie_runs


def made() -> Automation:
    with get_client(sync_client=True) as client:
        (found,) = client.read_automations_by_name(NAME)
    return found


def within() -> timedelta:
    trigger = made().trigger
    assert isinstance(trigger, EventTrigger)
    return trigger.within


def test_the_automation_is_one_and_follows_the_heartbeats_but_stays_switched_off() -> None:
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 60}):
        detect_zombie_runs()
    assert within() == timedelta(seconds=180)
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30}):
        detect_zombie_runs()
    assert within() == timedelta(seconds=180), "a shorter time would call other workers' runs crashed"

    with get_client(sync_client=True) as client:
        edited = automation(within()).model_copy(update={"description": "Mine", "tags": ["ours"]})
        client.update_automation(made().id, edited)
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 90}):
        detect_zombie_runs()
    assert (made().description, made().tags) == ("Mine", ["ours"])
    assert within() == timedelta(seconds=270)

    with get_client(sync_client=True) as client:
        client.pause_automation(made().id)
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 120}):
        detect_zombie_runs()
    assert not made().enabled
    assert within() == timedelta(seconds=270)


def test_of_two_that_workers_made_in_the_same_moment_one_stays() -> None:
    with get_client(sync_client=True) as client:
        for one in client.read_automations_by_name(NAME):
            client.delete_automation(one.id)
        for _ in range(2):
            client.create_automation(automation(timedelta(seconds=90)))
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 60}):
        detect_zombie_runs()
    assert within() == timedelta(seconds=180)
