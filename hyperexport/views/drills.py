"""What is said of restore drills, or of their dry run: page, row and key=value lines."""

from typing import Final

from hyperexport.base.display import FACTS, Page, Pairs, Table, lines, numbered, pages_of, pairs_of, row_of
from hyperexport.base.units import format_elapsed
from hyperexport.results import DrillResult

_UNRECORDED: Final = "Not recorded beside the export"
_LAST_LINES: Final = 5


@pages_of.register
def _(drill: DrillResult) -> tuple[Page, ...]:
    record = drill.record
    took = f" ({_duration(drill)} on {record.platform})" if record else ""
    console = record.console.strip().splitlines()[-_LAST_LINES:] if record and not record.passed else ()
    tables = (
        *([Table("", FACTS, tuple(drill.plan.facts()))] if drill.plan else []),
        *lines("Warnings", record.warnings if record else ()),
        *lines("End of its console", console),
        *lines(_UNRECORDED, filter(None, [drill.unrecorded])),
    )
    return (Page(f"{drill.location}: {drill.words}{took}", tables),)


@row_of.register
def _(drill: DrillResult) -> dict[str, object]:
    return {
        "VM": drill.vm.path,
        "Result": drill.words,
        "Export": drill.location,
        "Duration": _duration(drill),
        _UNRECORDED: drill.unrecorded or "",
    }


@pairs_of.register
def _(drill: DrillResult) -> Pairs:
    record = drill.record
    return (
        ("location", drill.location),
        ("vm", drill.vm.name),
        ("passed", "" if record is None else record.passed),
        ("reason", drill.words),
        *([("sign", record.sign), ("drill", record.drill_id)] if record else []),
        *numbered("warning", record.warnings if record else ()),
        *numbered("unrecorded", filter(None, [drill.unrecorded])),
        *numbered("leaked", filter(None, [drill.leaked])),
    )


def _duration(drill: DrillResult) -> str:
    return format_elapsed(sum(drill.record.seconds.values())) if drill.record else "-"
