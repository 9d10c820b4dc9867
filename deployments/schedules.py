"""Schedules: an export at the times that a cron line names, a cleanup in a regular interval.

A schedule is a Prefect deployment and nothing else: Prefect keeps it, starts its runs, and shows them. What it is to
be is worked out first, as a plain value that can be shown; applying it is the only step that changes anything.
Only what the caller gave goes into it. What he left open, the process that runs it fills in from its environment; so
does it the login, unless a saved block is named. A password never becomes a part of a deployment.
"""

import asyncio
import re
from datetime import datetime, timedelta
from typing import Any, Final, cast
from zoneinfo import ZoneInfo

import tzlocal
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import SCHEDULE_TYPES, CronSchedule, IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.server.schemas import schedules as server_schedules
from prefect.types._datetime import now
from pydantic import ValidationError

from hyperexport.base.units import format_duration, parse_duration
from hyperexport.blocks import ExportProfile
from hyperexport.blocks.vsphere_credentials import load_vsphere
from hyperexport.deployments.definitions import ALONE, TAG, deployment_of, ensure_pool, offered_flows
from hyperexport.deployments.parameters import kept_parameters
from hyperexport.errors import UsageError
from hyperexport.flows import cleanup_exports, export_fleet, export_vm
from hyperexport.model.vm import Value
from hyperexport.options.precedence import ExportOptions, leaves
from hyperexport.options.selection import Selection
from hyperexport.prefect_errors import translated
from hyperexport.tasks.check_prefect import SCHEDULE_TAG

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_SHORTEST: Final = timedelta(minutes=1)
_GOING_ON: Final = FlowRunFilter(
    state=FlowRunFilterState(
        type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
    )
)
_SLUG: Final = "hyperexport"
"""The schedule's own name within its deployment, by which a new one replaces it."""


class Schedule(Value):
    """One schedule, as it is shown.

    Args:
        name: The deployment's name.
        flow: The flow that it runs.
        when: Its times, in words.
        next: When it fires next; None while it is paused.
        active: Whether it fires at all.
    """

    name: str
    flow: str
    when: str
    next: datetime | None
    active: bool

    @property
    def full_name(self) -> str:
        """Flow and name, as Prefect writes it."""
        return f"{self.flow}/{self.name}"


class PlannedSchedule(Value):
    """What a schedule is going to be.

    Args:
        name: The deployment's name.
        flow: The flow that it runs.
        times: Its times, in Prefect's own form.
        parameters: The flow's parameters, as JSON.
    """

    name: str
    flow: str
    times: SCHEDULE_TYPES
    parameters: dict[str, Any]

    @property
    def shown(self) -> Schedule:
        """The same, as it is shown."""
        return Schedule(
            name=self.name, flow=self.flow, when=times_in_words(self.times), next=next_time(self.times), active=True
        )


# -- what they are to be -----------------------------------------------------------------------------------------------


def plan_export(
    name_and_cron: str,
    selection: Selection,
    options: ExportOptions,
    *,
    timezone: str | None,
    vsphere: str | None,
    profile: ExportProfile | None,
) -> PlannedSchedule:
    """Work out a scheduled export.

    Args:
        name_and_cron: ``name:CRON``, such as ``daily-backup:0 2 * * *``.
        selection: The VMs; folders, tags and patterns are looked at anew each time that the schedule fires.
        options: The options; only what was given is kept.
        timezone: The time zone of the cron line; this machine's if None.
        vsphere: The name of the saved block with the server and the login; None for the environment of the process
            that runs the schedule.
        profile: A saved profile, which is looked at anew each time that the schedule fires.

    Raises:
        UsageError: One of these is invalid.
    """
    name, cron = _read_name_and_cron(name_and_cron)
    if not selection:
        raise UsageError("a schedule needs a VM, and none is named", fix="Name one, or choose several")
    given = options.given_keys()
    if not cleans_up(options, profile):  # then the limits are meant for the scheduled cleanup
        given = {key: value for key, value in given.items() if key not in _keys_of("cleanup")}
    one = selection.one
    return PlannedSchedule(
        name=name,
        flow=export_vm.name if one else export_fleet.name,
        times=_cron(cron, timezone),
        parameters={
            **({"vm": one} if one else {"selection": selection.model_dump(mode="json", exclude_defaults=True)}),
            **kept_parameters(ExportOptions.from_keys(given), profile),
            **({"vsphere": _known_block(vsphere)} if vsphere else {}),
        },
    )


def cleans_up(options: ExportOptions, profile: ExportProfile | None) -> bool:
    """Tell whether a scheduled export cleans up itself, as far as the one who asks for it has said so."""
    return bool({**(profile.get_options() if profile else {}), **options.given_keys()}.get("cleanup"))


def plan_cleanup(name: str, interval: str, options: ExportOptions, *, profile: ExportProfile | None) -> PlannedSchedule:
    """Work out a scheduled cleanup.

    Args:
        name: The deployment's name.
        interval: Such as ``24h``.
        options: The options; of what was given, the places and the limits are kept.
        profile: A saved profile, which is looked at anew each time that the schedule fires.

    Raises:
        UsageError: The interval is invalid.
    """
    try:
        every = parse_duration(interval)
    except ValueError as error:
        raise UsageError(f"--cleanup-schedule: {error}") from error
    if every < _SHORTEST:
        raise UsageError(f"--cleanup-schedule: {interval} is too short", fix="Give at least 1m, such as 24h")
    kept = _keys_of("destination", "cleanup")
    given = {key: value for key, value in options.given_keys().items() if key in kept}
    return PlannedSchedule(
        name=name,
        flow=cleanup_exports.name,
        times=IntervalSchedule(interval=every, anchor_date=now("UTC"), timezone="UTC"),
        parameters=kept_parameters(ExportOptions.from_keys(given), profile),
    )


def _keys_of(*groups: str) -> set[str]:
    return {leaf.key for leaf in leaves() if leaf.group in groups}


def _read_name_and_cron(text: str) -> tuple[str, str]:
    name, colon, cron = (part.strip() for part in text.partition(":"))
    example = "Write it as --daemon-schedule 'daily-backup:0 2 * * *'"
    if not colon or not cron:
        raise UsageError(f"--daemon-schedule: {text!r} is not of the form name:CRON", fix=example)
    if not _NAME.fullmatch(name) or name in {flow.name for flow in offered_flows()}:
        raise UsageError(
            f"--daemon-schedule: {name!r} cannot be a schedule's name",
            fix="Use letters, digits, dots, dashes and underscores, and not the name of a flow",
        )
    return name, cron


def _cron(cron: str, timezone: str | None) -> CronSchedule:
    try:
        return CronSchedule(cron=cron, timezone=timezone or tzlocal.get_localzone_name() or "UTC")
    except ValidationError as error:
        wrong_zone = "timezone" in error.errors(include_url=False)[0]["loc"]
        if wrong_zone:
            raise UsageError(
                f"--schedule-timezone: there is no time zone {timezone!r}", fix="Give one such as Europe/Berlin"
            ) from error
        raise UsageError(
            f"--daemon-schedule: {cron!r} is not a cron line",
            fix="Give minute, hour, day of month, month and day of week, such as '0 2 * * *'",
        ) from error


def _known_block(name: str) -> str:
    load_vsphere(name)
    return name


# -- their times -------------------------------------------------------------------------------------------------------


def times_in_words(times: SCHEDULE_TYPES) -> str:
    """Say when a schedule fires."""
    if isinstance(times, CronSchedule):
        return f"{times.cron} ({times.timezone or 'UTC'})"
    if isinstance(times, IntervalSchedule):
        return f"every {format_duration(times.interval)}"
    return str(times)


def next_time(times: SCHEDULE_TYPES) -> datetime | None:
    """Work out when a schedule fires next, as the Prefect server does."""
    known = {CronSchedule: server_schedules.CronSchedule, IntervalSchedule: server_schedules.IntervalSchedule}
    kind = known.get(cast("Any", type(times)), server_schedules.RRuleSchedule)
    dates = asyncio.run(kind.model_validate(times.model_dump()).get_dates(1, start=now("UTC") + timedelta(seconds=1)))
    return dates[0].astimezone(ZoneInfo(getattr(times, "timezone", None) or "UTC")) if dates else None


# -- what is done with them --------------------------------------------------------------------------------------------


@translated("saving the schedule")
def apply(plan: PlannedSchedule) -> Schedule:
    """Have Prefect keep a schedule; one of the same name is replaced."""
    ensure_pool()
    _deployment(plan).apply()
    return plan.shown


def _deployment(plan: PlannedSchedule) -> RunnerDeployment:
    flow = {flow.name: flow for flow in (export_vm, export_fleet, cleanup_exports)}[plan.flow]
    return deployment_of(
        flow,
        plan.name,
        schedules=[DeploymentScheduleCreate(schedule=plan.times, slug=_SLUG)],
        parameters=plan.parameters,
        concurrency_limit=ALONE,
        tags=[TAG, SCHEDULE_TAG],
    )


@translated("listing the schedules")
def schedules() -> list[Schedule]:
    """Every schedule that there is, by name."""
    return sorted((_shown(deployment) for deployment in _deployments()), key=lambda item: (item.name, item.flow))


@translated("pausing the schedule")
def pause(name: str) -> Schedule:
    """Let a schedule fire no more until it is resumed; a run in progress continues.

    Raises:
        UsageError: There is no such schedule.
    """
    found = _find(name)
    with get_client(sync_client=True) as client:
        client.pause_deployment(found.id)
        return _shown(client.read_deployment(found.id))


@translated("resuming the schedule")
def resume(name: str) -> Schedule:
    """Let a paused schedule fire again, from now on; what it missed is not made up for.

    Raises:
        UsageError: There is no such schedule.
    """
    found = _find(name)
    with get_client(sync_client=True) as client:
        client.resume_deployment(found.id)
        return _shown(client.read_deployment(found.id))


@translated("removing the schedule")
def remove(name: str) -> Schedule:
    """Delete a schedule. What it exported stays.

    Raises:
        UsageError: There is no such schedule, or one of its runs is in progress: Prefect could not record its end.
    """
    found = _find(name)
    with get_client(sync_client=True) as client:
        client.pause_deployment(found.id)
        of_it = DeploymentFilter(id=DeploymentFilterId(any_=[found.id]))
        if client.read_flow_runs(deployment_filter=of_it, flow_run_filter=_GOING_ON):
            raise UsageError(
                f"a run of the schedule {name!r} is in progress; the schedule is paused, and starts no other",
                fix="Remove it when the run has ended, or cancel the run first",
            )
        client.delete_deployment(found.id)
    return _shown(found).model_copy(update={"active": False, "next": None})


def _deployments() -> list[DeploymentResponse]:
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[SCHEDULE_TAG]))
    found: list[DeploymentResponse] = []
    with get_client(sync_client=True) as client:
        while page := client.read_deployments(deployment_filter=ours, limit=200, offset=len(found)):
            found += page
    return found


def _find(name: str) -> DeploymentResponse:
    found = [item for item in _deployments() if name in (item.name, _shown(item).full_name)]
    if len(found) == 1:
        return found[0]
    if found:
        names = " or ".join(sorted(_shown(item).full_name for item in found))
        raise UsageError(f"there are {len(found)} schedules named {name!r}", fix=f"Say {names}")
    raise UsageError(f"there is no schedule {name!r}", fix="hyperexport schedules lists them")


def _shown(deployment: DeploymentResponse) -> Schedule:
    with get_client(sync_client=True) as client:
        flow = client.read_flow(deployment.flow_id)
    times = [item for item in deployment.schedules if item.active]
    active = bool(times) and not deployment.paused
    words = "; ".join(times_in_words(item.schedule) for item in deployment.schedules)
    dates = [date for item in times if active and (date := next_time(item.schedule))]
    return Schedule(name=deployment.name, flow=flow.name, when=words, next=min(dates, default=None), active=active)
