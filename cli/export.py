"""``hyperexport --vm``: export one VM, or several as a fleet."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hyperexport.cli.command import VmCommand, each_vm
from hyperexport.cli.execution import ask_for_password, direct_runner, options_in_force, uses_prefect
from hyperexport.cli.failures import FailedMember, Failure
from hyperexport.cli.output import Output, pair_lines, show
from hyperexport.cli.profiles import save_given
from hyperexport.errors import FleetFailure

if TYPE_CHECKING:
    from hyperexport.results import ExportResult, FleetMember, FleetResult


@dataclass(frozen=True, kw_only=True)
class Export(VmCommand):
    """Export VMs.

    Args:
        save_profile: Save the options under this name first.
    """

    save_profile: str | None = None

    def run(self, output: Output) -> list[Failure]:
        """Export, and show what was done."""
        save_given(self, self.save_profile, output)
        ask_for_password(self)
        output.nothing("exports")
        if self.selection.one is None or self.options.fleet.spread:
            return self._run_fleet(output)

        def export(vm: str) -> None:
            with output.progress():
                result = self._export_vm(vm)
            output.result("exports", result)

        return each_vm(self.vms, export, debug=self.debug)

    def _run_fleet(self, output: Output) -> list[Failure]:
        """Export the VMs that are chosen, then show each, and which failed."""
        from hyperexport.results import FleetResult

        try:
            with output.progress():
                result = self._export_fleet()
        except FleetFailure as error:
            if not isinstance(error.fleet, FleetResult):
                raise
            _answer_fleet(error.fleet, output)
            return _failures(error, error.fleet, debug=self.debug)
        _answer_fleet(result, output)
        return []

    def _export_vm(self, vm: str) -> "ExportResult":
        if uses_prefect(self):
            from hyperexport.flows import export_vm
            from hyperexport.workarounds.flow_calls import tolerate_server_outage

            return tolerate_server_outage(export_vm)(vm, self.options, vsphere=self.vsphere, profile=self.profile)
        from hyperexport.jobs.export import export_vm

        return export_vm(direct_runner(self), vm, options_in_force(self))

    def _export_fleet(self) -> "FleetResult":
        if uses_prefect(self):
            from hyperexport.flows import export_fleet
            from hyperexport.workarounds.flow_calls import tolerate_server_outage

            return tolerate_server_outage(export_fleet)(
                self.selection, self.options, vsphere=self.vsphere, profile=self.profile
            )
        from hyperexport.jobs.fleet import directly, export_fleet

        run = direct_runner(self)

        def redo(failed: "Sequence[FleetMember]") -> str:
            from hyperexport.views.fleet import redo_command

            return redo_command(failed, self.options, profile=self.profile)

        options = options_in_force(self)
        return export_fleet(run, self.selection, options, export_one=directly(run), redo=redo)


def _answer_fleet(result: "FleetResult", output: Output) -> None:
    for member in result.members:
        if member.result is not None:
            done = member.result
            output.answer(
                "exports",
                pretty=lambda console, done=done: show(console, done) if done.dry_run else None,
                quiet=partial(pair_lines, done),
                document=partial(done.model_dump, mode="json"),
            )
        elif not member.failed:
            output.answer("skipped", pretty=lambda _: None, quiet=partial(pair_lines, member), document=member.vm.path)
    for cleanup in result.cleanups:
        output.result("cleanups", cleanup)
    output.answer(
        "fleet",
        pretty=lambda console: show(console, result.model_copy(update={"cleanups": ()})),  # shown above
        quiet=(),
        document={"summary": result.summary, "redo": result.redo, "members": [one.row() for one in result.members]},
    )


def _failures(error: FleetFailure, result: "FleetResult", *, debug: bool) -> list[Failure]:
    failures: list[Failure] = [
        FailedMember(error, member.vm.path, member_code=member.code or "internal", member_message=member.message)
        for member in result.failed
    ]
    for failure in failures:
        failure.report(debug=False)
    if debug:
        Failure(error).report(debug=True)
    return failures
