"""``hyperexport drill``: boot exports, and record that they do."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from hyperexport.base.units import format_elapsed
from hyperexport.cli.command import Command
from hyperexport.cli.execution import direct_runner, options_in_force, uses_prefect
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import (
    WHAT,
    CommandLine,
    Given,
    dry_run_option,
    read_duration,
    reading_options,
    restore_point,
)
from hyperexport.cli.output import Output, OutputFormat, key_value, numbered, say
from hyperexport.errors import DrillFailed

if TYPE_CHECKING:
    from hyperexport.results import DrillResult


@dataclass(frozen=True, kw_only=True)
class Drill(Command):
    """Boot exports.

    Args:
        plan: What ``hyperexport.jobs.drill.DrillPlan.of`` takes.
    """

    plan: dict[str, Any]

    def run(self, output: Output) -> list[Failure]:
        """Boot them one after the other, and show every one, also where some did not come up.

        Raises:
            DrillFailed: Some did not come up.
        """
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
        from hyperexport.jobs.drill import DrillPlan, restore_drill

        plan = DrillPlan.of(**self.plan)
        if uses_prefect(self):
            from hyperexport import flows

            wanted = plan.wanted
            return flows.restore_drill(
                (wanted and wanted.export) or "",
                (wanted and wanted.vm) or "",
                wanted and wanted.at,
                within_days=None if plan.within is None else plan.within / timedelta(days=1),
                most=plan.most,
                expect=plan.expect or "",
                timeout_minutes=plan.timeout / timedelta(minutes=1),
                memory_mib=plan.memory_mib,
                emulate=plan.emulate,
                options=self.options,
                profile=self.profile,
            )
        return restore_drill(direct_runner(self), plan, options_in_force(self))


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
    expect: Annotated[
        str | None,
        Parameter(group=WHAT, metavar="TEXT", help="Only this text on the serial console or the screen counts."),
    ] = None,
    timeout: Annotated[
        str, Parameter(group=WHAT, metavar="DURATION", help="How long to wait for a sign of life.")
    ] = "10m",
    memory: Annotated[
        int | None, Parameter(group=WHAT, metavar="MB", help="Memory of the machine (default: as much as the VM had).")
    ] = None,
    emulate: Annotated[
        bool, Parameter(group=WHAT, negative=(), help="Emulate the processor, even where KVM is available.")
    ] = False,
) -> Drill:
    """Boot exports on QEMU straight from their store, and record beside each whether the guest came up.

    The guest has the controllers that it had on vSphere and no network; what it writes is dropped.
    """
    wanted = None
    if export or vm or at:
        wanted = restore_point(export, vm, at)
    plan: dict[str, Any] = {
        "wanted": wanted,
        "within": None if within is None else read_duration("--within", within),
        "most": max,
        "expect": expect,
        "timeout": read_duration("--timeout", timeout),
        "memory_mib": memory,
        "emulate": emulate,
    }
    return given.command(Drill, plan=plan)


LINE = CommandLine(arguments, lambda: (*reading_options(), *dry_run_option()))


def _show(drills: "Sequence[DrillResult]", output: Output) -> None:
    for drill in drills:
        output.answer(
            "drills",
            pretty=lambda console, drill=drill: _pretty(console, drill),
            quiet=_lines(drill),
            document=drill.model_dump(mode="json"),
        )


def _pretty(console: Console, drill: "DrillResult") -> None:
    record = drill.record
    took = f" ({format_elapsed(sum(record.seconds.values()))} on {record.platform})" if record else ""
    say(console, f"{drill.location}: {drill.words}{took}")
    for warning in record.warnings if record else ():
        say(console, f"  Note: {warning}")
    if record and not record.passed and record.console.strip():
        say(console, "  The end of its console:")
        for line in record.console.strip().splitlines()[-5:]:
            say(console, f"    {line}")
    if drill.unrecorded:
        say(console, f"  not recorded beside the export: {drill.unrecorded}")


def _lines(drill: "DrillResult") -> list[str]:
    record = drill.record
    return [
        key_value("location", drill.location),
        key_value("vm", drill.vm.name),
        key_value("passed", "" if record is None else record.passed),
        key_value("reason", drill.words),
        *([key_value("sign", record.sign), key_value("drill", record.drill_id)] if record else []),
        *numbered("warning", record.warnings if record else ()),
        *numbered("unrecorded", filter(None, [drill.unrecorded])),
    ]
