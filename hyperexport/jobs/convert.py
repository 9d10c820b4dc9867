"""The job that converts a stored export to disk images or to a self-contained package."""

from collections.abc import Sequence
from pathlib import Path

from hyperexport.convert.values import Conversion, Target
from hyperexport.jobs.runner import StepRunner
from hyperexport.model.restore_point import RestorePoint
from hyperexport.options.precedence import ExportOptions
from hyperexport.steps import conversion
from hyperexport.steps.choosing import choose_export
from hyperexport.steps.stores import open_stores


def convert_export(
    run: StepRunner,
    wanted: RestorePoint,
    options: ExportOptions,
    *,
    to: Target,
    into: Path,
    disks: Sequence[int] = (),
    libvirt: bool = False,
) -> Conversion:
    """Convert an export to disk images, or to a self-contained OVF package or OVA. The export is not changed.

    Args:
        run: Carries out the steps.
        wanted: Which export.
        options: Where the exports are, and whether it is a dry run.
        to: The format.
        into: The folder for the files; created if it does not exist.
        disks: Only the disks with these numbers, from 0 in the VM's order; all if empty.
        libvirt: Also write a libvirt domain definition.

    Raises:
        ExportNotFound: There is no such export.
        UsageError, TargetExists, DiskFull, ToolMissing: It cannot be done; nothing was written.
        VerificationFailed: The export is damaged; nothing that was written stays.
        ConversionFailed, StoreUnusable, StoreUnreachable: As their names say; nothing stays either.
    """
    run.check_options(options)
    place = options.destination
    with run.stop_signal() as stop, run.bandwidth(options.bandwidth) as throttle:
        stores = open_stores(place, throttle=throttle, stop=stop, s3=run.s3_settings(place))
        store, export = choose_export(stores, export=wanted.export, vm=wanted.vm, at=wanted.at)
        with run.progress(export.manifest.vm):
            result = run(
                conversion.convert,
                store,
                export,
                to,
                into,
                disks=tuple(disks),
                stop=stop,
                libvirt=libvirt,
                dry_run=options.execution.dry_run,
            )

    run.show_result(("conversion", export.manifest.vm.name), result, f"Conversion of {export}")
    return result
