"""``hyperexport --incremental-info``: what an incremental export would transfer, and why."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperexport.cli.command import VmCommand, each_vm
from hyperexport.cli.execution import ask_for_password, direct_runner, options_in_force, uses_prefect
from hyperexport.cli.failures import Failure
from hyperexport.cli.output import Output, pair_lines, show
from hyperexport.cli.profiles import save_given

if TYPE_CHECKING:
    from hyperexport.policy.export_plan import ExportPlan
    from hyperexport.steps.selection import Chosen


@dataclass(frozen=True, kw_only=True)
class IncrementalInfo(VmCommand):
    """Plan incremental exports.

    Args:
        save_profile: Save the options under this name first.
    """

    save_profile: str | None = None

    def run(self, output: Output) -> list[Failure]:
        """Show the plan of each VM; one's failure does not stop the next."""
        save_given(self, self.save_profile, output)
        ask_for_password(self)

        def analyse(vm: str) -> None:
            plan = self._plan(vm)
            sums = {name: getattr(plan, name) for name in ("transfer_bytes", "saved_bytes", "saved_percent")}
            output.answer(
                "plans",
                pretty=lambda console: show(console, plan),
                quiet=lambda: pair_lines(plan),
                document={**plan.model_dump(mode="json"), **sums},
            )

        output.nothing("plans")
        return each_vm(self._names(), analyse, debug=self.debug)

    def _names(self) -> tuple[str, ...]:
        """Every VM that is named, or chosen by a folder, tag or pattern."""
        if not self.selection.filters:
            return self.vms
        rows, missing = self._choose()
        return (*missing, *(row.ref.path for row in rows))

    def _choose(self) -> "Chosen":
        from hyperexport.jobs.direct import DirectRunner
        from hyperexport.jobs.vm_info import choose

        if self.vsphere and uses_prefect(self):
            from hyperexport.tasks.runner import block_of

            return choose(DirectRunner(vsphere=block_of(self.vsphere).get_endpoint()), self.selection)
        return choose(direct_runner(self), self.selection)

    def _plan(self, vm: str) -> "ExportPlan":
        if uses_prefect(self):
            from hyperexport.flows import incremental_info

            return incremental_info(vm, self.options, vsphere=self.vsphere, profile=self.profile)
        from hyperexport.jobs.incremental_info import incremental_info, only_looking

        return incremental_info(direct_runner(self), vm, options_in_force(self, only_looking(self.options)))
