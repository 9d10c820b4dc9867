"""A failed run, explained: where it failed, why, what to do, what was cleaned up, how to do it again."""

from collections.abc import Sequence
from datetime import datetime

from hyperexport.base.display import FACTS
from hyperexport.base.text import sentences
from hyperexport.base.units import format_elapsed
from hyperexport.results import FailureReport, FleetMember
from hyperexport.views.markdown import code, section, table, text

NOTHING_LEFT = "There was nothing to clean up."


def failure_facts(report: FailureReport) -> list[tuple[str, str]]:
    """Where it failed, why, and what to do, as names and values; the mail says the same."""
    fix = [("What to do", sentence(report.fix))] if report.fix else []
    return [
        ("Step", report.step or "before the first"),
        ("Error", sentence(report.what)),
        *fix,
        ("Code", report.code),
    ]


def failure_markdown(
    report: FailureReport,
    *,
    title: str,
    seconds: float,
    failed: datetime,
    members: Sequence[FleetMember] = (),
    commands: Sequence[str] = (),
    hints: Sequence[str] = (),
) -> str:
    """The closing page of a run that failed.

    Args:
        report: Why it failed.
        title: What failed, such as ``Export of db01``.
        seconds: How long it ran.
        failed: When it failed.
        members: The VMs of a fleet that failed.
        commands: The commands that do again what failed.
        hints: Other ways to do it again.
    """
    took = f"After {format_elapsed(seconds)}, at {failed:%Y-%m-%d %H:%M:%S} {failed.tzname() or 'local time'}."
    lines = [f"# {text(title)} failed", "", took, "", *table(FACTS, failure_facts(report))]
    if members:
        rows = [(member.vm.path, member.code or "", member.message) for member in members]
        urls = [member.url for member in members]
        lines += ["## VMs that failed", "", *table(("VM", "Code", "Error"), rows, urls)]
    lines += section("Cleaned up", report.cleaned_up or (() if members else (NOTHING_LEFT,)))
    if commands or hints:
        lines += ["## How to run it again", "", *(f"- {text(hint)}" for hint in hints), ""]
        lines += [line for command in commands for line in code(command)]
    return "\n".join(lines)


def sentence(words: str) -> str:
    """Begin with a capital letter and end with a full stop."""
    return sentences(words[:1].upper() + words[1:])
