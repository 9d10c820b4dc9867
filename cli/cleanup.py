"""``hyperexport --cleanup``: delete old exports, without exporting anything."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hyperexport.cli.command import Command
from hyperexport.cli.execution import direct_runner, options_in_force, uses_prefect
from hyperexport.cli.failures import Failure
from hyperexport.cli.output import Output
from hyperexport.errors import StoreUnusable

if TYPE_CHECKING:
    from hyperexport.results import CleanupResult


class Cleanup(Command):
    """Clean up the stores."""

    def run(self, output: Output) -> list[Failure]:
        """Delete, and show what; an export that could not be deleted is a failure."""
        import hyperexport.views.cleanups  # noqa: F401  # pyright: ignore[reportUnusedImport] - registers the page

        failures: list[Failure] = []
        for result in self._clean_up():
            output.result("cleanups", result)
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
