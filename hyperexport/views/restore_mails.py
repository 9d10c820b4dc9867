"""The mails at the start and at the end of restores and of restore drills."""

from collections.abc import Sequence

from hyperexport.base.display import FACTS, Page, Table, lines, pages_of, row_of, table
from hyperexport.base.units import format_bytes, format_elapsed
from hyperexport.model.ownership import Run
from hyperexport.model.restore import RestorePlan, RestoreResult
from hyperexport.results import DrillResult
from hyperexport.store.base import StoredExport
from hyperexport.views import drills as _drills  # noqa: F401  # pyright: ignore[reportUnusedImport] - registers rows
from hyperexport.views.mail import Mail, Tone, page_mail
from hyperexport.views.restores import restore_facts


def restoring_mail(plan: RestorePlan, *, run: Run) -> Mail:
    """Write the mail that a restore starts: from which export, and to where."""
    page = Page("", (Table("", FACTS, restore_facts(plan)),))
    return page_mail(
        f"Restore of {plan.source.name} started", "The restore has started.", page, tone=Tone.NEWS, run=run
    )


def restored_mail(result: RestoreResult, *, run: Run) -> Mail:
    """Write the mail that a VM is restored, or that its disks are attached."""
    plan = result.plan
    doubts = [*plan.warnings, *result.warnings]
    noted = {0: "", 1: ", with a warning"}.get(len(doubts), f", with {len(doubts)} warnings")
    (page,) = pages_of(result)
    return page_mail(
        f"{plan.source.name} {'attached' if plan.attach_to else 'restored'}{noted}",
        f"Complete in {format_elapsed(result.seconds)}, {format_bytes(result.uploaded)} uploaded{noted}.",
        page,
        tone=Tone.DOUBTFUL if doubts else Tone.GOOD,
        run=run,
    )


def drilling_mail(exports: Sequence[StoredExport], target: str, *, run: Run) -> Mail:
    """Write the mail that drills start: of which exports, and on what."""
    rows = tuple((export.manifest.vm.path, export.export_id) for export in exports)
    page = Page("", (Table("", FACTS, (("On", target),)), Table("Exports", ("VM", "Export"), rows)))
    subject = f"Restore drill of {_count(rows)} started"
    return page_mail(subject, "The restore drill has started.", page, tone=Tone.NEWS, run=run)


def drilled_mail(drills: Sequence[DrillResult], *, seconds: float, run: Run) -> Mail:
    """Write the mail that says which exports came up, those that did not first."""
    failed = [one for one in drills if one.failed]
    ordered = [*failed, *(one for one in drills if not one.failed)]
    words = f"{len(drills) - len(failed)} of {_count(drills)} passed the restore drill"
    if len(drills) == 1:
        words = f"{drills[0].vm.name} {'did NOT pass' if failed else 'passed'} the restore drill"
    elif failed:
        words += f", {len(failed)} did NOT"
    facts = (("Exports", str(len(drills))), ("On", ", ".join(dict.fromkeys(one.platform for one in drills))))
    warnings = [f"{one.vm.name}: {note}" for one in drills if one.record for note in one.record.warnings]
    rows = [row for one in ordered if (row := row_of(one))]
    page = Page("", (Table("", FACTS, facts), *lines("Warnings", warnings), *table("Drills", rows)))
    tone = Tone.BAD if failed else Tone.GOOD
    return page_mail(words, f"{words}, in {format_elapsed(seconds)}.", page, tone=tone, run=run)


def _count(items: Sequence[object]) -> str:
    return "1 export" if len(items) == 1 else f"{len(items)} exports"
