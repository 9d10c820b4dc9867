"""From words on a command line to one command, or a usage error that names the word.

Each command is a module of its own, with ``LINE`` (:class:`hyperexport.cli.flags.CommandLine`). This module runs
nothing and prints nothing but the help.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Final

from cyclopts import App, CycloptsError, Parameter
from cyclopts.exceptions import UnknownCommandError, UnusedCliTokensError

import hyperexport
from hyperexport.cli.command import Command
from hyperexport.cli.flags import TERMINAL, CommandLine
from hyperexport.errors import UsageError
from hyperexport.options.groups import VerifyMode

_DESCRIPTION: Final = """\
Takes VMware vSphere virtual machines out safely: snapshot, export, verify, upload, clean up.

Without a command it exports the VMs named by --vm. The server is read from GOVC_URL, GOVC_USERNAME and GOVC_PASSWORD,
as govc reads them. Every option can also be set as HYPEREXPORT_<OPTION>; a flag wins over the environment,
and the environment over a saved profile; hyperexport config shows what is in force, and where each value came from.
1 MB is 1,048,576 bytes. Durations look like 90m, 720h or 30d. Booleans take --flag, --flag=false and --no-flag.
"""


COMMANDS: Final = (
    "verify",
    "list",
    "restore",
    "convert",
    "nbd",
    "files",
    "reap-snapshots",
    "preserve",
    "config",
    "send-test-email",
    "report",
    "metrics",
    "automations",
    "check",
    "schedules",
    "serve",
    "simulate",
    "completion",
)
"""The commands in the order of the help; ``cli/reap_snapshots.py`` is ``reap-snapshots``."""


def parse(words: Sequence[str]) -> Command | None:
    """Understand a command line.

    Args:
        words: Without the program's name.

    Returns:
        The command, or None where ``--help`` or ``--version`` has answered already.

    Raises:
        UsageError: The words make no sense; the message names the one that does not.
    """
    asks = ("--help", "-h")
    command = next((word for word in words if word not in asks), "")
    if words and not command:  # cyclopts does the same, and makes the flags of the command three times for it
        build_app(only="").help_print([])
        return None
    app = build_app(only=command)
    try:
        return app(_complete(words, command), exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        raise UsageError(*_explain(error, words)) from error


def build_app(*, only: str | None = None) -> App:
    """Make the parser: one function for each command, whose parameters are the flags.

    Args:
        only: The command that is given, "" or another word for none. The flags of the other commands, which take time
            to make, are left out; their names and first lines are there. None makes all of them.
    """
    app = App(
        name="hyperexport",
        usage="Usage: hyperexport COMMAND [OPTIONS]",
        help=_DESCRIPTION,
        help_format="plaintext",
        version=hyperexport.__version__,
        version_flags="--version",
        result_action="return_value",
        default_parameter=Parameter(negative_iterable=(), show_default=False),
    )
    app["--help"].group = app["--version"].group = TERMINAL
    if only not in COMMANDS:
        app.default(_line_of("default").function())
    for name in COMMANDS:
        line = _line_of(name)
        app.command(line.function() if only in {None, name} else _described(line), name=name)
    return app


def _line_of(command: str) -> CommandLine:
    """How a command is written; its module is imported only when it is needed."""
    line: CommandLine = import_module(f"hyperexport.cli.{command.replace('-', '_')}").LINE
    return line


def _described(line: CommandLine) -> Callable[..., None]:
    """Stand for a command in the list of commands: its words without its flags."""

    def command() -> None:
        raise AssertionError("a command of which the flags were not made")

    command.__doc__ = line.arguments.__doc__
    return command


def _complete(words: Sequence[str], command: str) -> list[str]:
    """Give flags that may stand without a value the one that they mean: ``--verify`` is ``--verify=on``."""
    line = _line_of(command if command in COMMANDS else "default")
    flags = line.options() if line.options else ()
    bare = {leaf.flag for leaf in flags if leaf.field.annotation is VerifyMode}
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
