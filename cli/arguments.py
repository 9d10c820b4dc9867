"""From words on a command line to one request, or a usage error that names the word.

The flags of an export are made from the options model (:func:`hyperexport.options.leaves`): none is written down a
second time here. Only what exists at a terminal and nowhere else (``--vm``, the modes, ``--quiet``, ...) is declared
here. Values stay text until the model reads them, so that a flag, a variable and a form can never disagree about what
is valid. This module runs nothing and prints nothing but the help.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, get_args

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.exceptions import UnknownCommandError, UnusedCliTokensError
from pydantic import SecretStr

import hyperexport
from hyperexport.errors import UsageError
from hyperexport.option_groups import VerifyMode
from hyperexport.options import ExportOptions, Leaf, leaves, resolve
from hyperexport.selection import Selection, make_selection, selection_from_environment, selection_leaves
from hyperexport.units import MIB, format_duration

_DESCRIPTION: Final = """\
Takes VMware vSphere virtual machines out safely: snapshot, export, verify, upload, clean up.

Without a command it exports the VMs named by --vm. The server is read from GOVC_URL, GOVC_USERNAME and GOVC_PASSWORD,
as govc reads them. Every option can also be set as HYPEREXPORT_<OPTION>; a flag wins over the environment,
and the environment over a saved profile; hyperexport config shows what is in force, and where each value came from.
1 MB is 1,048,576 bytes. Durations look like 90m, 720h or 30d. Booleans take --flag, --flag=false and --no-flag.
"""


class Mode(StrEnum):
    """What is asked for."""

    EXPORT = "export"
    VM_INFO = "vm-info"
    INCREMENTAL_INFO = "incremental-info"
    CLEANUP = "cleanup"
    VERIFY = "verify"
    LIST = "list"
    REAP_SNAPSHOTS = "reap-snapshots"
    PRESERVE = "preserve"
    CONFIG = "config"
    SAVE_PROFILE = "save-profile"
    LIST_PROFILES = "list-profiles"
    SHOW_PROFILE = "show-profile"
    DELETE_PROFILE = "delete-profile"
    SEND_TEST_EMAIL = "send-test-email"
    SCHEDULE = "schedule"
    SCHEDULES = "schedules"
    SERVE = "serve"
    SIMULATE = "simulate"


class Face(StrEnum):
    """How it is answered."""

    PRETTY = "pretty"
    QUIET = "quiet"
    JSON = "json"


@dataclass(frozen=True)
class Scheduling:
    """What is to be scheduled, or done to a schedule.

    Args:
        daemon: ``name:CRON`` of a scheduled export.
        cleanup: The interval of a scheduled cleanup.
        timezone: The cron line's time zone; this machine's if None.
        action: ``pause``, ``resume`` or ``remove``; None only lists.
        name: The schedule that is meant.
    """

    daemon: str | None = None
    cleanup: str | None = None
    timezone: str | None = None
    action: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Serving:
    """How ``hyperexport serve`` serves.

    Args:
        limit: How many runs there may be at a time.
        api_port: The jobs API's port; None for no jobs API.
        api_host: The address that it listens on.
        prefect_port: The port of the Prefect server, where none is configured.
    """

    limit: int
    api_port: int | None
    api_host: str
    prefect_port: int


@dataclass(frozen=True)
class Request:
    """A command line, understood.

    Args:
        mode: What is asked for.
        selection: The VMs that are meant, from the command line or else the environment.
        exports: Exports to verify, or to preserve.
        options: What was given on the command line; the rest is not set.
        face: How it is answered.
        debug: Show tracebacks and every decision.
        vsphere: The saved block with the server and the login, if one was named.
        email_password: The mail server's password, which is no option: options are stored.
        profile: The saved profile to use, to show or to delete.
        save_profile: The name to save the options under.
        preserving: Whether exports get the mark of preservation or lose it.
        simulation: The simulator's own arguments.
        scheduling: What is to be scheduled, or done to a schedule.
        serving: How to serve.
    """

    mode: Mode
    selection: Selection = field(default_factory=Selection)
    exports: tuple[str, ...] = ()
    options: ExportOptions = field(default_factory=ExportOptions)
    face: Face = Face.PRETTY
    debug: bool = False
    vsphere: str | None = None
    email_password: SecretStr | None = None
    profile: str | None = None
    save_profile: str | None = None
    preserving: bool = True
    simulation: Mapping[str, Any] | None = None
    scheduling: Scheduling | None = None
    serving: Serving | None = None

    @property
    def vms(self) -> tuple[str, ...]:
        """The VMs that are named one by one."""
        return self.selection.vm


_WHAT = Group("What to do", sort_key=0)
_PROFILES = Group("Profiles", sort_key=5)
_TERMINAL = Group("Terminal", sort_key=90)


def _form_group(name: str) -> Group:
    """A group of the form, under the title and at the place that it has there."""
    if name == "selection":
        return _WHAT
    group = ExportOptions.model_fields[name]
    position = int(group.json_schema_extra["position"])  # pyright: ignore[reportOptionalSubscript,reportIndexIssue,reportArgumentType,reportUnknownArgumentType]
    return Group(group.title or name.capitalize(), sort_key=10 + position)


_VmInfo = Annotated[bool, Parameter(name="--vm-info", group=_WHAT, negative=(), help="Show the VM; export nothing.")]
_IncrementalInfo = Annotated[
    bool,
    Parameter(
        name="--incremental-info",
        group=_WHAT,
        negative=(),
        help="Show what an incremental export would transfer, and why; export nothing.",
    ),
]
_VSphere = Annotated[
    str | None,
    Parameter(
        name="--vsphere-block",
        metavar="NAME",
        group=_WHAT,
        help="The saved block with the server and the login, in place of the environment.",
    ),
]
_DaemonSchedule = Annotated[
    str | None,
    Parameter(
        name="--daemon-schedule",
        metavar="NAME:CRON",
        group=_WHAT,
        help="Export at these times with the options given, such as 'daily-backup:0 2 * * *'; see hyperexport serve.",
    ),
]
_CleanupSchedule = Annotated[
    str | None,
    Parameter(
        name="--cleanup-schedule",
        metavar="DURATION",
        group=_WHAT,
        help="Clean up in this interval, such as 24h, with the places and limits given; see hyperexport serve.",
    ),
]
_ScheduleTimezone = Annotated[
    str | None,
    Parameter(
        name="--schedule-timezone",
        metavar="ZONE",
        group=_WHAT,
        help="The time zone of --daemon-schedule, such as Europe/Berlin; this machine's if not given.",
    ),
]
_EmailPassword = Annotated[
    str | None,
    Parameter(
        name="--email-password",
        metavar="PASSWORD",
        group=_form_group("email"),
        help="The mail server's password, for this run only. Others on this machine may see it: better is "
        "--email-credentials, or else HYPEREXPORT_EMAIL_PASSWORD.",
    ),
]
_Profile = Annotated[
    str | None,
    Parameter(
        name="--profile",
        metavar="NAME",
        group=_PROFILES,
        help="Use the options saved under this name; flags and the environment win over them.",
    ),
]
_SaveProfile = Annotated[
    str | None,
    Parameter(
        name="--save-profile",
        metavar="NAME",
        group=_PROFILES,
        help="Save the options given here under this name; without --vm do nothing else.",
    ),
]
_ListProfiles = Annotated[
    bool, Parameter(name="--list-profiles", group=_PROFILES, negative=(), help="Show the names of all profiles.")
]
_ShowProfile = Annotated[
    str | None,
    Parameter(name="--show-profile", metavar="NAME", group=_PROFILES, help="Show the options that a profile sets."),
]
_DeleteProfile = Annotated[
    str | None, Parameter(name="--delete-profile", metavar="NAME", group=_PROFILES, help="Delete a profile.")
]
_Exports = Annotated[
    str, Parameter(name="EXPORT", help="An export's id or path, as hyperexport list shows it; every export if none.")
]
Quiet = Annotated[
    bool, Parameter(name="--quiet", group=_TERMINAL, negative=(), help="Only key=value lines on standard output.")
]
Json = Annotated[
    bool, Parameter(name="--json", group=_TERMINAL, negative=(), help="One JSON document on standard output.")
]
Debug = Annotated[
    bool,
    Parameter(name="--debug", group=_TERMINAL, negative=(), help="Show every decision, and tracebacks of failures."),
]


def parse(words: Sequence[str]) -> Request | None:
    """Understand a command line.

    Args:
        words: Without the program's name.

    Returns:
        The request, or None where ``--help`` or ``--version`` has answered already.

    Raises:
        UsageError: The words make no sense; the message names the one that does not.
    """
    app = build_app()
    try:
        return app(_complete(words), exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        raise UsageError(*_explain(error, words)) from error


def build_app() -> App:
    """Make the parser: one function for each command, whose parameters are the flags."""
    app = App(
        name="hyperexport",
        help=_DESCRIPTION,
        help_format="plaintext",
        version=hyperexport.__version__,
        version_flags="--version",
        result_action="return_value",
        default_parameter=Parameter(negative_iterable=(), show_default=False),
    )
    app["--help"].group = app["--version"].group = _TERMINAL
    every = tuple(leaves())
    places = tuple(leaf for leaf in every if leaf.group == "destination" and leaf.key != "format")
    app.default(_taking((*selection_leaves(), *every), _run))
    app.command(_taking(places, _verify), name="verify")
    app.command(_taking(places, _list), name="list")
    reaping = (*places, *(leaf for leaf in every if leaf.key == "dry_run"))
    app.command(_taking(reaping, _reap_snapshots), name="reap-snapshots")
    app.command(_taking(places, _preserve), name="preserve")
    app.command(_taking(every, _config), name="config")
    mail = tuple(leaf for leaf in every if leaf.group == "email" and not leaf.name.startswith("on_"))
    app.command(_taking(mail, _send_test_email), name="send-test-email")
    from cli import service_arguments  # it stands on this module

    app.command(service_arguments.schedules, name="schedules")
    app.command(service_arguments.serve, name="serve")
    app.command(_simulate, name="simulate")
    return app


def _run(
    given: dict[str, object],
    *,
    vm_info: _VmInfo = False,
    incremental_info: _IncrementalInfo = False,
    vsphere_block: _VSphere = None,
    email_password: _EmailPassword = None,
    daemon_schedule: _DaemonSchedule = None,
    cleanup_schedule: _CleanupSchedule = None,
    schedule_timezone: _ScheduleTimezone = None,
    profile: _Profile = None,
    save_profile: _SaveProfile = None,
    list_profiles: _ListProfiles = False,
    show_profile: _ShowProfile = None,
    delete_profile: _DeleteProfile = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> Request:
    modes = [mode for mode, asked in ((Mode.VM_INFO, vm_info), (Mode.INCREMENTAL_INFO, incremental_info)) if asked]
    chosen = make_selection({leaf.key: given.pop(leaf.key) for leaf in selection_leaves() if leaf.key in given})
    minding = _minded_profile(listed=list_profiles, shown=show_profile, deleted=delete_profile)
    if minding:
        if given or chosen or modes or profile or save_profile:
            raise UsageError(f"--{minding[0]} does nothing else besides", fix="Leave the other options out")
        return Request(mode=minding[0], profile=minding[1], face=face_of(quiet=quiet, json=json), debug=debug)
    if daemon_schedule is not None or cleanup_schedule is not None or schedule_timezone is not None:
        if modes:
            raise UsageError(f"--{modes[0]} cannot be scheduled", fix="Leave it out")
        if save_profile is not None:
            raise UsageError(
                "--save-profile saves nothing while a schedule is made",
                fix="Save the profile first, and name it with --profile in the schedule",
            )
        return Request(
            mode=Mode.SCHEDULE,
            selection=chosen,
            options=ExportOptions.from_keys(given),  # the environment stays that of the process that will run it
            face=face_of(quiet=quiet, json=json),
            debug=debug,
            vsphere=vsphere_block,
            email_password=SecretStr(email_password) if email_password else None,
            profile=profile,
            scheduling=Scheduling(daemon=daemon_schedule, cleanup=cleanup_schedule, timezone=schedule_timezone),
        )
    if len(modes) > 1:
        raise UsageError("--vm-info and --incremental-info exclude each other", fix="Ask for one at a time")
    if save_profile is not None:
        _check_saving(given, profile, password=email_password)
    cleaning = given.get("cleanup") is True or given.get("cleanup_dry_run") is True
    alone = Mode.SAVE_PROFILE if save_profile is not None else Mode.CLEANUP if cleaning else None
    chosen = chosen or selection_from_environment()
    mode = modes[0] if modes else alone if alone and not chosen else Mode.EXPORT
    if mode is not alone and not chosen:
        raise UsageError("no VM is named", fix="Name one with --vm, or see hyperexport --help")
    if mode is Mode.VM_INFO and (given or profile or save_profile):
        named = [flag for flag, name in (("--profile", profile), ("--save-profile", save_profile)) if name]
        flags = ", ".join([leaf.flag for leaf in leaves() if leaf.key in given] + named)
        raise UsageError(f"--vm-info only shows the VM, so {flags} would have no effect", fix="Leave one of them out")
    return Request(
        mode=mode,
        selection=chosen,
        options=options_of(given, whole=profile is None and mode not in {Mode.VM_INFO, Mode.SAVE_PROFILE}),
        profile=profile,
        save_profile=save_profile,
        face=face_of(quiet=quiet, json=json),
        debug=debug,
        vsphere=vsphere_block,
        email_password=SecretStr(email_password) if email_password else None,
    )


def _verify(
    given: dict[str, object],
    *exports: _Exports,
    deep: Annotated[bool, Parameter(group=_WHAT, negative=(), help="Download from S3 what S3 keeps.")] = False,
    profile: _Profile = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> Request:
    """Read stored exports back and prove that they are what was exported."""
    return Request(
        mode=Mode.VERIFY,
        exports=exports,
        options=options_of({**given, "verify": VerifyMode.DEEP if deep else VerifyMode.ON}, whole=profile is None),
        profile=profile,
        face=face_of(quiet=quiet, json=json),
        debug=debug,
    )


def _list(
    given: dict[str, object],
    *,
    profile: _Profile = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> Request:
    """Show the exports that the local store and, with --upload, the bucket hold."""
    return Request(
        mode=Mode.LIST,
        options=options_of(given, whole=profile is None),
        profile=profile,
        face=face_of(quiet=quiet, json=json),
        debug=debug,
    )


def _preserve(
    given: dict[str, object],
    *exports: Annotated[str, Parameter(name="EXPORT", help="An export's id or path, as hyperexport list shows it.")],
    off: Annotated[bool, Parameter(group=_WHAT, negative=(), help="Take the mark away again.")] = False,
    profile: _Profile = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> Request:
    """Mark exports as preserved, wherever they are stored: no cleanup deletes them."""
    if not exports:
        raise UsageError("no export is named", fix="Name one as hyperexport list shows it")
    return Request(
        mode=Mode.PRESERVE,
        exports=exports,
        preserving=not off,
        options=options_of(given, whole=profile is None),
        profile=profile,
        face=face_of(quiet=quiet, json=json),
        debug=debug,
    )


def _config(
    given: dict[str, object],
    *,
    profile: _Profile = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> Request:
    """Show every option with the value in force, and where that came from; nothing else is done."""
    return Request(
        mode=Mode.CONFIG,
        options=options_of(given, whole=profile is None),
        profile=profile,
        face=face_of(quiet=quiet, json=json),
        debug=debug,
    )


def _reap_snapshots(
    given: dict[str, object],
    *,
    vsphere_block: _VSphere = None,
    profile: _Profile = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> Request:
    """Remove the snapshots and half-written exports that dead runs left; a user's snapshots are never touched."""
    return Request(
        mode=Mode.REAP_SNAPSHOTS,
        options=options_of(given, whole=profile is None),
        profile=profile,
        face=face_of(quiet=quiet, json=json),
        debug=debug,
        vsphere=vsphere_block,
    )


def _send_test_email(
    given: dict[str, object],
    *,
    email_password: _EmailPassword = None,
    profile: _Profile = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> Request:
    """Send a test to everyone whom an export with these options would tell."""
    return Request(
        mode=Mode.SEND_TEST_EMAIL,
        options=options_of(given, whole=profile is None),
        profile=profile,
        face=face_of(quiet=quiet, json=json),
        debug=debug,
        email_password=SecretStr(email_password) if email_password else None,
    )


def _simulate(
    *,
    port: Annotated[int, Parameter(help="The port to listen on; 0 chooses a free one.")] = 8989,
    vms: Annotated[int, Parameter(help="How many VMs it holds.")] = 3,
    disks: Annotated[int, Parameter(help="How many disks each VM has.")] = 2,
    disk_size: Annotated[int, Parameter(help="The capacity of each disk, in MB.")] = 64,
    address: Annotated[str, Parameter(help="The address to listen on.")] = "127.0.0.1",
    username: Annotated[str, Parameter(help="The user whom it lets in.")] = "administrator@vsphere.local",
    ready_file: Annotated[Path | None, Parameter(help="Written once it answers, with how to reach it.")] = None,
    directory: Annotated[Path | None, Parameter(help="Where it keeps its certificate, if it shall stay.")] = None,
    latency: Annotated[float, Parameter(help="Milliseconds that every answer takes longer.")] = 0.0,
    debug: Debug = False,
) -> Request:
    """Run a simulated vCenter, to try everything without a real one; it prints how to reach it. Ctrl-C ends it."""
    return Request(
        mode=Mode.SIMULATE,
        debug=debug,
        simulation={
            "port": port,
            "vms": vms,
            "disks": disks,
            "disk_size": disk_size * MIB,
            "address": address,
            "username": username,
            "ready_file": ready_file,
            "directory": directory,
            "latency": latency / 1000,
        },
    )


def options_of(given: Mapping[str, object], *, whole: bool = True) -> ExportOptions:
    """Build the options of which only what was given counts as set.

    Args:
        given: What was given, by key.
        whole: Whether only the environment can add to it, so that what results can be checked at once. Whoever runs
            it merges and checks again; a mistake is told here before a server is waited for.

    Raises:
        UsageError: A value makes no sense; the message names the flag or the variable.
    """
    options = ExportOptions.from_keys(given)
    if whole:
        resolve(options)
    return options


def _minded_profile(*, listed: bool, shown: str | None, deleted: str | None) -> tuple[Mode, str | None] | None:
    """What is to be done with saved profiles, where that is all that is asked."""
    asked = [
        (mode, name)
        for mode, name in (
            (Mode.LIST_PROFILES, "" if listed else None),
            (Mode.SHOW_PROFILE, shown),
            (Mode.DELETE_PROFILE, deleted),
        )
        if name is not None
    ]
    if len(asked) > 1:
        raise UsageError(f"--{asked[0][0]} and --{asked[1][0]} exclude each other", fix="Ask for one at a time")
    return asked[0] if asked else None


def _check_saving(given: Mapping[str, object], base: str | None, *, password: str | None) -> None:
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
        raise UsageError("there is nothing to save", fix="Give the options that the profile shall set")


def face_of(*, quiet: bool, json: bool) -> Face:
    """Tell in which form to answer."""
    if quiet and json:
        raise UsageError("--quiet and --json exclude each other", fix="Choose one form of output")
    return Face.QUIET if quiet else Face.JSON if json else Face.PRETTY


def _taking(flags: Sequence[Leaf], function: Callable[..., Request]) -> Callable[..., Request]:
    """Give a function a signature in which every option is a flag; it gets those that were given as a mapping."""
    keys = {leaf.key for leaf in flags}

    def command(*args: Any, **kwargs: Any) -> Request:
        chosen = {leaf.key for leaf in selection_leaves()}  # a VM's name may hold a comma
        given = {key: value if key in chosen else _plain(value) for key, value in kwargs.items() if key in keys}
        rest = {key: value for key, value in kwargs.items() if key not in keys}
        return function(given, *args, **rest)

    own = list(inspect.signature(function).parameters.values())[1:]
    signature = inspect.Signature([*own, *(_parameter(leaf) for leaf in flags)])
    command.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    command.__doc__ = function.__doc__
    return command


def _plain(value: object) -> object:
    """The value as the model reads it: several words are one text with commas, as in the environment."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]


def _parameter(leaf: Leaf) -> inspect.Parameter:
    """One option as a flag; not given, it is absent."""
    kinds = _kinds(leaf)
    if bool in kinds:
        kind: Any = bool
    elif tuple[str, ...] in kinds:
        kind = tuple[str, ...]
    else:
        kind = str
    description = Parameter(
        name=leaf.flag,
        group=_form_group(leaf.group),
        help=_help(leaf),
        metavar=None if kind is bool else _metavar(leaf, kinds),
        negative_bool=("no-",),
    )
    return inspect.Parameter(
        leaf.key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, description]
    )


def _kinds(leaf: Leaf) -> tuple[Any, ...]:
    """The types that an option's value may have, without the wrapping."""

    def bare(kind: Any) -> Any:
        return bare(get_args(kind)[0]) if hasattr(kind, "__metadata__") else kind

    kind = bare(leaf.field.annotation)
    union = get_args(kind) if type(None) in get_args(kind) else (kind,)
    return tuple(bare(part) for part in union if part is not type(None))


def _metavar(leaf: Leaf, kinds: tuple[Any, ...]) -> str:
    if leaf.example:
        return leaf.example
    names = {int: "N", float: "N", Path: "DIR", timedelta: "DURATION", tuple[str, ...]: "PATTERN", str: "TEXT"}
    kind = kinds[0]
    return names.get(kind) or "|".join(str(choice.value) for choice in kind)


def _help(leaf: Leaf) -> str:
    default = leaf.field.default
    if isinstance(default, timedelta):
        default = format_duration(default)
    shown = default is not None and default is not False and default != ()
    return (
        f"{leaf.field.description} [default: {'yes' if default is True else default}]"
        if shown
        else str(leaf.field.description)
    )


def _complete(words: Sequence[str]) -> list[str]:
    """Give flags that may stand without a value the one that they mean: ``--verify`` is ``--verify=on``."""
    bare = {leaf.flag for leaf in leaves() if leaf.field.annotation is VerifyMode}
    end = words.index("--") if "--" in words else len(words)
    return [f"{word}={VerifyMode.ON}" if word in bare else word for word in words[:end]] + list(words[end:])


def _explain(error: CycloptsError, words: Sequence[str]) -> tuple[str]:
    """Say what cyclopts found wrong, in our own form."""
    if isinstance(error, UnusedCliTokensError | UnknownCommandError) and error.unused_tokens:
        word = error.unused_tokens[0]
        before = words[words.index(word) - 1] if word in words and words.index(word) else ""
        if before.startswith("--") and "=" not in before:
            return (f"{before} takes its value with an equals sign: {before}={word}",)
        return (f"{word!r} is neither a command nor an option's value. See hyperexport --help",)
    text = str(error).removesuffix(".")
    return (text[:1].lower() + text[1:] if text.startswith(("Unknown", "Invalid", "Parameter")) else text,)
