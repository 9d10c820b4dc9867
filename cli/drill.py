"""``hyperexport drill``: boot exports on QEMU or in vSphere, and record that they do."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from hyperexport.cli.command import Command
from hyperexport.cli.execution import ask_for_password, direct_runner, options_in_force, uses_prefect
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import (
    WHAT,
    CommandLine,
    Given,
    VSphere,
    drill_options,
    read_duration,
    restore_point,
)
from hyperexport.cli.output import Output, OutputFormat, say
from hyperexport.errors import DrillFailed
from hyperexport.model.drill import DrillPlan, DrillTarget

if TYPE_CHECKING:
    from hyperexport.results import DrillResult


Targets = Literal["qemu", "vsphere"]


@dataclass(frozen=True, kw_only=True)
class Drill(Command):
    """Boot exports.

    Args:
        plan: What is drilled, where, and what counts as life.
    """

    plan: DrillPlan

    def run(self, output: Output) -> list[Failure]:
        """Boot them one after the other, and show every one, also where some did not come up.

        Raises:
            DrillFailed: Some did not come up.
        """
        import hyperexport.views.drills  # noqa: F401  # pyright: ignore[reportUnusedImport] - registers the page

        if self.plan.target is DrillTarget.VSPHERE:
            ask_for_password(self)
        output.nothing("drills")
        try:
            with output.progress():
                drilled = self._drill()
        except DrillFailed as error:
            _show(error.drills, output)
            raise
        _show(drilled, output)
        if not drilled and output.output_format is OutputFormat.PRETTY:
            output.draw(lambda console: say(console, "Every VM has passed a drill in that time."))
        return []

    def _drill(self) -> "Sequence[DrillResult]":
        plan = self.plan
        if uses_prefect(self):
            from hyperexport import flows

            wanted = plan.wanted
            return flows.restore_drill(
                (wanted and wanted.export) or "",
                (wanted and wanted.vm) or "",
                wanted and wanted.at,
                within_days=None if plan.within is None else plan.within / timedelta(days=1),
                most=plan.most,
                target=plan.target,
                place=plan.place,
                expect=plan.expect or "",
                timeout_minutes=plan.timeout / timedelta(minutes=1),
                memory_mib=plan.memory_mib,
                emulate=plan.emulate,
                options=self.options,
                vsphere=self.vsphere,
                profile=self.profile,
            )
        from hyperexport.jobs.drill import restore_drill

        return restore_drill(direct_runner(self), plan, options_in_force(self))


def _place(metavar: str, what: str) -> Parameter:
    return Parameter(group=WHAT, metavar=metavar, help=f"In vSphere: the {what}. [default: where the VM was]")


def arguments(
    given: Given,
    export: Annotated[
        str | None, Parameter(name="EXPORT", help="An export's id or path, as hyperexport list shows it.")
    ] = None,
    /,
    *,
    vm: Annotated[
        str | None,
        Parameter(
            name="--vm", group=WHAT, metavar="NAME", help="The newest good export of this VM, in place of EXPORT."
        ),
    ] = None,
    at: Annotated[
        str | None,
        Parameter(name="--at", group=WHAT, metavar="TIME", help="With --vm: the newest good export begun by then."),
    ] = None,
    within: Annotated[
        str | None,
        Parameter(group=WHAT, metavar="DURATION", help="VMs without a passed drill in this time, such as 30d."),
    ] = None,
    max: Annotated[  # noqa: A002 - it is the flag's name
        int | None, Parameter(group=WHAT, metavar="N", help="At most N VMs, those with the oldest passed drill.")
    ] = None,
    target: Annotated[
        Targets,
        Parameter(group=WHAT, metavar="qemu|vsphere", show_choices=False, help="Where the exports are started."),
    ] = "qemu",
    folder: Annotated[str | None, _place("PATH", "VM folder")] = None,
    resource_pool: Annotated[str | None, _place("PATH", "resource pool, cluster or host")] = None,
    host: Annotated[str | None, _place("NAME", "ESXi host")] = None,
    datastore: Annotated[str | None, _place("NAME", "datastore")] = None,
    expect: Annotated[
        str | None,
        Parameter(
            group=WHAT, metavar="TEXT", help="On QEMU: only this text on the serial console or the screen counts."
        ),
    ] = None,
    timeout: Annotated[
        str, Parameter(group=WHAT, metavar="DURATION", help="How long to wait for a sign of life.")
    ] = "10m",
    memory: Annotated[
        int | None, Parameter(group=WHAT, metavar="MB", help="Memory of the machine (default: as much as the VM had).")
    ] = None,
    emulate: Annotated[
        bool, Parameter(group=WHAT, negative=(), help="On QEMU: emulate the processor, even where KVM is available.")
    ] = False,
    vsphere_block: VSphere = None,
) -> Drill:
    """Boot exports, and record beside each whether the guest came up.

    On QEMU they boot straight from their store. With --target vsphere each is restored under another name, with no
    connected network adapter, powered on, watched, and destroyed. No export and no other VM is touched.
    """
    wanted = None
    if export or vm or at:
        wanted = restore_point(export, vm, at)
    plan: dict[str, Any] = {
        "wanted": wanted,
        "within": None if within is None else read_duration("--within", within),
        "most": max,
        "target": target,
        "place": {"folder": folder, "resource_pool": resource_pool, "host": host, "datastore": datastore},
        "expect": expect,
        "timeout": read_duration("--timeout", timeout),
        "memory_mib": memory,
        "emulate": emulate,
    }
    return given.command(Drill, plan=DrillPlan.of(**plan), vsphere=vsphere_block)


LINE = CommandLine(arguments, drill_options)


def _show(drills: "Sequence[DrillResult]", output: Output) -> None:
    for drill in drills:
        output.result("drills", drill)
