"""The mails about restore drills: that they begin, and which exports came up."""

from collections.abc import Sequence

from hyperexport.base.units import format_elapsed
from hyperexport.model.ownership import Run
from hyperexport.results import DrillResult
from hyperexport.store.base import StoredExport
from hyperexport.views.mail import Mail, Section, Table, Tone, facts_mail


def drilling_mail(exports: Sequence[StoredExport], target: str, *, run: Run) -> Mail:
    """Say that drills begin, and of what."""
    rows = tuple((export.manifest.vm.path, export.export_id) for export in exports)
    return facts_mail(
        f"Restore drill of {_count(rows)} started",
        "The restore drill has begun.",
        [("On", target)],
        Table("Exports", ("VM", "Export"), rows),
        tone=Tone.NEWS,
        run=run,
    )


def drilled_mail(drills: Sequence[DrillResult], *, seconds: float, run: Run) -> Mail:
    """Say which exports came up, those that did not first."""
    failed = [one for one in drills if one.failed]
    ordered = [*failed, *(one for one in drills if not one.failed)]
    words = f"{len(drills) - len(failed)} of {_count(drills)} passed the restore drill"
    if len(drills) == 1:
        words = f"{drills[0].vm.name} {'did NOT pass' if failed else 'passed'} the restore drill"
    elif failed:
        words += f", {len(failed)} did NOT"
    notes = [f"{one.vm.name}: {note}" for one in drills if one.record for note in one.record.warnings]
    notes += [f"{one.vm.name}: not recorded beside the export: {one.unrecorded}" for one in drills if one.unrecorded]
    return facts_mail(
        words,
        f"{words}, in {format_elapsed(seconds)}.",
        [("Exports", str(len(drills))), ("On", ", ".join(dict.fromkeys(one.platform for one in drills)))],
        Table("Drills", ("VM", "Result", "Export", "Duration"), tuple(_row(one) for one in ordered)),
        Section("What to look at", tuple(notes)),
        tone=Tone.BAD if failed else Tone.GOOD,
        run=run,
    )


def _row(one: DrillResult) -> tuple[str, ...]:
    took = format_elapsed(sum(one.record.seconds.values())) if one.record else "-"
    return one.vm.path, one.words, one.location, took


def _count(items: Sequence[object]) -> str:
    return "1 export" if len(items) == 1 else f"{len(items)} exports"
