"""The flags: those of the options, made from the model, and those that exist at a terminal and nowhere else.

No option of an export is declared a second time here (see :func:`hyperexport.options.precedence.leaves`). Values
stay text until the model reads them, so that a flag, a variable and a form can never disagree about what is valid.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args

from cyclopts import Group, Parameter

from hyperexport.base.units import format_duration, parse_duration
from hyperexport.cli.command import Command
from hyperexport.cli.output import OutputFormat, output_format_of
from hyperexport.errors import UsageError
from hyperexport.model.restore_point import RestorePoint, parse_time
from hyperexport.options.precedence import ExportOptions, Leaf, leaves, resolve
from hyperexport.options.selection import Selection, make_selection, selection_leaves

T = TypeVar("T")

WHAT = Group("What to do", sort_key=0)
PROFILES = Group("Profiles", sort_key=5)
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


VSphere = Annotated[
    str | None,
    Parameter(
        name="--vsphere-block",
        metavar="NAME",
        group=WHAT,
        help="Saved vSphere credentials block, instead of the environment.",
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
        group=PROFILES,
        help="Use the options saved under this name; flags and the environment take precedence.",
        validator=_check_name,
    ),
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


Export = Annotated[
    str | None, Parameter(name="EXPORT", help="An export's id or path, as hyperexport list shows it; or use --vm.")
]
Vm = Annotated[
    str | None,
    Parameter(name="--vm", group=WHAT, metavar="NAME", help="The newest good export of this VM, in place of EXPORT."),
]
At = Annotated[
    str | None,
    Parameter(
        name="--at",
        group=WHAT,
        metavar="TIME",
        help="With --vm: the newest good export begun by then, such as 2026-11-23T18:00 (local time) or ...T18:00Z.",
    ),
]
Disks = Annotated[
    tuple[int, ...],
    Parameter(name="--disk", group=WHAT, metavar="N", help="Only this disk, from 0; repeatable. [default: all]"),
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

_ONE_EXPORT: Final = {"vm": (Vm, None), "at": (At, None)}
"""What a command takes that reads one export, beside EXPORT itself."""


C = TypeVar("C", bound=Command)


@dataclass(frozen=True)
class Given:
    """The flags that every command takes, as they were given, and its options.

    Args:
        given: The options, by key.
        profile: The saved profile to use.
        output_format: How to answer.
        debug: Show tracebacks and every decision.
        no_prefect: Run in this process.
    """

    given: dict[str, object]
    profile: str | None
    output_format: OutputFormat
    debug: bool
    no_prefect: bool = False

    def options(self, **more: object) -> ExportOptions:
        """The options, of which only what was given counts as set.

        Where only the environment can add to them, they are checked at once: a mistake is reported before a server is
        waited for. The command merges and checks again.

        Raises:
            UsageError: A value is invalid; the message names the flag or the variable.
        """
        options = ExportOptions.from_keys({**self.given, **more})
        if self.profile is None:
            resolve(options)
        return options

    def take_selection(self) -> Selection:
        """Take out what says which VMs are meant; what remains are options."""
        keys = [leaf.key for leaf in selection_leaves() if leaf.key in self.given]
        return make_selection({key: self.given.pop(key) for key in keys})

    def command(self, kind: type[C], **fields: Any) -> C:
        """Make a command, with the options as :meth:`options` has them unless others are among its fields."""
        if "options" not in fields:
            fields["options"] = self.options()
        common = {
            "profile": self.profile,
            "output_format": self.output_format,
            "debug": self.debug,
            "no_prefect": self.no_prefect,
        }
        values: dict[str, Any] = {**common, **fields}
        return kind(**values)


def all_options() -> tuple[Leaf, ...]:
    """Every option of an export."""
    return tuple(leaves())


def vm_options() -> tuple[Leaf, ...]:
    """Which VMs, and every option of an export."""
    return (*selection_leaves(), *leaves())


def store_options() -> tuple[Leaf, ...]:
    """The options that say where exports are stored."""
    return tuple(leaf for leaf in leaves() if leaf.group == "destination" and leaf.key != "format")


def reading_options() -> tuple[Leaf, ...]:
    """Where exports are stored, and how fast they may be read."""
    return (*store_options(), *(leaf for leaf in leaves() if leaf.group == "bandwidth"))


def dry_run_option() -> tuple[Leaf, ...]:
    """The option ``--dry-run``."""
    return tuple(leaf for leaf in leaves() if leaf.key == "dry_run")


def restore_options() -> tuple[Leaf, ...]:
    """What a restore takes of the options of an export: where exports are, how fast, how many disks, and mails."""
    more = ("parallel", "dry_run")
    mail = tuple(leaf for leaf in leaves() if leaf.group == "email")
    return (*reading_options(), *(leaf for leaf in leaves() if leaf.key in more), *mail)


def drill_options() -> tuple[Leaf, ...]:
    """What a drill takes of the options of an export: where exports are, how fast they may be read, and mails."""
    return tuple(leaf for leaf in restore_options() if leaf.key != "parallel")


def mail_options() -> tuple[Leaf, ...]:
    """How mails are sent; not when."""
    return tuple(leaf for leaf in leaves() if leaf.group == "email" and not leaf.name.startswith("on_"))


@dataclass(frozen=True)
class CommandLine:
    """How a command is written: the function whose parameters are its own flags, and what it takes beside them.

    Args:
        arguments: Makes the command. Its docstring is the help. It gets :class:`Given` first unless ``options`` is
            None, then with ``one_export`` the :class:`RestorePoint`, then its own flags.
        options: The options that are flags of it; None for a command that takes not even ``--profile``.
        one_export: Whether it reads one export, named as ``EXPORT`` or with ``--vm`` and ``--at``.
        json: Whether it can answer in JSON.
    """

    arguments: Callable[..., Command | None]
    options: Callable[[], Sequence[Leaf]] | None = None
    one_export: bool = False
    json: bool = True

    def function(self) -> Callable[..., Command | None]:
        """The function for the parser: every flag is one of its parameters."""
        return self.arguments if self.options is None else _with_flags(self, self.options())


def read_duration(flag: str, text: str) -> timedelta:
    """The value of a flag that takes a duration.

    Raises:
        UsageError: It is none, or zero.
    """
    try:
        duration = parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from error
    if not duration:
        raise UsageError(f"{flag}: {text} is not a time", fix="Give one such as 26h")
    return duration


def restore_point(export: str | None, vm: str | None, at: str | None) -> RestorePoint:
    """The export that the words name.

    Raises:
        UsageError: They name no export, or two, or the time is invalid.
    """
    return RestorePoint(export=export, vm=vm, at=None if at is None else parse_time(at))


def _with_flags(line: CommandLine, flags: Sequence[Leaf]) -> Callable[..., Command | None]:
    """Give a function a signature in which every option is a flag, besides those that every command takes."""
    keys = {leaf.key for leaf in flags}
    common = {name: kind for name, kind in _COMMON.items() if line.json or name != "json"}
    choosing = _ONE_EXPORT if line.one_export else {}

    def command(*words: Any, **kwargs: Any) -> Command | None:
        args = list(words)
        given = {key: value for key, value in kwargs.items() if key in keys}
        output_format = output_format_of(quiet=kwargs.get("quiet", False), json=kwargs.get("json", False))
        first: list[object] = [
            Given(
                given, kwargs.get("profile"), output_format, kwargs.get("debug", False), kwargs.get("no_prefect", False)
            )
        ]
        if line.one_export:
            export = args.pop(0) if args else None
            first.append(restore_point(export, kwargs.get("vm"), kwargs.get("at")))
        taken = {*keys, *common, *choosing}
        return line.arguments(*first, *args, **{key: value for key, value in kwargs.items() if key not in taken})

    own = list(inspect.signature(line.arguments).parameters.values())[2 if line.one_export else 1 :]
    export = [inspect.Parameter("export", inspect.Parameter.POSITIONAL_ONLY, default=None, annotation=Export)]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in {**choosing, **common}.items()
    ]
    parameters = [*(export if line.one_export else ()), *own, *shared, *(_parameter(leaf) for leaf in flags)]
    command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    command.__doc__ = line.arguments.__doc__
    return command


def flags_of(parameter: inspect.Parameter) -> tuple[str, ...]:
    """How a parameter of a command is written on the command line, the name first and then what turns it off."""
    described = next((each for each in get_args(parameter.annotation)[1:] if isinstance(each, Parameter)), Parameter())
    name = next(iter(described.name or ()), "--" + parameter.name.replace("_", "-"))
    return (name, f"--no-{name.removeprefix('--')}")


def naming(words: Sequence[str], function: Callable[..., T]) -> Callable[..., T]:
    """Take from a command the flags that a command line does not name.

    Each flag takes a millisecond to make and, given or not, to check.

    Args:
        words: The command line.
        function: The command; it does without what it is not given.
    """
    named = {word.partition("=")[0] for word in words}
    signature = inspect.signature(function)
    kept = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind is not parameter.KEYWORD_ONLY
        or parameter.default is parameter.empty
        or not named.isdisjoint(flags_of(parameter))
    ]

    @wraps(function)
    def command(*args: Any, **kwargs: Any) -> T:
        return function(*args, **kwargs)

    command.__signature__ = signature.replace(parameters=kept)  # pyright: ignore[reportAttributeAccessIssue]
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
