"""``hyperexport schedules``, and the flags that make schedules: ``--daemon-schedule`` and ``--cleanup-schedule``."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter
from rich.console import Console

from hyperexport.cli.command import Command, VmCommand
from hyperexport.cli.execution import require_prefect
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import CommandLine, Debug, Json, Quiet
from hyperexport.cli.output import Output, OutputFormat, key_value, make_table, output_format_of, say
from hyperexport.errors import UsageError
from hyperexport.options.precedence import ExportOptions

if TYPE_CHECKING:
    from hyperexport.deployments.schedules import PlannedSchedule, Schedule

_DONE: Final = {"pause": "paused", "resume": "resumed", "remove": "removed"}


@dataclass(frozen=True, kw_only=True)
class MakeSchedules(VmCommand):
    """Make schedules.

    Args:
        daemon: ``name:CRON`` of a scheduled export.
        cleanup: The interval of a scheduled cleanup.
        timezone: The cron line's time zone; this machine's if None.
    """

    daemon: str | None = None
    cleanup: str | None = None
    timezone: str | None = None

    def run(self, output: Output) -> list[Failure]:
        """Make the schedules; in a dry run only show them."""
        self._check()
        require_prefect(self, "--daemon-schedule" if self.daemon else "--cleanup-schedule")
        from hyperexport.deployments import schedules

        dry_run = self.options.execution.dry_run
        done = "would schedule" if dry_run else "scheduled"
        for plan in self._plans():
            schedule = plan.shown if dry_run else schedules.apply(plan)
            output.answer(
                "schedules",
                pretty=lambda console, schedule=schedule: show_scheduled(console, schedule, done),
                quiet=[*schedule_lines(schedule), f"dry_run={str(dry_run).lower()}"],
                document={**schedule.model_dump(mode="json"), "dry_run": dry_run},
            )
        if output.output_format is OutputFormat.PRETTY:
            output.say("Nothing was changed." if dry_run else self._how_they_run())
        return []

    def _check(self) -> None:
        """Refuse options that a schedule cannot have, before a Prefect server is waited for.

        Raises:
            UsageError: As it says.
        """
        if self.daemon and not self.selection:
            raise UsageError("no VM is named for --daemon-schedule", fix="Name one with --vm")
        if self.selection and not self.daemon:
            raise UsageError(
                "--cleanup-schedule does not say when the VM is exported",
                fix="Add --daemon-schedule 'name:CRON', or leave --vm out for a scheduled cleanup alone",
            )
        if self.timezone and not self.daemon:
            raise UsageError("--schedule-timezone has no effect without --daemon-schedule", fix="Leave it out")
        if self.email_password:
            raise UsageError(
                "--email-password cannot be kept in a schedule, where others could read it",
                fix="Name a saved block with --email-credentials, or set HYPEREXPORT_EMAIL_PASSWORD where "
                "hyperexport serve runs",
            )
        if not self.profile:
            self._check_limits(cleans_up=self.options.cleanup.enabled)

    def _check_limits(self, *, cleans_up: bool) -> None:
        """Refuse limits of a cleanup where there will be none."""
        limits = [key for key in self.options.given_keys() if key.startswith("cleanup_")]
        if limits and not cleans_up and not self.cleanup:
            flag = "--" + limits[0].replace("_", "-")
            raise UsageError(f"{flag} has no effect without a cleanup", fix="Add --cleanup or --cleanup-schedule 24h")

    def _plans(self) -> "list[PlannedSchedule]":
        """Work all of them out before the first is made."""
        from hyperexport.blocks.export_profile import load_profile
        from hyperexport.deployments import schedules

        given = self.options.given_keys()
        given.pop("dry_run", None)
        options = ExportOptions.from_keys(given)
        profile = load_profile(self.profile) if self.profile else None
        self._check_limits(cleans_up=schedules.cleans_up(options, profile))
        plans: list[PlannedSchedule] = []
        if self.daemon:
            plans.append(
                schedules.plan_export(
                    self.daemon,
                    self.selection,
                    options,
                    timezone=self.timezone,
                    vsphere=self.vsphere,
                    profile=profile,
                )
            )
        if self.cleanup:
            name = f"{plans[0].name}-cleanup" if plans else "cleanup"
            plans.append(schedules.plan_cleanup(name, self.cleanup, options, profile=profile))
        return plans

    def _how_they_run(self) -> str:
        words = "It fires while hyperexport serve, or a Prefect worker of the pool 'hyperexport', runs."
        exports = self.selection and not self.vsphere
        return f"{words} The vSphere login is the one in its environment." if exports else words


@dataclass(frozen=True, kw_only=True)
class ManageSchedules(Command):
    """List the schedules, or change one.

    Args:
        action: ``pause``, ``resume`` or ``remove``; None lists.
        name: The schedule that is meant.
    """

    action: str | None = None
    name: str | None = None

    def run(self, output: Output) -> list[Failure]:
        """Show the schedules, or what was done to one."""
        require_prefect(self, "hyperexport schedules")
        from hyperexport.deployments import schedules

        if self.action and self.name:
            act = {"pause": schedules.pause, "resume": schedules.resume, "remove": schedules.remove}[self.action]
            found = [act(self.name)]
        else:
            found = schedules.schedules()
        output.nothing("schedules")
        for schedule in found:
            output.answer(
                "schedules",
                pretty=lambda _: None,
                quiet=schedule_lines(schedule),
                document=schedule.model_dump(mode="json"),
            )
        if output.output_format is OutputFormat.PRETTY:
            output.draw(lambda console: show_schedules(console, found, _DONE.get(self.action or "")))
        return []


def arguments(
    *words: Annotated[str, Parameter(name="ACTION NAME", help="pause, resume or remove, and the schedule's name.")],
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> ManageSchedules:
    """List the schedules; or pause, resume or remove one.

    They are made with --daemon-schedule and --cleanup-schedule.
    """
    if words and (len(words) != 2 or words[0] not in _DONE):
        raise UsageError(
            f"{' '.join(words)!r} is not an action for schedules",
            fix="Use pause, resume or remove with the name of one schedule, or neither for the list",
        )
    action, name = words or (None, None)
    return ManageSchedules(
        output_format=output_format_of(quiet=quiet, json=json), debug=debug, action=action, name=name
    )


LINE = CommandLine(arguments)


def show_schedules(console: Console, schedules: Sequence["Schedule"], done: str | None) -> None:
    """Show the schedules that there are, or what was done to one."""
    rows = (
        (item.name, item.flow, item.when, _time(item.next), "yes" if item.active else "paused") for item in schedules
    )
    if done:
        show_scheduled(console, schedules[0], done)
    elif schedules:
        console.print(make_table("Schedules", ("Name", "Flow", "When", "Next", "Active"), rows))
    else:
        say(console, "no schedules")


def show_scheduled(console: Console, schedule: "Schedule", done: str) -> None:
    """Say what became of one schedule: ``scheduled``, ``would schedule``, ``paused``, ..."""
    following = f": {schedule.when}, next {_time(schedule.next)}" if schedule.active else ""
    say(console, f"{done} {schedule.full_name}{following}")


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M %Z}" if moment else "-"


def schedule_lines(schedule: "Schedule") -> list[str]:
    """A schedule, and when it fires."""
    return [
        key_value("name", schedule.name),
        key_value("flow", schedule.flow),
        key_value("when", schedule.when),
        key_value("next", schedule.next.isoformat() if schedule.next else ""),
        key_value("active", schedule.active),
    ]
