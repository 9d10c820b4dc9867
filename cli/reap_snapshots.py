"""``hyperexport reap-snapshots``: remove what dead runs left."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hyperexport.cli.command import Command
from hyperexport.cli.execution import ask_for_password, direct_runner, options_in_force, uses_prefect
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import WHAT, CommandLine, Given, VSphere, dry_run_option, store_options
from hyperexport.cli.output import Output

if TYPE_CHECKING:
    from hyperexport.results import ReapResult


@dataclass(frozen=True, kw_only=True)
class ReapSnapshots(Command):
    """Reap orphans.

    Args:
        runs: Runs that the user says are over.
    """

    runs: tuple[str, ...] = ()

    def run(self, output: Output) -> list[Failure]:
        """Reap, and show what was found and removed."""
        ask_for_password(self)
        with output.progress():
            result = self._reap()
        output.result("reaped", result)
        return []

    def _reap(self) -> "ReapResult":
        if uses_prefect(self):
            from hyperexport.flows import reap_snapshots

            return reap_snapshots(self.vsphere, options=self.options, profile=self.profile, runs=self.runs)
        from hyperexport.jobs.reap import reap_snapshots

        return reap_snapshots(direct_runner(self), options_in_force(self), self.runs)


def arguments(
    given: Given,
    *,
    reap_run: Annotated[
        tuple[str, ...],
        Parameter(
            group=WHAT,
            negative=(),
            help="Treat this run as over without proof; remove its orphans.",
        ),
    ] = (),
    vsphere_block: VSphere = None,
) -> ReapSnapshots:
    """Remove snapshots, half-made VMs and half-written exports that dead runs left; never a user's."""
    return given.command(ReapSnapshots, vsphere=vsphere_block, runs=reap_run)


LINE = CommandLine(arguments, lambda: (*store_options(), *dry_run_option()))
