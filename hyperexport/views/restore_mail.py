"""The mail about a restore that is complete: what is there now, and what did not come back."""

from hyperexport.base.units import format_bytes, format_elapsed
from hyperexport.model.restore import RestoreResult
from hyperexport.results import Run
from hyperexport.views.mail import Mail, Section, Table, facts_mail


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
        doubtful=bool(doubts),
        run=run,
    )
