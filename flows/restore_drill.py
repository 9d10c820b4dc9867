"""The flow that boots exports and records what that proves."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Unpack

from pydantic import Field

from hyperexport.base.display import Listing
from hyperexport.flows.job_flow import job_flow
from hyperexport.flows.runtime import OPTIONS, Profile, options_in_force, runner_for
from hyperexport.jobs import drill
from hyperexport.model.restore_point import RestorePoint
from hyperexport.options.form import Shown
from hyperexport.options.keywords import OptionKeywords
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import DrillResult


def _describe(parameters: Mapping[str, Any]) -> str:
    return f"drill {parameters['export'] or parameters['vm'] or 'the oldest proofs'}"


@job_flow("restore-drill", _describe)
def restore_drill(
    export: str = "",
    vm: str = "",
    at: datetime | None = None,
    *,
    within_days: Annotated[float, Field(gt=0)] | None = None,
    most: Annotated[int, Field(ge=1)] | None = None,
    expect: str = "",
    timeout_minutes: Annotated[float, Field(gt=0)] = 10,
    memory_mib: Annotated[int, Field(ge=16)] | None = None,
    emulate: bool = False,
    profile: Profile = None,
    options: Annotated[ExportOptions, Shown("destination", "bandwidth", "execution")] = OPTIONS,
    **_: Unpack[OptionKeywords],
) -> Listing[DrillResult]:
    """Boot exports on QEMU straight from their store, and record beside each what that proved.

    Nothing is written to an export, and the machines have no network. Needs QEMU where the flow runs.

    Args:
        export: The export's id, as hyperexport list shows it. Empty where vm names it, or the oldest proofs are taken.
        vm: In place of the id: the newest good export of this VM.
        at: With vm: the newest good export begun at this time or before.
        within_days: Where no export is named: the VMs without a proof that is younger.
        most: Where no export is named: so many VMs at the most, those whose proof is oldest.
        expect: Only this text counts, on the serial console or the screen. Any sign of life if empty.
        timeout_minutes: How long to wait for a sign of life.
        memory_mib: MiB of memory, if not as much as the VM had.
        emulate: Emulate the processor even where KVM is.
        profile: A saved export profile, or its name.
        options: Where the exports are. With dry_run only what would be started is shown.

    Returns:
        The result of each drill.

    Raises:
        ExportNotFound: There is no such export.
        UsageError, ToolMissing: It cannot be done; nothing was.
        DrillFailed: At least one did not come up; all were tried first.
    """
    plan = drill.DrillPlan.of(
        wanted=RestorePoint(export=export or None, vm=vm or None, at=at) if export or vm or at else None,
        within=None if within_days is None else timedelta(days=within_days),
        most=most,
        expect=expect or None,
        timeout=timedelta(minutes=timeout_minutes),
        memory_mib=memory_mib,
        emulate=emulate,
    )
    return drill.restore_drill(runner_for(), plan, options_in_force(options, profile))
