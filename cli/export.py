"""``hyperexport --vm``: export one VM, or several as a fleet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperexport.cli.cleanup import answer_cleanup, show_cleanup
from hyperexport.cli.command import VmCommand, each_vm
from hyperexport.cli.execution import ask_for_password, direct_runner, options_in_force, uses_prefect
from hyperexport.cli.failures import FailedMember, Failure
from hyperexport.cli.output import Output, key_value, numbered, show
from hyperexport.cli.profiles import save_given
from hyperexport.errors import FleetFailure

if TYPE_CHECKING:
    from rich.console import Console

    from hyperexport.model.vm import VmRef
    from hyperexport.results import ExportResult, FleetMember, FleetOutcome, FleetResult


@dataclass(frozen=True, kw_only=True)
class Export(VmCommand):
    """Export VMs.

    Args:
        save_profile: Save the options under this name first.
    """

    save_profile: str | None = None

    def run(self, output: Output) -> list[Failure]:
        """Export, and show what was done."""
        save_given(self, self.save_profile)
        ask_for_password(self)
        output.nothing("exports")
        if self.selection.one is None or self.options.fleet.spread:
            return self._run_fleet(output)

        def export(vm: str) -> None:
            with output.progress():
                result = self._export_vm(vm)
            output.answer(
                "exports",
                pretty=lambda console: show_export(console, result),
                quiet=export_lines(result),
                document=result.model_dump(mode="json"),
            )

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
                pretty=lambda console, done=done: show_export(console, done) if done.dry_run else None,
                quiet=export_lines(done),
                document=done.model_dump(mode="json"),
            )
        elif not member.failed:
            output.answer("skipped", pretty=lambda _: None, quiet=member_lines(member), document=member.vm.path)
    for cleanup in result.cleanups:
        answer_cleanup(cleanup, output)
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


def show_export(console: "Console", result: "ExportResult") -> None:
    """Show what an export did, or in a dry run would do; cleanups as the cleanup command shows them."""
    show(console, result.model_copy(update={"cleanups": ()}))
    for cleanup in result.cleanups:
        show_cleanup(console, cleanup)


def export_lines(result: "ExportResult") -> list[str]:
    """What an export did, or in a dry run would do."""
    from hyperexport.results import FleetOutcome

    manifest, plan = result.manifest, result.plan
    if result.recent:
        return _lines_of_nothing_done(plan.vm, FleetOutcome.SKIPPED, f"{result.recent} is young enough")
    removed = manifest is not None and manifest.snapshot is not None and not result.snapshot_kept
    return [
        key_value("vm", plan.vm.name),
        key_value("path", plan.vm.path),
        key_value("dry_run", result.dry_run),
        key_value("export_id", manifest.export_id if manifest else ""),
        key_value("kind", plan.kind),
        key_value("reason", plan.reason),
        *numbered("location", result.locations),
        key_value("bytes_transferred", manifest.transfer.bytes_transferred if manifest else plan.transfer_bytes),
        key_value("bytes_saved", manifest.transfer.bytes_reused if manifest else plan.saved_bytes),
        key_value("seconds", f"{result.seconds:.1f}"),
        key_value("verified", "" if result.verified is None else result.verified),
        key_value("snapshot_removed", removed),
        *numbered("snapshot_made", filter(None, [result.snapshots.make])),
        *numbered("snapshot_abandoned", (one.name for one in result.snapshots.abandoned)),
        *numbered("snapshot_given_up", (one.name for one in result.snapshots.removed)),
        *numbered("change_tracking", filter(None, [result.tracking.words])),
        key_value("warnings", len(result.warnings)),
        key_value("bytes_stored", manifest.stored_bytes if manifest else ""),
        *numbered("shares_with", manifest.shares_with if manifest else ()),
    ]


def member_lines(member: "FleetMember") -> list[str]:
    """A VM of a fleet that there was nothing to do for."""
    return _lines_of_nothing_done(member.vm, member.outcome, member.message)


def _lines_of_nothing_done(vm: "VmRef", outcome: "FleetOutcome", message: str) -> list[str]:
    return [
        key_value("vm", vm.name),
        key_value("path", vm.path),
        key_value("outcome", outcome),
        key_value("message", message),
    ]
