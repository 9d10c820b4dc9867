"""The closing page of a fleet: the command that exports again what failed, and the rows of its mail."""

import shlex
from collections.abc import Iterable
from typing import Final

from hyperexport.base.display import pages_of
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import FleetMember, FleetResult
from hyperexport.views import cleanups  # noqa: F401  # pyright: ignore[reportUnusedImport] - registers its page
from hyperexport.views.mail import FleetRow
from hyperexport.views.markdown import code, pages_markdown, section, table, text
from hyperexport.views.options import option_words

ONE_CLICK: Final = (
    "In the Prefect UI: Retry on this run's page, or the deployment redo-fleet. What is exported is not exported again"
)
"""How Prefect exports again what failed."""


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
    return export_command((member.vm.path for member in members), options, vsphere=vsphere, profile=profile)


def export_command(
    vms: Iterable[str], options: ExportOptions, *, vsphere: str | None = None, profile: str | None = None
) -> str:
    """The command that exports VMs with these options.

    Args:
        vms: Their names or paths.
        options: What was given for the run.
        vsphere: The name of the block with the login, if one was named.
        profile: The name of the profile, if one was named.
    """
    named = [word for vm in vms for word in ("--vm", vm)]
    blocks = [*(["--vsphere-block", vsphere] if vsphere else []), *(["--profile", profile] if profile else [])]
    return shlex.join(["hyperexport", *named, *blocks, *option_words(options)])


def fleet_markdown(result: FleetResult) -> str:
    """The closing page of a fleet: what failed first, each VM with a link to its own run, then how to do it again."""
    members = sorted(result.members, key=lambda member: not member.failed)
    rows = [member.row() for member in members]
    lines = [f"# {text(result.summary)}", ""]
    if rows:
        lines += table(tuple(rows[0]), [tuple(row.values()) for row in rows], [member.url for member in members])
    if result.redo:
        hints = [text(result.retry), ""] if result.retry else []
        hints += ["Or run this command:" if hints else "Run this command:", ""]
        lines += ["## To export again what failed", "", *hints, *code(result.redo)]
    lines += section("Warnings", result.warnings)
    cleaned = [page for cleanup in result.cleanups for page in pages_of(cleanup)]
    return "\n".join([*lines, pages_markdown(cleaned)])


def mail_rows(members: Iterable[FleetMember]) -> list[FleetRow]:
    """The VMs as the mail about the whole fleet lists them."""
    return [
        FleetRow(
            vm=member.vm.path,
            outcome="failed" if member.failed else str(member.outcome),
            bytes=member.moved,
            seconds=member.seconds,
            message=member.message,
            url=member.url,
        )
        for member in members
    ]
