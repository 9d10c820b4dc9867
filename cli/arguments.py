"""From words on a command line to one request, or a usage error that names the word.

One function for each command, whose parameters are its flags (:mod:`hyperexport.cli.flags`). This module runs
nothing and prints nothing but the help.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cyclopts import App, CycloptsError, Parameter
from cyclopts.exceptions import UnknownCommandError, UnusedCliTokensError
from pydantic import SecretStr

import hyperexport
from hyperexport.base.units import MIB
from hyperexport.cli import checking_arguments, convert, files, nbd, observing_arguments, service_arguments
from hyperexport.cli.flags import (
    TERMINAL,
    WHAT,
    Asked,
    CleanupSchedule,
    DaemonSchedule,
    Debug,
    DeleteProfile,
    EmailPassword,
    Exports,
    IncrementalInfo,
    ListProfiles,
    SaveProfile,
    ScheduleTimezone,
    ShowProfile,
    VmInfo,
    VSphere,
    taking,
)
from hyperexport.cli.request import Mode, Request, Scheduling
from hyperexport.errors import UsageError
from hyperexport.options.groups import VerifyMode
from hyperexport.options.precedence import ExportOptions, Leaf, leaves, resolve
from hyperexport.options.selection import make_selection, selection_from_environment, selection_leaves

_DESCRIPTION: Final = """\
Takes VMware vSphere virtual machines out safely: snapshot, export, verify, upload, clean up.

Without a command it exports the VMs named by --vm. The server is read from GOVC_URL, GOVC_USERNAME and GOVC_PASSWORD,
as govc reads them. Every option can also be set as HYPEREXPORT_<OPTION>; a flag wins over the environment,
and the environment over a saved profile; hyperexport config shows what is in force, and where each value came from.
1 MB is 1,048,576 bytes. Durations look like 90m, 720h or 30d. Booleans take --flag, --flag=false and --no-flag.
"""


def parse(words: Sequence[str]) -> Request | None:
    """Understand a command line.

    Args:
        words: Without the program's name.

    Returns:
        The request, or None where ``--help`` or ``--version`` has answered already.

    Raises:
        UsageError: The words make no sense; the message names the one that does not.
    """
    asks = ("--help", "-h")
    command = next((word for word in words if word not in asks), "")
    if words and not command:  # cyclopts does the same, and makes the flags of the command three times for it
        build_app(only="").help_print([])
        return None
    app = build_app(only=None if command == "completion" else command)
    try:
        return app(_complete(words), exit_on_error=False, print_error=False, result_action="return_value")
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
    every = tuple(leaves())
    selecting = (*selection_leaves(), *every)
    places = tuple(leaf for leaf in every if leaf.group == "destination" and leaf.key != "format")
    reading = (*places, *(leaf for leaf in every if leaf.group == "bandwidth"))
    dry_run = tuple(leaf for leaf in every if leaf.key == "dry_run")
    mail = tuple(leaf for leaf in every if leaf.group == "email" and not leaf.name.startswith("on_"))
    commands: dict[str, tuple[Callable[..., Any], tuple[Leaf, ...] | None]] = {
        "verify": (_verify, reading),
        "list": (_list, places),
        "convert": (convert.arguments, (*reading, *dry_run)),
        "nbd": (nbd.arguments, reading),
        "files": (files.arguments, reading),
        "reap-snapshots": (_reap_snapshots, (*places, *dry_run)),
        "preserve": (_preserve, places),
        "config": (_config, every),
        "send-test-email": (_send_test_email, mail),
        "report": (observing_arguments.report, places),
        "metrics": (observing_arguments.metrics, places),
        "automations": (observing_arguments.automations, tuple(leaf for leaf in mail if leaf.name != "notify")),
        "check": (checking_arguments.check, selecting),
        "schedules": (service_arguments.schedules, None),
        "serve": (service_arguments.serve, None),
        "simulate": (_simulate, None),
        "completion": (partial(_completion, app), None),
    }
    if only not in commands:
        app.default(taking(selecting, _run))
    for name, (function, flags) in commands.items():
        if only is not None and name != only:
            app.command(_described(function), name=name)
        elif flags is None:
            app.command(function, name=name)
        else:
            app.command(taking(flags, function, json=name not in {"metrics", "nbd"}), name=name)
    return app


def _described(function: Callable[..., object]) -> Callable[..., None]:
    """Stand for a command in the list of commands: its words without its flags."""

    def command() -> None:
        raise AssertionError("a command of which the flags were not made")

    command.__doc__ = function.func.__doc__ if isinstance(function, partial) else function.__doc__
    return command


def _run(
    words: Asked,
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
) -> Request:
    given = words.given
    selection = make_selection({leaf.key: given.pop(leaf.key) for leaf in selection_leaves() if leaf.key in given})
    asked = words.request(
        Mode.EXPORT,
        selection=selection,
        options=ExportOptions.from_keys(given),
        save_profile=save_profile,
        vsphere=vsphere_block,
        email_password=SecretStr(email_password) if email_password else None,
    )
    modes = [mode for mode, wanted in ((Mode.VM_INFO, vm_info), (Mode.INCREMENTAL_INFO, incremental_info)) if wanted]
    minding = _minded_profile(listed=list_profiles, shown=show_profile, deleted=delete_profile)
    scheduling = Scheduling(daemon=daemon_schedule, cleanup=cleanup_schedule, timezone=schedule_timezone)
    if minding:
        if given or selection or modes or words.profile or save_profile:
            raise UsageError(f"--{minding[0]} does nothing else besides", fix="Leave the other options out")
        return replace(asked, mode=minding[0], profile=minding[1])
    if scheduling != Scheduling():
        return _to_schedule(asked, scheduling, modes)
    return _to_do_now(asked, modes)


def _to_schedule(asked: Request, scheduling: Scheduling, modes: Sequence[Mode]) -> Request:
    """What is to be done at certain times; the environment stays that of the process that will do it."""
    if modes:
        raise UsageError(f"--{modes[0]} cannot be scheduled", fix="Leave it out")
    if asked.save_profile is not None:
        raise UsageError(
            "--save-profile saves nothing while a schedule is made",
            fix="Save the profile first, and name it with --profile in the schedule",
        )
    return replace(asked, mode=Mode.SCHEDULE, scheduling=scheduling)


def _to_do_now(asked: Request, modes: Sequence[Mode]) -> Request:
    """What is to be done at once: with the VMs that are chosen, or without any."""
    given, profile, save_profile = asked.options.given_keys(), asked.profile, asked.save_profile
    if len(modes) > 1:
        raise UsageError("--vm-info and --incremental-info exclude each other", fix="Ask for one at a time")
    if save_profile is not None:
        _check_saving(given, profile, password=asked.email_password)
    alone = Mode.SAVE_PROFILE if save_profile is not None else Mode.CLEANUP if asked.options.cleanup.wanted else None
    selection = asked.selection or selection_from_environment()
    mode = modes[0] if modes else alone if alone and not selection else Mode.EXPORT
    if mode is not alone and not selection:
        raise UsageError("no VM is named", fix="Name one with --vm, or see hyperexport --help")
    if mode is Mode.VM_INFO and (given or profile or save_profile):
        named = [flag for flag, name in (("--profile", profile), ("--save-profile", save_profile)) if name]
        flags = ", ".join([leaf.flag for leaf in leaves() if leaf.key in given] + named)
        raise UsageError(f"--vm-info only shows the VM, so {flags} would have no effect", fix="Leave one of them out")
    if profile is None and mode not in {Mode.VM_INFO, Mode.SAVE_PROFILE}:
        resolve(asked.options)  # only the environment can add to it
    return replace(asked, mode=mode, selection=selection)


def _verify(
    asked: Asked,
    *exports: Exports,
    deep: Annotated[bool, Parameter(group=WHAT, negative=(), help="Download from S3 what S3 keeps.")] = False,
) -> Request:
    """Read stored exports back and prove that they are what was exported."""
    mode = VerifyMode.DEEP if deep else VerifyMode.ON
    return asked.request(Mode.VERIFY, exports=exports, options=asked.options(verify=mode))


def _list(asked: Asked) -> Request:
    """Show the exports that the local store and, with --upload, the bucket hold."""
    return asked.request(Mode.LIST)


def _preserve(
    asked: Asked,
    *exports: Annotated[str, Parameter(name="EXPORT", help="An export's id or path, as hyperexport list shows it.")],
    off: Annotated[bool, Parameter(group=WHAT, negative=(), help="Take the mark away again.")] = False,
) -> Request:
    """Mark exports as preserved, wherever they are stored: no cleanup deletes them."""
    if not exports:
        raise UsageError("no export is named", fix="Name one as hyperexport list shows it")
    return asked.request(Mode.PRESERVE, exports=exports, preserving=not off)


def _config(asked: Asked) -> Request:
    """Show every option with the value in force, and where that came from; nothing else is done."""
    return asked.request(Mode.CONFIG)


def _reap_snapshots(
    asked: Asked,
    *,
    reap_run: Annotated[
        tuple[str, ...],
        Parameter(group=WHAT, negative=(), help="A run that is over though it cannot be proved: remove what it left."),
    ] = (),
    vsphere_block: VSphere = None,
) -> Request:
    """Remove the snapshots and half-written exports that dead runs left; a user's snapshots are never touched."""
    return asked.request(Mode.REAP_SNAPSHOTS, vsphere=vsphere_block, runs=reap_run)


def _send_test_email(asked: Asked, *, email_password: EmailPassword = None) -> Request:
    """Send a test to everyone whom an export with these options would tell."""
    return asked.request(Mode.SEND_TEST_EMAIL, email_password=SecretStr(email_password) if email_password else None)


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


def _completion(
    app: App, shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(name="SHELL", help="The shell to write for.")]
) -> None:
    """Print a script that lets a shell complete commands and flags; see docs/completion.md."""
    print(app.generate_completion(prog_name=app.name[0], shell=shell))


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


def _check_saving(given: Mapping[str, object], base: str | None, *, password: SecretStr | None) -> None:
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
