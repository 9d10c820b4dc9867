"""What is said of a cleanup, or of its dry run: page and key=value lines."""

from hyperexport.base.display import Page, Pairs, lines, pages_of, pairs_of, table
from hyperexport.base.units import format_bytes
from hyperexport.policy.retention import CleanupItem
from hyperexport.results import CleanupResult


@pages_of.register
def _(result: CleanupResult) -> tuple[Page, ...]:
    gone, verb = _gone(result), "would be deleted" if result.dry_run else "deleted"
    title = f"Cleanup of {result.store}: {len(gone)} of {len(result.plan.items)} exports {verb}, {result.freed_words}"
    partial = "Half-written exports of dead runs, " + ("to remove" if result.dry_run else "removed")
    given_up = [_row(item, result, gone) for item in result.plan.items if item.delete]
    kept = [_row(item, result, gone) for item in result.plan.items if not item.delete]
    tables = (
        *table("", given_up),
        *table("Kept", kept, detail=not result.dry_run),
        *lines("Could not be deleted", result.failed),
        *lines("Left for the next cleanup", result.deferred),
        *lines(partial, result.abandoned),
        *lines("Not deleted because a clock is in doubt", result.plan.doubts),
        *lines("Warnings", result.plan.unmatched),
        *lines("Limits that cannot be met", result.plan.unreachable),
        *lines("Damaged: neither counted nor deleted", [one.words_and_remedy for one in result.plan.damaged]),
    )
    return (Page(title, tables),)


@pairs_of.register
def _(result: CleanupResult) -> Pairs:
    gone = [str(item) for item in result.plan.to_delete] if result.dry_run else list(result.deleted)
    held = [item for item in result.plan.items if item.kept_by and result.dry_run]
    return (
        ("store", result.store),
        ("dry_run", result.dry_run),
        *(("would_delete" if result.dry_run else "deleted", name) for name in gone),
        *(("would_keep", f"{item}: {', '.join(item.kept_by)}") for item in held),
        *(("would_remove" if result.dry_run else "removed", name) for name in result.abandoned),
        *(("failed", failure) for failure in result.failed),
        *(("deferred", words) for words in result.deferred),
        *(("doubt", words) for words in result.plan.doubts),
        *(("warning", words) for words in result.plan.unmatched),
        *(("unreachable", words) for words in result.plan.unreachable),
        *(("damaged", one.words) for one in result.plan.damaged),
        ("count", len(gone)),
        ("failures", len(result.failed)),
        ("kept", len(result.plan.items) - len(gone)),
        ("freed_bytes", result.plan.freed_bytes if result.dry_run else result.freed_bytes),
        ("warnings", len(result.plan.warnings)),
    )


def _gone(result: CleanupResult) -> set[str]:
    return {str(item) for item in result.plan.to_delete} if result.dry_run else set(result.deleted)


def _row(item: CleanupItem, result: CleanupResult, gone: set[str]) -> dict[str, object]:
    if not item.delete:
        decision = "kept"
    elif str(item) in gone:
        decision = "would delete" if result.dry_run else "deleted"
    else:
        decision = "NOT DELETED"
    return {
        "Export": str(item),
        "Decision": decision,
        "VM": item.vm,
        "Time": f"{item.started:%Y-%m-%d %H:%M}",
        "Size": format_bytes(item.size),
        "Why": item.reason,
    }
