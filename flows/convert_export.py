"""The flow that converts a stored export to disk images or to a self-contained package."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Unpack

from hyperexport.convert.values import Conversion, Target
from hyperexport.flows.job_flow import job_flow
from hyperexport.flows.runtime import OPTIONS, Profile, options_in_force, runner_for
from hyperexport.jobs import convert
from hyperexport.model.restore_point import RestorePoint
from hyperexport.options.form import Shown
from hyperexport.options.keywords import OptionKeywords
from hyperexport.options.precedence import ExportOptions


@job_flow("convert-export", "convert {export}{vm} to {to}".format_map)
def convert_export(
    export: str = "",
    vm: str = "",
    at: datetime | None = None,
    *,
    to: Target = Target.RAW,
    into: Path,
    disks: list[int] | None = None,
    libvirt: bool = False,
    options: Annotated[ExportOptions, Shown("destination", "bandwidth", "execution")] = OPTIONS,
    profile: Profile = None,
    **_: Unpack[OptionKeywords],
) -> Conversion:
    """Convert an export to disk images, or to a self-contained OVF package or OVA. The export is not changed.

    Args:
        export: The export's id, as hyperexport list shows it. Empty where vm names it.
        vm: In place of the id: the newest good export of this VM.
        at: With vm: the newest good export begun at this time or before.
        to: raw, qcow2, vhdx and vmdk make one image for each disk; ovf and ova a self-contained package.
        into: The folder for the files, on the worker; created if it does not exist.
        disks: Only the disks with these numbers, from 0. All if empty.
        libvirt: Also write a libvirt domain definition; with raw, qcow2 or vmdk.
        options: Where the exports are. With dry_run everything is checked and nothing is written.
        profile: A saved export profile, or its name.

    Returns:
        The files that were written, or in a dry run would be.

    Raises:
        ExportNotFound: There is no such export.
        UsageError, TargetExists, DiskFull, ToolMissing: It cannot be done; nothing was written.
        VerificationFailed, ConversionFailed: The export is damaged, or could not be written; nothing stays.
    """
    wanted = RestorePoint(export=export or None, vm=vm or None, at=at)
    return convert.convert_export(
        runner_for(),
        wanted,
        options_in_force(options, profile),
        to=to,
        into=into,
        disks=disks or (),
        libvirt=libvirt,
    )
