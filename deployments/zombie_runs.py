"""Runs whose worker died with its machine: without help Prefect counts them as running for ever.

A flow's process sends heartbeats. An automation of Prefect's own server calls a run crashed that sends none any more
(docs.prefect.io, "How to detect and respond to zombie flows"). A run that is crashed is over: what it left is removed,
and a fleet gives its VM to another worker.
"""

from contextlib import suppress
from datetime import timedelta
from typing import Final

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY

from hyperexport.deployments.definitions import TAG
from hyperexport.prefect_errors import translated

NAME: Final = "hyperexport: a run without heartbeat is crashed"

_RUNNING: Final = "prefect.flow-run.Running"
_HEARTBEAT: Final = "prefect.flow-run.heartbeat"
_ENDS: Final = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended")
_EDITABLE: Final = ("description", "tags", "actions", "actions_on_trigger", "actions_on_resolve")
_MISSED: Final = 3
"""How many heartbeats in turn have to be missing: one is late when a server restarts."""


@translated("watching over zombie runs")
def detect_zombie_runs() -> None:
    """Create the automation, fitted to how often this worker's runs send heartbeats.

    One that exists stays as people set it, but for a time that is too short. Of several that workers created in the
    same moment, one stays.
    """
    frequency = PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value()
    if not frequency:
        return
    wanted = automation(timedelta(seconds=_MISSED * int(frequency)))
    with get_client(sync_client=True) as client:
        found = client.read_automations_by_name(NAME)
        if not found:
            client.create_automation(wanted)
            found = client.read_automations_by_name(NAME)
        first, *others = sorted(found, key=lambda one: one.id)
        for other in others:
            with suppress(ObjectNotFound):
                client.delete_automation(other.id)
        if first.enabled and (longer := with_longer_timeout(first, wanted)):
            client.update_automation(first.id, longer)


def with_longer_timeout(there: Automation, wanted: AutomationCore) -> AutomationCore | None:
    """The automation that exists, with the time in which this worker's runs send a heartbeat; None if it gives that.

    What people changed in the Prefect UI stays. A shorter time would call living runs crashed.
    """
    trigger, needed = there.trigger, wanted.trigger
    assert isinstance(needed, EventTrigger)
    if not isinstance(trigger, EventTrigger) or trigger.within >= needed.within:
        return None
    kept = {name: getattr(there, name) for name in _EDITABLE}
    return wanted.model_copy(update={**kept, "trigger": trigger.model_copy(update={"within": needed.within})})


def automation(within: timedelta) -> AutomationCore:
    """The automation: a run of ours that began or sent a heartbeat, and then for so long neither sent one nor ended."""
    return AutomationCore(
        name=NAME,
        description="Made by hyperexport serve. Switch it off rather than delete it, or it is made again.",
        enabled=True,
        trigger=EventTrigger(
            after={_RUNNING, _HEARTBEAT},  # one that is killed at once has sent none yet
            expect={_HEARTBEAT, *(f"prefect.flow-run.{state}" for state in _ENDS)},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification({"prefect.resource.id": [f"prefect.tag.{TAG}"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                state=StateType.CRASHED,
                message="its worker died: it sends no heartbeat any more",
                force=False,
            )
        ],
    )
