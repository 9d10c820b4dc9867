"""The mails about a restore: that it begins, and what is there at its end and did not come back."""

from hyperexport.base.units import format_bytes, format_elapsed
from hyperexport.model.ownership import Run
from hyperexport.model.restore import RestorePlan, RestoreResult
from hyperexport.views.mail import Mail, Section, Table, Tone, facts_mail


def restoring_mail(plan: RestorePlan, *, run: Run) -> Mail:
    """Say that a restore begins, and where it goes."""
    export = ("Export", f"{plan.source.path}, {plan.export_id}")
    return facts_mail(
        f"Restore of {plan.source.name} started",
        "The restore has begun.",
        [export, *plan.facts()],
        tone=Tone.NEWS,
        run=run,
    )


def restored_mail(result: RestoreResult, *, run: Run) -> Mail:
    """Say that a VM is restored, or that disks are attached."""
    plan = result.plan
    doubts = [*plan.warnings, *result.warnings]
    noted = {0: "", 1: ", with a warning"}.get(len(doubts), f", with {len(doubts)} warnings")
    done = "attached" if plan.attach_to else "restored"
    compared = "the server has what was sent" if result.verified else "NOT everything was compared with the server"
    return facts_mail(
        f"{plan.source.name} {done}{noted}",
        f"Complete in {format_elapsed(result.seconds)}, {format_bytes(result.uploaded)} uploaded{noted}.",
        [
            ("Export", f"{plan.source.path}, {plan.export_id}"),
            *plan.facts(),
            ("Verified", compared),
            ("Powered on", "yes" if result.powered_on else "no"),
        ],
        Section("Warnings", tuple(doubts)),
        Table("Does not come back", ("Setting", "Why"), tuple((each.setting, each.reason) for each in plan.lost)),
        tone=Tone.DOUBTFUL if doubts else Tone.GOOD,
        run=run,
    )
