"""The flags: those of the options, made from the model, and those that exist at a terminal and nowhere else.

No option of an export is declared a second time here (see :func:`hyperexport.options.precedence.leaves`). Values
stay text until the model reads them, so that a flag, a variable and a form can never disagree about what is valid.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, get_args

from cyclopts import Group, Parameter

from hyperexport.base.units import format_duration
from hyperexport.cli.request import Face, Mode, Request, face_of
from hyperexport.options.precedence import ExportOptions, Leaf, resolve

WHAT = Group("What to do", sort_key=0)
_PROFILES = Group("Profiles", sort_key=5)
TERMINAL = Group("Terminal", sort_key=90)


def _form_group(name: str) -> Group:
    """A group of the form, under the title and at the place that it has there."""
    if name == "selection":
        return WHAT
    group = ExportOptions.model_fields[name]
    position = int(group.json_schema_extra["position"])  # pyright: ignore[reportOptionalSubscript,reportIndexIssue,reportArgumentType,reportUnknownArgumentType]
    return Group(group.title or name.capitalize(), sort_key=10 + position)


def _check_name(_kind: Any, name: str | None) -> None:
    """Refuse an empty name, as a script's empty variable gives it: it would be no profile at all."""
    if name == "":
        raise ValueError("The name is missing")


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
VSphere = Annotated[
    str | None,
    Parameter(
        name="--vsphere-block",
        metavar="NAME",
        group=WHAT,
        help="The saved block with the server and the login, in place of the environment.",
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
EmailPassword = Annotated[
    str | None,
    Parameter(
        name="--email-password",
        metavar="PASSWORD",
        group=_form_group("email"),
        help="The mail server's password, for this run only. Others on this machine may see it: better is "
        "--email-credentials, or else HYPEREXPORT_EMAIL_PASSWORD.",
    ),
]
Profile = Annotated[
    str | None,
    Parameter(
        name="--profile",
        metavar="NAME",
        group=_PROFILES,
        help="Use the options saved under this name; flags and the environment win over them.",
        validator=_check_name,
    ),
]
SaveProfile = Annotated[
    str | None,
    Parameter(
        name="--save-profile",
        metavar="NAME",
        group=_PROFILES,
        help="Save the options given here under this name; without --vm do nothing else.",
    ),
]
ListProfiles = Annotated[
    bool, Parameter(name="--list-profiles", group=_PROFILES, negative=(), help="Show the names of all profiles.")
]
ShowProfile = Annotated[
    str | None,
    Parameter(name="--show-profile", metavar="NAME", group=_PROFILES, help="Show the options that a profile sets."),
]
DeleteProfile = Annotated[
    str | None, Parameter(name="--delete-profile", metavar="NAME", group=_PROFILES, help="Delete a profile.")
]
Exports = Annotated[
    str, Parameter(name="EXPORT", help="An export's id or path, as hyperexport list shows it; every export if none.")
]
Quiet = Annotated[
    bool, Parameter(name="--quiet", group=TERMINAL, negative=(), help="Only key=value lines on standard output.")
]
Json = Annotated[
    bool, Parameter(name="--json", group=TERMINAL, negative=(), help="One JSON document on standard output.")
]
Debug = Annotated[
    bool,
    Parameter(name="--debug", group=TERMINAL, negative=(), help="Show every decision, and tracebacks of failures."),
]


NoPrefect = Annotated[
    bool,
    Parameter(
        name="--no-prefect",
        group=TERMINAL,
        negative=(),
        help="Run in this process, even where a Prefect API is configured; see hyperexport config.",
    ),
]


_COMMON: Final = {
    "profile": (Profile, None),
    "no_prefect": (NoPrefect, False),
    "quiet": (Quiet, False),
    "json": (Json, False),
    "debug": (Debug, False),
}
"""What every command takes: its words at the terminal, and their defaults."""


@dataclass(frozen=True)
class Asked:
    """What every command is given.

    Args:
        given: The options, by key.
        profile: The saved profile to use.
        face: How to answer.
        debug: Show tracebacks and every decision.
        no_prefect: Run in this process.
    """

    given: dict[str, object]
    profile: str | None
    face: Face
    debug: bool
    no_prefect: bool = False

    def options(self, **more: object) -> ExportOptions:
        """The options, of which only what was given counts as set.

        Where only the environment can add to them, they are checked at once: a mistake is told before a server is
        waited for. Whoever runs the command merges and checks again.

        Raises:
            UsageError: A value makes no sense; the message names the flag or the variable.
        """
        options = ExportOptions.from_keys({**self.given, **more})
        if self.profile is None:
            resolve(options)
        return options

    def request(self, mode: Mode, **fields: Any) -> Request:
        """The request, with the options as :meth:`options` has them unless others are among its fields."""
        if "options" not in fields:
            fields["options"] = self.options()
        common = {"profile": self.profile, "face": self.face, "debug": self.debug, "no_prefect": self.no_prefect}
        return Request(mode=mode, **common, **fields)


def taking(flags: Sequence[Leaf], function: Callable[..., Request], *, json: bool = True) -> Callable[..., Request]:
    """Give a function a signature in which every option is a flag, besides those that every command takes.

    Args:
        flags: The options.
        function: Gets what was given as :class:`Asked`, and then its own words.
        json: Whether it can answer in JSON.
    """
    keys = {leaf.key for leaf in flags}
    common = {name: kind for name, kind in _COMMON.items() if json or name != "json"}

    def command(*args: Any, **kwargs: Any) -> Request:
        given = {key: value for key, value in kwargs.items() if key in keys}
        face = face_of(quiet=kwargs.get("quiet", False), json=kwargs.get("json", False))
        asked = Asked(given, kwargs.get("profile"), face, kwargs.get("debug", False), kwargs.get("no_prefect", False))
        rest = {key: value for key, value in kwargs.items() if key not in keys and key not in common}
        return function(asked, *args, **rest)

    own = list(inspect.signature(function).parameters.values())[1:]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in common.items()
    ]
    signature = inspect.Signature([*own, *shared, *(_parameter(leaf) for leaf in flags)])
    command.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    command.__doc__ = function.__doc__
    return command


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
