"""``hyperexport`` without a command: the flags that choose between an export and what else concerns VMs."""

from collections.abc import Mapping
from typing import Annotated

from cyclopts import Parameter
from pydantic import SecretStr

from hyperexport.cli.command import Command
from hyperexport.cli.flags import PROFILES, WHAT, CommandLine, EmailPassword, Given, VSphere, vm_options
from hyperexport.errors import UsageError
from hyperexport.options.precedence import ExportOptions, leaves, resolve
from hyperexport.options.selection import Selection, selection_from_environment

VmInfo = Annotated[bool, Parameter(name="--vm-info", group=WHAT, negative=(), help="Show the VM; export nothing.")]
IncrementalInfo = Annotated[
    bool,
    Parameter(
        name="--incremental-info",
        group=WHAT,
        negative=(),
        help="Show what an incremental export would transfer, and why; export nothing.",
    ),
]
DaemonSchedule = Annotated[
    str | None,
    Parameter(
        name="--daemon-schedule",
        metavar="NAME:CRON",
        group=WHAT,
        help="Export at these times with the options given, such as 'daily-backup:0 2 * * *'; see hyperexport serve.",
    ),
]
CleanupSchedule = Annotated[
    str | None,
    Parameter(
        name="--cleanup-schedule",
        metavar="DURATION",
        group=WHAT,
        help="Clean up in this interval, such as 24h, with the places and limits given; see hyperexport serve.",
    ),
]
ScheduleTimezone = Annotated[
    str | None,
    Parameter(
        name="--schedule-timezone",
        metavar="ZONE",
        group=WHAT,
        help="The time zone of --daemon-schedule, such as Europe/Berlin; this machine's if not given.",
    ),
]
SaveProfile = Annotated[
    str | None,
    Parameter(
        name="--save-profile",
        metavar="NAME",
        group=PROFILES,
        help="Save the options given here under this name; without --vm do nothing else.",
    ),
]
ListProfiles = Annotated[
    bool, Parameter(name="--list-profiles", group=PROFILES, negative=(), help="Show the names of all profiles.")
]
ShowProfile = Annotated[
    str | None,
    Parameter(name="--show-profile", metavar="NAME", group=PROFILES, help="Show the options that a profile sets."),
]
DeleteProfile = Annotated[
    str | None, Parameter(name="--delete-profile", metavar="NAME", group=PROFILES, help="Delete a profile.")
]


def arguments(
    given: Given,
    *,
    vm_info: VmInfo = False,
    incremental_info: IncrementalInfo = False,
    vsphere_block: VSphere = None,
    email_password: EmailPassword = None,
    daemon_schedule: DaemonSchedule = None,
    cleanup_schedule: CleanupSchedule = None,
    schedule_timezone: ScheduleTimezone = None,
    save_profile: SaveProfile = None,
    list_profiles: ListProfiles = False,
    show_profile: ShowProfile = None,
    delete_profile: DeleteProfile = None,
) -> Command:
    """Choose the command by its flags."""
    selection = given.take_selection()
    modes = [flag for flag, wanted in (("--vm-info", vm_info), ("--incremental-info", incremental_info)) if wanted]
    managing = _managed_profile(given, listed=list_profiles, shown=show_profile, deleted=delete_profile)
    if managing:
        if given.given or selection or modes or given.profile or save_profile:
            raise UsageError(f"{managing[0]} does nothing else besides", fix="Leave the other options out")
        return managing[1]
    common: dict[str, object] = {
        "options": ExportOptions.from_keys(given.given),
        "vsphere": vsphere_block,
        "email_password": SecretStr(email_password) if email_password else None,
    }
    if daemon_schedule is not None or cleanup_schedule is not None or schedule_timezone is not None:
        _check_scheduling(modes, save_profile)
        times = {"daemon": daemon_schedule, "cleanup": cleanup_schedule, "timezone": schedule_timezone}
        from hyperexport.cli import schedules

        # The environment stays that of the process that will do it.
        return given.command(schedules.MakeSchedules, selection=selection, **common, **times)
    return _now(given, selection, modes, save_profile, common)


LINE = CommandLine(arguments, vm_options)


def _check_scheduling(modes: list[str], save_profile: str | None) -> None:
    if modes:
        raise UsageError(f"{modes[0]} cannot be scheduled", fix="Leave it out")
    if save_profile is not None:
        raise UsageError(
            "--save-profile saves nothing while a schedule is made",
            fix="Save the profile first, and name it with --profile in the schedule",
        )


def _now(
    given: Given, selection: Selection, modes: list[str], save_profile: str | None, common: dict[str, object]
) -> Command:
    """What is to be done at once: with the VMs that are chosen, or without any."""
    options = ExportOptions.from_keys(given.given)
    if len(modes) > 1:
        raise UsageError("--vm-info and --incremental-info exclude each other", fix="Ask for one at a time")
    if save_profile is not None:
        _check_saving(given.given, given.profile, password=common["email_password"] is not None)
    selection = selection or selection_from_environment()
    if modes == ["--vm-info"]:
        _check_vm_info(given, selection, save_profile)
        from hyperexport.cli import vm_info

        return given.command(vm_info.ShowVms, selection=selection, **common)
    if save_profile is not None and not selection and not modes:
        from hyperexport.cli import profiles

        return given.command(profiles.SaveProfile, name=save_profile, **common)
    if not selection and (modes or not options.cleanup.wanted):
        raise UsageError("no VM is named", fix="Name one with --vm, or see hyperexport --help")
    if given.profile is None:
        resolve(options)  # only the environment can add to it
    if not selection:
        from hyperexport.cli import cleanup

        return given.command(cleanup.Cleanup, **common)
    from hyperexport.cli import export, incremental_info

    kind = incremental_info.IncrementalInfo if modes else export.Export
    return given.command(kind, selection=selection, save_profile=save_profile, **common)


def _check_vm_info(given: Given, selection: Selection, save_profile: str | None) -> None:
    if not selection:
        raise UsageError("no VM is named", fix="Name one with --vm, or see hyperexport --help")
    named = [flag for flag, name in (("--profile", given.profile), ("--save-profile", save_profile)) if name]
    if given.given or named:
        flags = ", ".join([leaf.flag for leaf in leaves() if leaf.key in given.given] + named)
        raise UsageError(f"--vm-info only shows the VM, so {flags} would have no effect", fix="Leave one of them out")


def _managed_profile(
    given: Given, *, listed: bool, shown: str | None, deleted: str | None
) -> tuple[str, Command] | None:
    """What is to be done with saved profiles, where that is all that is asked."""
    if not listed and shown is None and deleted is None:
        return None
    from hyperexport.cli import profiles

    options = ExportOptions.from_keys(given.given)
    asked: list[tuple[str, Command]] = []
    if listed:
        asked.append(("--list-profiles", given.command(profiles.ListProfiles, options=options)))
    if shown is not None:
        asked.append(("--show-profile", given.command(profiles.ShowProfile, name=shown, options=options)))
    if deleted is not None:
        asked.append(("--delete-profile", given.command(profiles.DeleteProfile, name=deleted, options=options)))
    if len(asked) > 1:
        raise UsageError(f"{asked[0][0]} and {asked[1][0]} exclude each other", fix="Ask for one at a time")
    return asked[0]


def _check_saving(given: Mapping[str, object], base: str | None, *, password: bool) -> None:
    """Refuse to save what does not belong into a profile."""
    if password:
        raise UsageError(
            "--email-password cannot be saved: a profile holds no secrets",
            fix="Save an Email Server Credentials block in the Prefect UI under Blocks, and name it with "
            "--email-credentials",
        )
    if "dry_run" in given:
        raise UsageError("--dry-run changes nothing, so it saves no profile", fix="Leave one of them out")
    if not given and base is None:
        raise UsageError("there is nothing to save", fix="Give the options to save in the profile")
