"""How a fleet run is told: the command that does again what failed, and the rows of the one mail for all."""

import shlex
from collections.abc import Iterable
from datetime import timedelta
from enum import Enum

from hyperexport.base.units import format_duration
from hyperexport.options.precedence import ExportOptions, leaves
from hyperexport.results import FleetMember
from hyperexport.views.mail import FleetRow


def redo_command(
    members: Iterable[FleetMember], options: ExportOptions, *, vsphere: str | None = None, profile: str | None = None
) -> str:
    """The command that exports these VMs as the run was asked to; no option is a secret.

    Args:
        members: Those to name.
        options: What was given for the run; what came from the environment is there again.
        vsphere: The name of the block with the login, if one was named.
        profile: The name of the profile, if one was named.
    """
    vms = [word for member in members for word in ("--vm", member.vm.path)]
    blocks = [*(["--vsphere-block", vsphere] if vsphere else []), *(["--profile", profile] if profile else [])]
    return shlex.join(["hyperexport", *vms, *blocks, *option_words(options)])


def option_words(options: ExportOptions) -> list[str]:
    """The options that somebody set, as the command line takes them."""
    given = options.given_keys()
    return [word for leaf in leaves() if leaf.key in given for word in _words(leaf.flag, given[leaf.key])]


def _words(flag: str, value: object) -> list[str]:
    match value:
        case None:
            return []
        case bool():
            return [flag if value else f"--no-{flag.removeprefix('--')}"]
        case tuple():
            return [f"{flag}={part}" for part in value]  # pyright: ignore[reportUnknownVariableType]
        case timedelta():
            return [f"{flag}={format_duration(value)}"]
        case Enum():
            return [f"{flag}={value.value}"]
        case _:
            return [f"{flag}={value}"]


def mail_rows(members: Iterable[FleetMember]) -> list[FleetRow]:
    """The VMs as the mail about the whole fleet lists them."""
    return [
        FleetRow(
            vm=member.vm.path,
            outcome="failed" if member.failed else str(member.outcome),
            bytes=member.moved,
            seconds=member.seconds,
            message=member.message,
        )
        for member in members
    ]
