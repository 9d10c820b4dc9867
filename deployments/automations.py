"""Prefect automations that watch over the exports: plain events in, a mail by ``send-notice`` out.

They are made anew by name, so that making them twice changes nothing, and have our tag: what else is there under such
a name is a user's own, and stays. The mail's options are part of the automation; a password never is one.
"""

from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import RunDeployment
from prefect.events.schemas import automations as schemas
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from hyperexport.base.units import format_age
from hyperexport.blocks import ExportProfile
from hyperexport.deployments.definitions import TAG, deployment_of, ensure_deployment, ensure_pool
from hyperexport.errors import UsageError
from hyperexport.flows import send_notice
from hyperexport.model.vm import Value
from hyperexport.options.precedence import ExportOptions, resolve
from hyperexport.prefect_errors import translated
from hyperexport.tasks.events import COMPLETED, DAMAGED, LEAKED, RESOURCE

LEAKED_NAME: Final = "hyperexport: snapshot left on a VM"
DAMAGED_NAME: Final = "hyperexport: damaged export"
SILENCE_NAME: Final = "hyperexport: no success of a VM"
NAMES: Final = (LEAKED_NAME, DAMAGED_NAME, SILENCE_NAME)

_PATH: Final = "{{ event.resource['hyperexport.path'] }}"


class Automation(Value):
    """One automation, as it is shown.

    Args:
        name: Its name in Prefect.
        enabled: Whether it is evaluated.
        when: What makes it send a mail.
    """

    name: str
    enabled: bool
    when: str


@translated("creating the automations")
def create(options: ExportOptions, *, within: timedelta, profile: ExportProfile | None = None) -> list[Automation]:
    """Put the automations in place; those of the same names that we made are replaced.

    Args:
        options: The mail server, the recipients, the webhooks; only what was given is kept.
        within: How long a VM may be without a successful export before a mail is sent.
        profile: A saved profile, which is looked at anew for each mail.

    Raises:
        UsageError: The options make no sense, or an automation of another owner has this name.
    """
    resolve(options, profile=profile.get_options() if profile else None)
    ensure_pool()
    deployment = ensure_deployment(deployment_of(send_notice, send_notice.name, tags=[TAG]))
    told: dict[str, Any] = {"options": options.model_dump(mode="json", exclude_unset=True)}
    if profile:
        told["profile"] = profile.name
    planned = plan(deployment, told, within)
    with get_client(sync_client=True) as client:
        there = [one for name in NAMES for one in _named(client, name)]
        for one in there:
            if TAG not in one.tags:
                raise UsageError(f"there is an automation {one.name!r} that this tool did not make", fix="Rename it")
        for automation in planned:
            client.create_automation(automation)
        for one in there:
            client.delete_automation(one.id)
    return automations()


def plan(deployment: UUID, told: dict[str, Any], within: timedelta) -> list[AutomationCore]:
    """Work out the automations.

    Args:
        deployment: The id of the deployment that sends notices.
        told: Its parameters beside what is to be said.
        within: How long a VM may be without a success.
    """

    def mail(subject: str, *lines: str) -> RunDeployment:
        said = {"subject": _template(subject), "message": _template("\n".join(lines))}
        return RunDeployment(
            source="selected", deployment_id=deployment, parameters={**said, **told}, job_variables=None
        )

    any_vm = {"prefect.resource.id": f"{RESOURCE}*"}
    age = format_age(within)
    return [
        AutomationCore(
            name=LEAKED_NAME,
            description="at once, when a snapshot of this tool could not be removed",
            tags=[TAG],
            trigger=EventTrigger(expect={LEAKED}, match=any_vm, posture=Posture.Reactive, threshold=1),  # pyright: ignore[reportArgumentType]
            actions=[
                mail(
                    f"Snapshot left on {_PATH}",
                    "A snapshot that this tool made is still on the VM, and grows with every write.",
                    f"VM: {_PATH}",
                    "Snapshot: {{ event.payload.snapshot }} ({{ event.payload.moref }})",
                    "vCenter: {{ event.payload.vcenter }}",
                    "What to do: remove it in vSphere, or run reap-snapshots",
                )
            ],
        ),
        AutomationCore(
            name=DAMAGED_NAME,
            description="at once, when a verification finds an export damaged",
            tags=[TAG],
            trigger=EventTrigger(expect={DAMAGED}, match=any_vm, posture=Posture.Reactive, threshold=1),  # pyright: ignore[reportArgumentType]
            actions=[
                mail(
                    f"Damaged export of {_PATH}",
                    "A verification found an export damaged. Nothing will build on it.",
                    f"VM: {_PATH}",
                    "Export: {{ event.payload.location }}",
                    "Found: {{ event.payload.findings | join('; ') }}",
                    "What to do: export the VM again",
                )
            ],
        ),
        AutomationCore(
            name=SILENCE_NAME,
            description=f"when {age} have passed since the last successful export of a VM",
            tags=[TAG],
            # For each VM by itself: its success opens the window in which the next is expected.
            trigger=EventTrigger(
                after={COMPLETED},
                expect={COMPLETED},
                for_each={"prefect.resource.id"},
                match=any_vm,  # pyright: ignore[reportArgumentType]
                posture=Posture.Proactive,
                threshold=1,
                within=within,
            ),
            actions=[
                mail(
                    f"No export of {_PATH} for {age}",
                    f"No export of the VM was completed within {age} of the last one.",
                    f"VM: {_PATH}",
                    "Last export: {{ event.payload.export }}, begun {{ event.payload.started }}",
                    "What to do: look at the runs of export-vm in Prefect, and at hyperexport report",
                )
            ],
        ),
    ]


@translated("listing the automations")
def automations() -> list[Automation]:
    """Those of ours that there are."""
    with get_client(sync_client=True) as client:
        return [_shown(one) for one in _ours(client)]


@translated("removing the automations")
def remove() -> list[Automation]:
    """Delete those of ours that there are; the deployment stays, as every flow has one."""
    with get_client(sync_client=True) as client:
        found = _ours(client)
        for one in found:
            client.delete_automation(one.id)
    return [_shown(one).model_copy(update={"enabled": False}) for one in found]


def _ours(client: SyncPrefectClient) -> list[schemas.Automation]:
    return [one for name in NAMES for one in _named(client, name) if TAG in one.tags]


def _named(client: SyncPrefectClient, name: str) -> list[schemas.Automation]:
    return client.read_automations_by_name(name)


def _shown(automation: schemas.Automation) -> Automation:
    return Automation(name=automation.name, enabled=automation.enabled, when=automation.description)


def _template(text: str) -> dict[str, str]:
    """A parameter that the server fills in from the event (Prefect's own form of it)."""
    return {"__prefect_kind": "jinja", "template": text}
