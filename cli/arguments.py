"""From words on a command line to one command, or a usage error that names the word.

Each command is a module of its own, with ``LINE`` (:class:`hyperexport.cli.flags.CommandLine`). This module runs
nothing and prints nothing but the help.
"""

from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Final

from cyclopts import App, CycloptsError, Parameter
from cyclopts.exceptions import UnknownCommandError, UnusedCliTokensError

import hyperexport
from hyperexport.cli.command import Command
from hyperexport.cli.flags import TERMINAL, CommandLine, naming
from hyperexport.cli.help import FLAGS, help_is_wanted, print_help
from hyperexport.errors import UsageError
from hyperexport.options.declaring import VerifyMode

_DESCRIPTION: Final = """\
Exports VMware vSphere virtual machines safely, and restores them: snapshot, export, verify, upload, clean up,
restore, drill.

Without a command it exports the VMs named by --vm. The server is read from GOVC_URL, GOVC_USERNAME and GOVC_PASSWORD,
as govc reads them. Every option can also be set as HYPEREXPORT_<OPTION>; a flag wins over the environment,
and the environment over a saved profile; hyperexport config shows what is in force, and where each value came from.
1 MB is 1,048,576 bytes. Durations look like 90m, 720h or 30d. Booleans take --flag, --flag=false and --no-flag.

Examples:
  hyperexport --vm db01 --snapshot --incremental --verify
  hyperexport --tag backup:daily --snapshot --cleanup --cleanup-max-age 30d
  hyperexport list --output /backups
"""


COMMANDS: Final = {
    "verify": "Read stored exports back and prove that they are what was exported.",
    "list": "Show the exports that the local store and, with --upload, the bucket hold.",
    "restore": "Restore an export into vSphere: a whole VM, some of its disks, or disks for a VM that is there.",
    "convert": "Convert an export to disk images for KVM, Hyper-V or a cloud, or to a self-contained OVF or OVA.",
    "drill": "Boot exports, and record beside each whether the guest came up.",
    "nbd": "Serve the disks of an export read-only over NBD until Ctrl-C, for qemu, qemu-img, guestfish and nbdcopy.",
    "files": "List or extract files of the guest from an export, without a restore and without root.",
    "reap-snapshots": "Remove snapshots, half-made VMs and half-written exports that dead runs left; never a user's.",
    "preserve": "Mark exports as preserved, wherever they are stored: no cleanup deletes them.",
    "config": "Show every option with the value in force, and where that came from; nothing else is done.",
    "send-test-email": "Send a test message to all recipients of an export with these options.",
    "report": "Show how well each VM is protected: its last good export, its age, its proof, what is missing.",
    "metrics": "Tell Prometheus what the stores' manifests say; on standard output if nothing else is asked for.",
    "automations": "Manage the Prefect automations that mail about leaked snapshots, damaged exports and overdue VMs.",
    "check": "Check what an export with these options needs, and report what would fail; nothing is changed.",
    "schedules": "List the schedules; or pause, resume or remove one.",
    "serve": "Run what is scheduled, or submitted in the Prefect UI or by the jobs API, until it is stopped.",
    "simulate": "Run a simulated vCenter until Ctrl-C, to try everything without a real one; print how to reach it.",
    "completion": "Print a script that lets a shell complete commands and flags; see docs/completion.md.",
}
"""The commands, and what the whole program's help says of each: the first sentence of its own help.

``cli/reap_snapshots.py`` is ``reap-snapshots``. To import all of the modules takes longer than most commands.
"""


def parse(words: Sequence[str]) -> Command | None:
    """Understand a command line.

    Args:
        words: Without the program's name.

    Returns:
        The command, or None where ``--help`` or ``--version`` has answered already.

    Raises:
        UsageError: The words make no sense; the message names the one that does not.
    """
    command = next((word for word in words if word not in FLAGS), "")
    if help_is_wanted(words):
        named = command if command in COMMANDS else ""
        print_help(build_app(only=command), named, COMMANDS, short=not named and "--help" not in words)
        return None
    with suppress(CycloptsError):  # what is wrong with the words is said by the parser that knows every flag
        return _parsed(build_app(only=command, words=words), words, command)
    try:
        return _parsed(build_app(), words, command)
    except CycloptsError as error:
        raise UsageError(*_explain(error, words)) from error


def _parsed(app: App, words: Sequence[str], command: str) -> Command | None:
    return app(_complete(words, command), exit_on_error=False, print_error=False, result_action="return_value")


def build_app(*, only: str | None = None, words: Sequence[str] | None = None) -> App:
    """Make the parser: one function for each command, whose parameters are the flags.

    Args:
        only: The one command that it understands, "" or another word for the program without a command. None makes all
            of them, which takes time.
        words: The command line, of which the flags are made; None makes all flags.
    """
    app = App(
        name="hyperexport",
        help=_DESCRIPTION,
        version=lambda: hyperexport.__version__,  # to look it up takes time
        version_flags="--version",
        result_action="return_value",
        default_parameter=Parameter(negative_iterable=(), show_default=False),
    )
    app["--help"].group = app["--version"].group = TERMINAL
    for name in ("", *COMMANDS) if only is None else (only if only in COMMANDS else "",):
        function = _line_of(name or "default").function()
        taken = function if words is None else naming(words, function)
        if name:
            app.command(taken, name=name)
        else:
            app.default(taken)
    return app


def _line_of(command: str) -> CommandLine:
    """How a command is written; its module is imported only when it is needed."""
    line: CommandLine = import_module(f"hyperexport.cli.{command.replace('-', '_')}").LINE
    return line


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
