"""What is said of a restore, or of its dry run: page and key=value lines."""

from hyperexport.base.display import FACTS, Page, Pairs, Table, lines, numbered, pages_of, pairs_of, table
from hyperexport.base.units import format_bytes, format_elapsed
from hyperexport.model.restore import RestorePlan, RestoreResult


@pages_of.register
def _(result: RestoreResult) -> tuple[Page, ...]:
    plan = result.plan
    what = f"{plan.source.path}, export {plan.export_id}"
    took = f" in {format_elapsed(result.seconds)}"
    title = f"Would restore {what}" if result.dry_run else f"Restored {what}{took}"
    compared = "the server has what was sent" if result.verified else "NOT everything was compared with the server"
    done = [("Verified", compared)]
    if plan.power_on:
        done.append(("Powered on", "yes" if result.powered_on else "no"))
    files: list[dict[str, object]] = [
        {
            "File": file.name,
            "Disk": file.label or "-",
            "Upload": format_bytes(file.size),
            "Capacity": format_bytes(file.capacity) if file.capacity is not None else "-",
            "Provisioning": str(file.provisioning or "-"),
            **({"Proof": result.proofs[file.name].words} if file.name in result.proofs else {}),
        }
        for file in plan.files
    ]
    lost: list[dict[str, object]] = [{"Setting": each.setting, "Why": each.reason} for each in plan.lost]
    tables = (
        Table("", FACTS, (*restore_facts(plan), *([] if result.dry_run else done))),
        *table("Files", files),
        *table("Does not come back", lost),
        *lines("Attached disks", result.attached),
        *lines("Warnings", (*plan.warnings, *result.warnings)),
    )
    return (Page(title, tables),)


def restore_facts(plan: RestorePlan) -> tuple[tuple[str, str], ...]:
    """Which export a restore restores, and to where, as names and values."""
    return (("Export", f"{plan.source.path}, {plan.export_id}"), *plan.facts())


@pairs_of.register
def _(result: RestoreResult) -> Pairs:
    plan = result.plan
    return (
        ("export", plan.export_id),
        ("vm", result.vm.path if result.vm else plan.path),
        ("moref", result.vm.moref if result.vm else ""),
        ("dry_run", result.dry_run),
        ("datastore", plan.datastore),
        ("space_needed", plan.space_needed),
        ("identity", plan.identity),
        ("uploaded", result.uploaded),
        ("verified", bool(result.verified)),
        ("powered_on", result.powered_on),
        *numbered("attached", result.attached),
        *numbered("proof", [f"{name}: {proof}" for name, proof in result.proofs.items()]),
        *numbered("lost", [f"{each.setting}: {each.reason}" for each in plan.lost]),
        *numbered("warning", [*plan.warnings, *result.warnings]),
    )
