"""``hyperexport check``: try what an export needs; nothing is changed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from pydantic import SecretStr

from hyperexport.cli.command import VmCommand
from hyperexport.cli.execution import ask_for_password, direct_runner, options_in_force, uses_prefect
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import WHAT, CommandLine, EmailPassword, Given, VSphere, vm_options
from hyperexport.cli.output import Output, pair_lines, show
from hyperexport.errors import SetupUnfit
from hyperexport.model.drill import DrillTarget
from hyperexport.options.selection import selection_from_environment

if TYPE_CHECKING:
    from hyperexport.results import SetupReport


@dataclass(frozen=True, kw_only=True)
class Check(VmCommand):
    """Check the setup.

    Args:
        restore: Also look whether the VMs could be restored to where they are.
        drill: Also look whether their exports could be drilled there.
    """

    restore: bool = False
    drill: DrillTarget | None = None

    def run(self, output: Output) -> list[Failure]:
        """Show everything that was tried; the exit code says whether an export would work."""
        from hyperexport.results import SetupReport

        ask_for_password(self)
        output.nothing("checks")
        try:
            report = self._check()
        except SetupUnfit as error:
            if not isinstance(error.report, SetupReport):
                raise
            _show(error.report, output)
            failure = Failure(error)
            failure.report(debug=self.debug)
            return [failure]
        _show(report, output)
        return []

    def _check(self) -> "SetupReport":
        if uses_prefect(self):
            from hyperexport.flows import check_setup

            return check_setup(
                self.selection,
                self.options,
                vsphere=self.vsphere,
                profile=self.profile,
                restore=self.restore,
                drill=self.drill,
            )
        from hyperexport.jobs.check import check_setup

        selection = self.selection or selection_from_environment()
        return check_setup(
            direct_runner(self), selection, options_in_force(self), restore=self.restore, drill=self.drill
        )


def arguments(
    given: Given,
    *,
    restore: Annotated[
        bool, Parameter(group=WHAT, negative=(), help="Also check whether the VMs could be restored to where they are.")
    ] = False,
    drill: Annotated[
        Literal["qemu", "vsphere"] | None,
        Parameter(
            group=WHAT,
            metavar="qemu|vsphere",
            show_choices=False,
            help="Also check whether exports of the VMs could be drilled there.",
        ),
    ] = None,
    vsphere_block: VSphere = None,
    email_password: EmailPassword = None,
) -> Check:
    """Check what an export with these options needs, and report what would fail; nothing is changed."""
    return given.command(
        Check,
        selection=given.take_selection(),
        restore=restore,
        drill=DrillTarget(drill) if drill else None,
        vsphere=vsphere_block,
        email_password=SecretStr(email_password) if email_password else None,
    )


LINE = CommandLine(arguments, vm_options)


def _show(report: "SetupReport", output: Output) -> None:
    output.answer(
        "checks",
        pretty=lambda console: show(console, report),
        quiet=lambda: pair_lines(report),
        document={"summary": report.summary, **report.model_dump(mode="json")},
    )
