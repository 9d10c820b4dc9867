"""``hyperexport automations``: Prefect automations that mail about what goes wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter
from rich.console import Console

from hyperexport.cli.command import Command
from hyperexport.cli.execution import require_prefect
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import WHAT, CommandLine, Given, mail_options, read_duration
from hyperexport.cli.output import Output, OutputFormat, key_value, make_table, say
from hyperexport.errors import UsageError
from hyperexport.options.precedence import ExportOptions

if TYPE_CHECKING:
    from hyperexport.deployments.automations import Automation

_ACTIONS: Final = ("create", "list", "remove")


@dataclass(frozen=True, kw_only=True)
class Automations(Command):
    """Create, list or remove the automations.

    Args:
        action: ``create``, ``list`` or ``remove``.
        within: How long a VM may be without a success before a mail is sent.
    """

    action: str
    within: timedelta

    def run(self, output: Output) -> list[Failure]:
        """Put the automations in place, list them, or remove them."""
        require_prefect(self, "hyperexport automations")
        from hyperexport.blocks.export_profile import load_profile
        from hyperexport.deployments import automations as prefect

        output.nothing("automations")
        if self.action == "create":
            profile = load_profile(self.profile) if self.profile else None
            found = prefect.create(self.options, within=self.within, profile=profile)
        else:
            found = prefect.remove() if self.action == "remove" else prefect.automations()
        for automation in found:
            output.answer(
                "automations",
                pretty=lambda _: None,
                quiet=automation_lines(automation),
                document=automation.model_dump(mode="json"),
            )
        if output.output_format is OutputFormat.PRETTY:
            done = {"create": "created", "remove": "removed"}.get(self.action)
            output.draw(lambda console: show_automations(console, found, done))
            if self.action == "create":
                output.say(
                    "They fire while a Prefect server runs; the mails are sent by hyperexport serve or a worker."
                )
        return []


def arguments(
    given: Given,
    *words: Annotated[str, Parameter(name="ACTION", help="create, list or remove; list if none.")],
    within: Annotated[
        str,
        Parameter(
            metavar="DURATION",
            group=WHAT,
            help="Time without a successful export of a VM after which to send a mail. [default: 26h]",
        ),
    ] = "26h",
) -> Automations:
    """Manage the Prefect automations that mail about leaked snapshots, damaged exports and overdue VMs.

    The mail's options are those of --email-notify; what is not given comes from the environment of the process that
    sends it, which hyperexport serve is.
    """
    action = words[0] if words else "list"
    if len(words) > 1 or action not in _ACTIONS:
        raise UsageError(f"{' '.join(words)!r} is not an action for automations", fix="Use create, list or remove")
    if read_duration("--within", within) < timedelta(minutes=1):
        raise UsageError(f"--within: {within} is too short", fix="Give at least 1m, such as 26h")
    if action != "create" and (given.given or given.profile):
        raise UsageError(f"automations {action} takes no options of a mail", fix="Leave them out")
    # Not checked together: what is missing here may be there where the mails are sent.
    options = ExportOptions.from_keys(given.given)
    return given.command(Automations, options=options, action=action, within=read_duration("--within", within))


LINE = CommandLine(arguments, lambda: tuple(leaf for leaf in mail_options() if leaf.name != "notify"))


def show_automations(console: Console, found: "Sequence[Automation]", done: str | None) -> None:
    """Show automations."""
    if not found:
        say(console, "No automations of this tool. Make them with hyperexport automations create.")
        return
    rows = [(one.name, done or ("enabled" if one.enabled else "disabled"), one.when) for one in found]
    console.print(make_table("Automations", ("Name", "State", "When"), rows))


def automation_lines(automation: "Automation") -> list[str]:
    """The key=value lines of an automation."""
    return [
        key_value("automation", automation.name),
        key_value("enabled", automation.enabled),
        key_value("when", automation.when),
    ]
