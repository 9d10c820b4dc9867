"""``hyperexport --cleanup``: delete old exports, without exporting anything."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from hyperexport.base.units import format_bytes
from hyperexport.cli.command import Command
from hyperexport.cli.execution import direct_runner, options_in_force, uses_prefect
from hyperexport.cli.failures import Failure
from hyperexport.cli.output import Output, key_value, noted, say
from hyperexport.errors import StoreUnusable

if TYPE_CHECKING:
    from hyperexport.results import CleanupResult


class Cleanup(Command):
    """Clean up the stores."""

    def run(self, output: Output) -> list[Failure]:
        """Delete, and show what; an export that could not be deleted is a failure."""
        failures: list[Failure] = []
        for result in self._clean_up():
            answer_cleanup(result, output)
            if result.failed:
                left = Failure(StoreUnusable(f"{len(result.failed)} exports in {result.store} could not be deleted"))
                left.report(debug=self.debug)
                failures.append(left)
        return failures

    def _clean_up(self) -> "Sequence[CleanupResult]":
        if uses_prefect(self):
            from hyperexport.flows import cleanup_exports

            return cleanup_exports(self.options, profile=self.profile)
        from hyperexport.jobs.cleanup import cleanup_exports

        return cleanup_exports(direct_runner(self), options_in_force(self))


def answer_cleanup(result: "CleanupResult", output: Output) -> None:
    """Show one store's cleanup."""
    output.answer(
        "cleanups",
        pretty=lambda console: show_cleanup(console, result),
        quiet=cleanup_lines(result),
        document=result.model_dump(mode="json"),
    )


def show_cleanup(console: Console, result: "CleanupResult") -> None:
    """Show what a cleanup deleted, or in a dry run would delete."""
    deleted = set(result.deleted)
    for item in result.plan.to_delete:
        if result.dry_run or str(item) in deleted:
            verb = "would delete" if result.dry_run else "deleted"
            say(console, f"{verb} {item} ({format_bytes(item.size)}): {item.reason}")
    for item in result.plan.items if result.dry_run else ():
        if item.kept_by:
            say(console, f"would keep {item} ({format_bytes(item.size)}): {', '.join(item.kept_by)}")
    for failure in result.failed:
        console.print(noted("could not delete ", "red", failure), soft_wrap=True)
    for words in result.deferred:
        console.print(noted("left for now ", "yellow", words), soft_wrap=True)
    for name in result.abandoned:
        verb = "would remove" if result.dry_run else "removed"
        say(console, f"{verb} {name}: abandoned half-written by a run that is over")
    for words in result.plan.doubts:
        console.print(noted("not deleted: ", "red", words), soft_wrap=True)
    for words in result.plan.unreachable:
        console.print(noted("note: ", "yellow", words), soft_wrap=True)
    count = len(result.plan.to_delete) if result.dry_run else len(deleted)
    verb = "would be deleted" if result.dry_run else "deleted"
    say(console, f"{result.store}: {count} {verb}, {result.freed_words}, {len(result.plan.items) - count} kept")


def cleanup_lines(result: "CleanupResult") -> list[str]:
    """What a cleanup deleted, or in a dry run would delete."""
    gone = [str(item) for item in result.plan.to_delete] if result.dry_run else list(result.deleted)
    held = [item for item in result.plan.items if item.kept_by and result.dry_run]
    return [
        key_value("store", result.store),
        key_value("dry_run", result.dry_run),
        *(key_value("would_delete" if result.dry_run else "deleted", name) for name in gone),
        *(key_value("would_keep", f"{item}: {', '.join(item.kept_by)}") for item in held),
        *(key_value("would_remove" if result.dry_run else "removed", name) for name in result.abandoned),
        *(key_value("failed", failure) for failure in result.failed),
        *(key_value("deferred", words) for words in result.deferred),
        *(key_value("doubt", words) for words in result.plan.doubts),
        *(key_value("warning", words) for words in result.plan.unmatched),
        *(key_value("unreachable", words) for words in result.plan.unreachable),
        *(key_value("damaged", one.words) for one in result.plan.damaged),
        key_value("count", len(gone)),
        key_value("failures", len(result.failed)),
        key_value("kept", len(result.plan.items) - len(gone)),
        key_value("freed_bytes", result.plan.freed_bytes if result.dry_run else result.freed_bytes),
        key_value("warnings", len(result.plan.warnings)),
    ]
