"""The mails at the start and at the end of a restore."""

from hyperexport.base.display import FACTS, Page, Table, pages_of
from hyperexport.base.units import format_bytes, format_elapsed
from hyperexport.model.ownership import Run
from hyperexport.model.restore import RestorePlan, RestoreResult
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
