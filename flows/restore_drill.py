"""The flow that boots exports and records what that proves."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Unpack

from pydantic import Field

from hyperexport.base.display import Listing
from hyperexport.flows.job_flow import job_flow
from hyperexport.flows.runtime import OPTIONS, Profile, VSphere, options_in_force, runner_for
from hyperexport.jobs import drill
from hyperexport.model.drill import DrillPlace, DrillPlan, DrillTarget
from hyperexport.model.restore_point import RestorePoint
from hyperexport.options.form import Shown
from hyperexport.options.keywords import OptionKeywords
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import DrillResult


def _describe(parameters: Mapping[str, Any]) -> str:
    return f"drill {parameters['export'] or parameters['vm'] or 'the oldest proofs'}"


_WHERE_IT_WAS: Final = DrillPlace()


@job_flow("restore-drill", _describe)
def restore_drill(
    export: str = "",
    vm: str = "",
    at: datetime | None = None,
    *,
    within_days: Annotated[float, Field(gt=0)] | None = None,
    most: Annotated[int, Field(ge=1)] | None = None,
    target: DrillTarget = DrillTarget.QEMU,
    place: Annotated[DrillPlace, Field(title="Place in vSphere")] = _WHERE_IT_WAS,
    expect: str = "",
    timeout_minutes: Annotated[float, Field(gt=0)] = 10,
    memory_mib: Annotated[int, Field(ge=16)] | None = None,
    emulate: bool = False,
    options: Annotated[ExportOptions, Shown("destination", "bandwidth", "execution", "email")] = OPTIONS,
    vsphere: VSphere = None,
    profile: Profile = None,
    **_: Unpack[OptionKeywords],
) -> Listing[DrillResult]:
    """Boot exports, and record beside each what that proved.

    On QEMU they boot straight from their store, where the flow runs. In vSphere each is restored under another name,
    with no connected network adapter, powered on, watched, and destroyed. No export and no other VM is touched.

    Args:
        export: The export's id, as hyperexport list shows it. Empty where vm names it, or the oldest proofs are taken.
        vm: In place of the id: the newest good export of this VM.
        at: With vm: the newest good export begun at this time or before.
        within_days: Where no export is named: the VMs without a proof that is younger.
        most: Where no export is named: so many VMs at the most, those whose proof is oldest.
        target: Where they are started.
        place: In vSphere: where the VM is made; what is empty is where the exported VM was.
        expect: On QEMU: only this text counts, on the serial console or the screen. Any sign of life if empty.
        timeout_minutes: How long to wait for a sign of life.
        memory_mib: MiB of memory, if not as much as the VM had.
        emulate: On QEMU: emulate the processor even where KVM is.
        options: Where the exports are. With dry_run only what would be started is shown.
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.
        profile: A saved export profile, or its name.

    Returns:
        The result of each drill.

    Raises:
        ExportNotFound: There is no such export.
        UsageError, ToolMissing: It cannot be done; nothing was.
        DrillFailed: At least one did not come up; all were tried first.
    """
    plan = DrillPlan.of(
        wanted=RestorePoint(export=export or None, vm=vm or None, at=at) if export or vm or at else None,
        within=None if within_days is None else timedelta(days=within_days),
        most=most,
        target=target,
        place=place,
        expect=expect or None,
        timeout=timedelta(minutes=timeout_minutes),
        memory_mib=memory_mib,
        emulate=emulate,
    )
    return drill.restore_drill(runner_for(vsphere), plan, options_in_force(options, profile))
